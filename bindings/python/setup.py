"""Builds the native library and its generated module into the package. Needs Rust; the wheel needs nothing."""
import os
import pathlib
import shutil
import subprocess
import sys

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = pathlib.Path(__file__).resolve().parent
# In a source distribution the crates lie beside this file.
RUST = HERE / "rust" if (HERE / "rust").is_dir() else HERE.parent.parent
CRATES = ["Cargo.toml", "Cargo.lock", "README.md", "LICENSE-MIT", "LICENSE-APACHE", "src", "benches", "bindings/uniffi",
          "bindings/bindgen", "bindings/c"]
LIBRARY = {"darwin": "libsftmix_ffi.dylib", "win32": "sftmix_ffi.dll"}.get(sys.platform, "libsftmix_ffi.so")


def native(package):
    """The stripped library and `_core.py` in a package folder."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", RUST / "target")).resolve()
    cargo = os.environ.get("CARGO", "cargo")
    told = {**os.environ, "CARGO_TARGET_DIR": str(target), "CARGO_PROFILE_DEV_DEBUG": "0"}
    run = lambda *command: subprocess.run(command, cwd=RUST, env=told, check=True)
    run(cargo, "build", "--locked", "-p", "sftmix-bindgen")
    run(cargo, "build", "--locked", "--release", "-p", "sftmix-ffi")
    built = target / "release" / LIBRARY
    out = target / "python"
    run(str(target / "debug" / ("uniffi-bindgen" + (".exe" if sys.platform == "win32" else ""))), "generate", "--no-format",
        "--language", "python", "--out-dir", str(out), str(built))
    package.mkdir(parents=True, exist_ok=True)
    shutil.copy(out / "sftmix.py", package / "_core.py")
    shutil.copy(built, package / LIBRARY)
    if sys.platform.startswith("linux"):
        # What the generator has read is in the symbols.
        subprocess.run([os.environ.get("STRIP", "strip"), "--strip-unneeded", str(package / LIBRARY)], check=True)


class Build(build_py):
    def run(self):
        super().run()
        native(pathlib.Path(self.build_lib) / "sftmix")


class Wheel(bdist_wheel):
    """One wheel a platform, whatever the version of Python."""

    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class Source(sdist):
    """The package with the crates that it is built from."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        rust = pathlib.Path(base_dir) / "rust"
        ignore = shutil.ignore_patterns("target", "__pycache__", "tests")
        for name in CRATES:
            here, there = RUST / name, rust / name
            there.parent.mkdir(parents=True, exist_ok=True)
            if here.is_dir():
                shutil.copytree(here, there, ignore=ignore)
            elif here.exists():
                shutil.copy(here, there)


class Binary(Distribution):
    """The package belongs to a platform, though setuptools compiles nothing."""

    def has_ext_modules(self):
        return True


setup(distclass=Binary, cmdclass={"build_py": Build, "bdist_wheel": Wheel, "sdist": Source})
