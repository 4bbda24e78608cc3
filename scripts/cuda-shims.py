#!/usr/bin/env python3
"""Writes link libraries that stand in for the driver, cuBLAS, cuRAND and nvrtc.

    cuda-shims.py CUDARC_SOURCES TOOLKIT_LIB OUT
    cuda-shims.py --self-test

A program linked against the real shared libraries does not start where one of them is absent. One that is
linked against these starts everywhere: each function jumps through a table whose entries are looked up in
the real library at the first call. Where the library or the function is not there, the call returns an error
code: 34 (CUDA_ERROR_STUB_LIBRARY) from the driver, 1 (not initialised) from the others.

The runtime library (cudart) is NVIDIA's own static one, which looks the driver up in the same way.
x86-64 only.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

# Library, folder in cudarc's sources, names to try, what an absent function returns.
LIBRARIES = [
    ("cuda", "driver", ["libcuda.so.1"], 34),
    ("cublas", "cublas", ["libcublas.so.13"], 1),
    ("cublasLt", "cublaslt", ["libcublasLt.so.13"], 1),
    ("curand", "curand", ["libcurand.so.10"], 1),
    ("nvrtc", "nvrtc", ["libnvrtc.so.13"], 1),
]
# Where a toolkit is installed without being told to the loader.
ELSEWHERE = "/usr/local/cuda/lib64/"

RESOLVER = """
#include <dlfcn.h>
#include <pthread.h>

extern void *shim_{lib}_slots[];
static const char *const names[] = {{ {names} }};
static const char *const files[] = {{ {files} }};
static void *library;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static long absent(void) {{ return {code}; }}

static void open_library(void) {{
    for (unsigned i = 0; i < sizeof files / sizeof *files && !library; i++)
        library = dlopen(files[i], RTLD_NOW | RTLD_GLOBAL);
}}

/* Two threads may fill an entry at once: with the same address. */
__attribute__((visibility("hidden"))) void *shim_{lib}_resolve(unsigned long index) {{
    pthread_once(&once, open_library);
    void *found = library ? dlsym(library, names[index]) : 0;
    if (!found) found = (void *)absent;
    __atomic_store_n(&shim_{lib}_slots[index], found, __ATOMIC_RELEASE);
    return found;
}}
"""

# The first call of a function comes here with its index on the stack, above the return address: every
# register that may hold an argument is kept, for vector calls and variable arguments too. The ABI has the stack at a
# multiple of 16 where a function is called: 8 for the return address, 8 for the index, 208 here.
TRAMPOLINE = """
    .text
shim_{lib}_first:
    subq $208, %rsp
    movq %rdi, 0(%rsp)
    movq %rsi, 8(%rsp)
    movq %rdx, 16(%rsp)
    movq %rcx, 24(%rsp)
    movq %r8, 32(%rsp)
    movq %r9, 40(%rsp)
    movq %rax, 48(%rsp)
    {save}
    movq 208(%rsp), %rdi
    call shim_{lib}_resolve
    movq %rax, %r11
    {restore}
    movq 0(%rsp), %rdi
    movq 8(%rsp), %rsi
    movq 16(%rsp), %rdx
    movq 24(%rsp), %rcx
    movq 32(%rsp), %r8
    movq 40(%rsp), %r9
    movq 48(%rsp), %rax
    addq $216, %rsp
    jmp *%r11
"""


def assembly(lib, functions):
    save = "\n    ".join(f"movdqu %xmm{i}, {64 + 16 * i}(%rsp)" for i in range(8))
    restore = "\n    ".join(f"movdqu {64 + 16 * i}(%rsp), %xmm{i}" for i in range(8))
    lines = [TRAMPOLINE.format(lib=lib, save=save, restore=restore)]
    for i, name in enumerate(functions):
        lines += [
            f"    .globl {name}", f"    .type {name}, @function",
            f"{name}:", f"    jmp *shim_{lib}_slots+{8 * i}(%rip)",
            f"    .size {name}, .-{name}",
            f"shim_{lib}_first_{i}:", f"    pushq ${i}", f"    jmp shim_{lib}_first",
        ]
    lines += ["    .data", "    .balign 8", f"    .globl shim_{lib}_slots", f"    .hidden shim_{lib}_slots", f"shim_{lib}_slots:"]
    lines += [f"    .quad shim_{lib}_first_{i}" for i in range(len(functions))]
    return "\n".join(lines + ['    .section .note.GNU-stack,"",@progbits', ""])


def quoted(names):
    return ", ".join(f'"{name}"' for name in names)


def self_test():
    """Calls a made-up library through a stand-in: its code and its start need an aligned stack, and its function many
    arguments."""
    real = """
#include <xmmintrin.h>
static void __attribute__((noinline)) aligned(void) { volatile __m128 v = _mm_set1_ps(1.0f); (void)v; }
__attribute__((constructor)) static void start(void) { aligned(); }
long many(long a, long b, long c, long d, long e, long f, long g, double x, double y) {
    aligned();
    return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + (long)(8 * x + 9 * y);
}
"""
    caller = """
long many(long, long, long, long, long, long, long, double, double);
long lacks(void);
int main(void) {
    for (int i = 0; i < 2; i++)
        if (many(1, 2, 3, 4, 5, 6, 7, 8.0, 9.0) != 285 || lacks() != 7) return 1;
    return 0;
}
"""
    with tempfile.TemporaryDirectory() as folder:
        at = pathlib.Path(folder)
        (at / "real.c").write_text(real)
        (at / "main.c").write_text(caller)
        library = at / "libmade.so"
        names = ["lacks", "many"]
        (at / "made.c").write_text(RESOLVER.format(lib="made", names=quoted(names), files=quoted([str(library)]), code=7))
        (at / "made-calls.s").write_text(assembly("made", names))
        # Without a frame pointer nothing realigns the stack on the way.
        flags = ["-O2", "-fomit-frame-pointer", "-mno-red-zone"]
        subprocess.run(["gcc", *flags, "-shared", "-fPIC", str(at / "real.c"), "-o", str(library)], check=True)
        sources = [str(at / name) for name in ("main.c", "made.c", "made-calls.s")]
        subprocess.run(["gcc", *flags, "-fPIC", *sources, "-ldl", "-lpthread", "-o", str(at / "main")], check=True)
        subprocess.run([str(at / "main")], check=True)
        library.unlink()
        if subprocess.run([str(at / "main")]).returncode != 1:
            sys.exit("a library that is absent answered")
    print("self-test: a stand-in keeps arguments and the stack's alignment, and answers where there is no library")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    cudarc, toolkit, out = (pathlib.Path(arg) for arg in sys.argv[1:4])
    out.mkdir(parents=True, exist_ok=True)
    for lib, folder, files, code in LIBRARIES:
        source = "".join(p.read_text() for p in sorted((cudarc / "src" / folder / "sys").glob("*.rs")))
        # Declarations in `extern "C"` blocks end in a semicolon; the wrappers around them have a body.
        declared = re.findall(r'extern "C" \{\s*fn (\w+)\s*\([^{}]*?;\s*\}', source)
        functions = sorted(set(declared))
        if len(functions) < 5:
            sys.exit(f"{cudarc}: no functions of {lib} found in src/{folder}/sys")
        text = RESOLVER.format(
            lib=lib, names=quoted(functions), files=quoted(files + [ELSEWHERE + f for f in files]), code=code
        )
        (out / f"{lib}.c").write_text(text)
        (out / f"{lib}-calls.s").write_text(assembly(lib, functions))
        objects = []
        for part in (f"{lib}.c", f"{lib}-calls.s"):
            obj = out / (part.rsplit(".", 1)[0] + ".o")
            subprocess.run(["gcc", "-O2", "-fPIC", "-c", str(out / part), "-o", str(obj)], check=True)
            objects.append(str(obj))
        archive = out / f"lib{lib}.a"
        archive.unlink(missing_ok=True)
        subprocess.run(["ar", "rcs", str(archive), *objects], check=True)
        for part in [out / f"{lib}.c", out / f"{lib}-calls.s", *map(pathlib.Path, objects)]:
            part.unlink()
        print(f"        lib{lib}.a: {len(functions)} functions of {files[0]}")
    runtime = out / "libcudart.a"
    runtime.unlink(missing_ok=True)
    runtime.symlink_to((toolkit / "libcudart_static.a").resolve())


if __name__ == "__main__":
    main()
