#!/usr/bin/env python3
"""Lists what a program that embeds sftmix can name: every public item, field, variant and method with its signature.

    scripts/public-api.py            compares with docs/public-api.txt and fails where they differ
    scripts/public-api.py --write    writes it

The list is made of rustdoc's JSON, so that what is hidden or private is not in it. The JSON is not a stable format: what
this script does not know, it prints as `…`.
"""
import difflib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIST = ROOT / "docs/public-api.txt"


def documented():
    """rustdoc's JSON of the crate."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    command = ["cargo", "rustdoc", "--release", "--locked", "--lib", "--quiet", "--", "-Z", "unstable-options",
               "--output-format", "json", "--cap-lints", "allow"]
    with tempfile.TemporaryDirectory() as folder:
        # The stable compiler writes JSON too when it is told that it may. Only rustdoc is told: build scripts of
        # dependencies ask for the variable, and would build everything anew.
        told = pathlib.Path(folder) / "rustdoc"
        told.write_text(f'#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec "{os.environ.get("RUSTDOC", "rustdoc")}" "$@"\n')
        told.chmod(0o755)
        subprocess.run(command, cwd=ROOT, env={**os.environ, "RUSTDOC": str(told)}, check=True)
    return json.loads((target / "doc/sftmix.json").read_text())


def kind(node):
    """The name of the one variant of a tagged value, and what it holds."""
    if isinstance(node, str):
        return node, {}
    return next(iter(node.items()))


class Printer:
    """Types and signatures as text."""

    def __init__(self, crate):
        self.index, self.paths = crate["index"], crate["paths"]

    def args(self, args):
        if not args:
            return ""
        name, held = kind(args)
        if name == "parenthesized":
            output = f" -> {self.type(held['output'])}" if held.get("output") else ""
            return f"({', '.join(map(self.type, held['inputs']))}){output}"
        out = []
        for arg in held.get("args", []):
            what, value = kind(arg)
            out.append({"type": self.type, "lifetime": str}.get(what, lambda _: "…")(value))
        for bound in held.get("constraints", []):
            what, value = kind(bound["binding"])
            if what == "equality":
                term = value.get("type")
                out.append(f"{bound['name']} = {self.type(term) if term else '…'}")
        return f"<{', '.join(out)}>" if out else ""

    def path(self, p):
        return p.get("path", p.get("name", "…")).split("::")[-1] + self.args(p.get("args"))

    def bound(self, b):
        what, held = kind(b)
        if what == "trait_bound":
            return self.path(held["trait"])
        return str(held) if what == "outlives" else "…"

    def type(self, t):
        what, held = kind(t)
        if what == "resolved_path":
            return self.path(held)
        if what in ("primitive", "generic"):
            return held
        if what == "tuple":
            return f"({', '.join(map(self.type, held))})"
        if what == "slice":
            return f"[{self.type(held)}]"
        if what == "array":
            return f"[{self.type(held['type'])}; {held['len']}]"
        if what == "borrowed_ref":
            life = f"{held['lifetime']} " if held.get("lifetime") else ""
            mutable = held.get("is_mutable", held.get("mutable"))
            return f"&{life}{'mut ' if mutable else ''}{self.type(held['type'])}"
        if what == "impl_trait":
            return "impl " + " + ".join(map(self.bound, held))
        if what == "dyn_trait":
            return "dyn " + " + ".join(self.path(t["trait"]) for t in held["traits"])
        if what == "qualified_path":
            return f"<{self.type(held['self_type'])} as {self.path(held['trait'])}>::{held['name']}" \
                if held.get("trait") else held["name"]
        if what == "function_pointer":
            sig = held["sig"]
            return f"fn({', '.join(self.type(t) for _, t in sig['inputs'])})" + self.output(sig)
        return "…"

    def output(self, sig):
        return f" -> {self.type(sig['output'])}" if sig.get("output") else ""

    def function(self, item):
        sig = item["inner"]["function"]["sig"]
        inputs = ", ".join(n if n == "self" and self.type(t) == "Self" else f"{n}: {self.type(t)}" for n, t in sig["inputs"])
        return f"fn {item['name']}({inputs}){self.output(sig)}"


def hidden(item):
    return any("doc(hidden)" in str(a).replace(" ", "") for a in item.get("attrs", [])) or item["visibility"] not in (
        "public", "default")


def items(crate):
    """Every public item as a line."""
    printer, index, lines, seen = Printer(crate), crate["index"], [], set()

    def methods(path, impls):
        for impl in (index[str(i)] for i in impls if str(i) in index):
            held = impl["inner"]["impl"]
            if held.get("is_synthetic") or held.get("blanket_impl") or held.get("synthetic"):
                continue
            if held.get("trait"):
                lines.append(f"impl {printer.path(held['trait'])} for {path}")
                continue
            for id in held["items"]:
                member = index.get(str(id))
                if member and not hidden(member):
                    what, _ = kind(member["inner"])
                    lines.append(f"{path}::{printer.function(member)}" if what == "function" else
                                 f"{path}::{what} {member['name']}")

    def visit(item, path):
        what, held = kind(item["inner"])
        if what == "use":
            target = index.get(str(held["id"])) if held.get("id") is not None else None
            if held.get("is_glob") and target:
                for id in target["inner"]["module"]["items"]:
                    member = index.get(str(id))
                    if member and not hidden(member):
                        visit(member, f"{path}::{member['name']}")
            elif target:
                visit(target, path)
            return
        if (path, what) in seen:
            return
        seen.add((path, what))
        more = " #[non_exhaustive]" if any("non_exhaustive" in str(a) for a in item.get("attrs", [])) else ""
        if what == "module":
            lines.append(f"mod {path}")
            for id in held["items"]:
                member = index.get(str(id))
                if member and not hidden(member):
                    name = member["name"] or kind(member["inner"])[1].get("name", "")
                    visit(member, f"{path}::{name}")
        elif what == "struct":
            lines.append(f"struct {path}{more}")
            shape, fields = kind(held["kind"])
            ids = fields.get("fields", []) if shape == "plain" else fields if shape == "tuple" else []
            for place, id in enumerate(ids):
                field = index.get(str(id)) if id is not None else None
                if field and not hidden(field):
                    lines.append(f"{path}::{field['name'] or place}: {printer.type(field['inner']['struct_field'])}")
            methods(path, held["impls"])
        elif what == "enum":
            lines.append(f"enum {path}{more}")
            for id in held["variants"]:
                variant = index[str(id)]
                shape, fields = kind(variant["inner"]["variant"]["kind"])
                ids = fields.get("fields", []) if shape == "struct" else fields if shape == "tuple" else []
                held_fields = [index[str(i)] for i in ids if i is not None]
                texts = [(f"{f['name']}: " if shape == "struct" else "") + printer.type(f["inner"]["struct_field"])
                         for f in held_fields]
                around = {"struct": " { %s }", "tuple": "(%s)"}.get(shape, "")
                lines.append(f"{path}::{variant['name']}" + (around % ", ".join(texts) if around else ""))
            methods(path, held["impls"])
        elif what == "function":
            lines.append(f"{path.rsplit('::', 1)[0]}::{printer.function(item)}")
        elif what == "type_alias":
            lines.append(f"type {path} = {printer.type(held['type'])}")
        else:
            lines.append(f"{what} {path}")

    visit(index[str(crate["root"])], "sftmix")
    return sorted(set(lines))


def main():
    text = "".join(f"{line}\n" for line in items(documented()))
    if "--write" in sys.argv[1:]:
        LIST.write_text(text)
        print(f"{LIST.relative_to(ROOT)}: {text.count(chr(10))} items")
        return
    have = LIST.read_text() if LIST.exists() else ""
    if have != text:
        sys.stdout.writelines(difflib.unified_diff(
            have.splitlines(True), text.splitlines(True), "docs/public-api.txt", "the library"))
        sys.exit("the public surface is another than docs/public-api.txt says: scripts/public-api.py --write, and say so "
                 "in CHANGELOG.md")
    print(f"{text.count(chr(10))} public items, as docs/public-api.txt lists them")


if __name__ == "__main__":
    main()
