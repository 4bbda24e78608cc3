#!/usr/bin/env python3
"""Holds the imports of src/ against the order of floors in src/FLOORS.

A file may import from its own room and from rooms on floors beneath. An import is a path that begins with
`crate::`, `super::` or `self::`, in a `use` or in the code; names that a module passes on (`pub use`) are followed
to the file that defines them. Fails, naming both files, where an import runs up, where files import each other in a
circle, where a room has no floor, and where a room below the doors imports the crate root's own names.

    scripts/floors.py [--counts]
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent / "src"
IDENT = r"[A-Za-z_]\w*"


def strip(text):
    """The code without comments and strings, newlines kept."""
    out, i = [], 0
    pattern = re.compile(
        r'//[^\n]*|/\*.*?\*/|r(#*)".*?"\1|"(?:\\.|[^"\\])*"|\'(?:\\.[^\']*|[^\\\'])\'', re.S)
    for m in pattern.finditer(text):
        out.append(text[i:m.start()])
        out.append(re.sub(r"[^\n]", " ", m.group(0)))
        i = m.end()
    return "".join(out) + text[i:]


def without_tests(code):
    """The code without what is compiled for tests alone."""
    out, i = [], 0
    for m in re.finditer(r"#\[cfg\((?:test|all\(test[^]]*)\)\]\s*(?:#\[[^]]*\]\s*)*", code):
        if m.start() < i:
            continue
        out.append(code[i:m.start()])
        end, depth = m.end(), 0
        while end < len(code):
            c = code[end]
            if c == ";" and depth == 0:
                end += 1
                break
            if c == "{":
                depth += 1
            if c == "}":
                depth -= 1
                if depth == 0:
                    end += 1
                    break
            end += 1
        i = end
    return "".join(out) + code[i:]


def leaves(tree):
    """The paths of a use tree, as lists of names, and the name each is used by; the last may be `*`."""
    tree = tree.strip()
    m = re.match(r"(.*?)\{(.*)\}\s*$", tree, re.S)
    if not m:
        alias = re.search(r"\s+as\s+(\w+)\s*$", tree)
        path = [p.strip() for p in re.sub(r"\s+as\s+\w+\s*$", "", tree).split("::")]
        return [(path, alias.group(1) if alias else path[-1])] if path != [""] else []
    head = [p.strip() for p in m.group(1).split("::") if p.strip()]
    parts, depth, current = [], 0, ""
    for c in m.group(2):
        depth += (c == "{") - (c == "}")
        if c == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += c
    parts.append(current)
    out = []
    for part in parts:
        for leaf, name in leaves(part):
            out.append((head, head[-1]) if leaf == ["self"] else (head + leaf, name))
    return out


class House:
    """The modules of a crate and what they import."""

    def __init__(self, root):
        self.root, self.files, self.code = root, {}, {}
        for path in sorted(root.rglob("*.rs")):
            name = path.relative_to(root).as_posix()
            if name.endswith("tests.rs") or name == "main.rs" or name.startswith("cli/"):
                continue
            module = name[:-3].split("/")
            if module[-1] in ("mod", "lib"):
                module.pop()
            self.files[tuple(module)] = name
            self.code[tuple(module)] = without_tests(strip(path.read_text()))
        self.passed = {m: self.passed_on(m) for m in self.files}

    def uses(self, module):
        """Every `use`: whether it is passed on, its paths, and the names they are used by."""
        for m in re.finditer(r"(?m)^\s*(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);", self.code[module]):
            for leaf, name in leaves(m.group(2)):
                yield m.group(1), self.absolute(module, leaf), name

    def absolute(self, module, path):
        """A path from the crate's root; None where it is of another crate."""
        here = list(module)
        if path[0] == "crate":
            return path[1:]
        if path[0] == "self":
            return here + path[1:]
        if path[0] == "super":
            while path and path[0] == "super":
                path, here = path[1:], here[:-1]
            return here + path
        return here + path if tuple(here + path[:1]) in self.files else None

    def passed_on(self, module):
        """The names that a module passes on, and where they come from."""
        out, alls = {}, []
        for public, path, name in self.uses(module):
            if public and path:
                if path[-1] == "*":
                    alls.append(path[:-1])
                else:
                    out[name] = path
        return out, alls

    def find(self, path, seen=()):
        """The file that a path leads to."""
        module = ()
        for i, name in enumerate(path):
            if tuple(path[: i + 1]) in self.files:
                module = tuple(path[: i + 1])
                continue
            passed, _ = self.passed.get(module, ({}, []))
            onward = passed.get(name)
            if onward and onward != path[: i + 1] and (module, name) not in seen:
                return self.find(onward + list(path[i + 1:]), (*seen, (module, name)))
            break
        return module

    def imports(self, module):
        """The modules whose files this one imports from."""
        found = {}
        for _, path, _ in self.uses(module):
            if path is not None:
                found.setdefault(self.find([p for p in path if p != "*"]), path)
        code = re.sub(r"(?m)^\s*(pub(?:\([^)]*\))?\s+)?use\s+[^;]+;", "", self.code[module])
        for m in re.finditer(rf"\b(crate|super|self)((?:::{IDENT})+)", code):
            path = self.absolute(module, [m.group(1)] + m.group(2).split("::")[1:])
            found.setdefault(self.find(path), path)
        for m in re.finditer(rf"(?<![:\w])({IDENT})((?:::{IDENT})+)", code):
            if module + (m.group(1),) in self.files:
                path = list(module) + [m.group(1)] + m.group(2).split("::")[1:]
                found.setdefault(self.find(path), path)
        found.pop(module, None)
        return found


def circles(graph):
    """Tarjan's strongly connected components of more than one node."""
    index, low, stack, on, out, count = {}, {}, [], set(), [], [0]

    def visit(v):
        index[v] = low[v] = count[0]
        count[0] += 1
        stack.append(v)
        on.add(v)
        for w in graph[v]:
            if w not in index:
                visit(w)
                low[v] = min(low[v], low[w])
            elif w in on:
                low[v] = min(low[v], index[w])
        if low[v] == index[v]:
            group = []
            while True:
                w = stack.pop()
                on.discard(w)
                group.append(w)
                if w == v:
                    break
            if len(group) > 1:
                out.append(sorted(group))

    sys.setrecursionlimit(10000)
    for v in graph:
        if v not in index:
            visit(v)
    return out


def main():
    house = House(ROOT)
    lines = [line.split("#")[0].split() for line in (ROOT / "FLOORS").read_text().splitlines()]
    floor = {room: number for number, rooms in enumerate(filter(None, lines)) for room in rooms}
    faults, between = [], set()
    graph = {m: house.imports(m) for m in house.files}
    for module, found in graph.items():
        room = module[0] if module else "lib"
        if room not in floor:
            faults.append(f"src/{house.files[module]}: the room {room} has no floor in src/FLOORS")
            continue
        for other, path in found.items():
            if other not in house.files:
                continue
            target = other[0] if other else "lib"
            if target != room:
                between.add((room, target))
            if target != room and floor.get(target, 99) >= floor[room]:
                faults.append(
                    f"src/{house.files[module]} imports {'::'.join(path)} of src/{house.files[other]}, which runs up: "
                    f"{target} is on floor {floor.get(target)}, {room} on {floor[room]}")
    for circle in circles({m: [o for o in found if o in graph] for m, found in graph.items()}):
        faults.append("a circle: " + ", ".join(f"src/{house.files[m]}" for m in circle))
    for fault in faults:
        print(fault, file=sys.stderr)
    ups = sum("runs up" in f for f in faults)
    round_ = sum(f.startswith("a circle") for f in faults)
    print(f"{len(house.files)} files, {len(floor)} rooms, {len(between)} arrows between rooms, "
          f"{ups} imports that run up, {round_} circles")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
