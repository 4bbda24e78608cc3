#!/usr/bin/env python3
"""Holds the imports of src/ against the order of floors in src/FLOORS.

A file may import from its own room and from rooms on floors beneath. An import is any path that leads to another file:
in a `use`, wherever it stands, in code, in a macro, in an attribute or a text of one. Names that a module passes on are
followed to the file that defines them, one by one and through `*`; what a module imports for itself alone and its
children take from it counts as an import of both. Modules count whatever their `cfg`; what is compiled for tests alone
does not, nor do visibilities. Methods are not followed: a type's may stand in several files of its room.

Fails, naming the files, where an import runs up, where files import each other in a circle, where a room has no floor or
two, where a file belongs to no module, and where macros are passed on by their place in the text. The program
(src/main.rs, src/cli) is a client: it shares no file with the library and imports `sftmix::` alone.

    scripts/floors.py [SRC]        SRC: the folder, src/ beside this script's
    scripts/floors.py --self-test
"""
import pathlib
import re
import sys

sys.dont_write_bytecode = True
from floors_imports import Crate  # noqa: E402
from floors_trees import self_test  # noqa: E402

LIBRARY = "sftmix"


def circles(graph):
    """Tarjan's strongly connected components of more than one node."""
    index, low, stack, on, out = {}, {}, [], set(), []

    def visit(v):
        index[v] = low[v] = len(index)
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
            while not group or group[-1] != v:
                group.append(stack.pop())
                on.discard(group[-1])
            if len(group) > 1:
                out.append(sorted(group))

    sys.setrecursionlimit(10000)
    for v in graph:
        if v not in index:
            visit(v)
    return out


def around(graph, group):
    """The shortest way around within a circle of files: its arrows."""
    best = None
    for first in group:
        ways, seen = [[first]], {first}
        while ways and (best is None or len(ways[0]) < len(best)):
            way = ways.pop(0)
            for other in graph[way[-1]]:
                if other == first:
                    best, ways = way + [first], []
                    break
                if other in group and other not in seen:
                    seen.add(other)
                    ways.append(way + [other])
    return list(zip(best, best[1:]))


def room_of(file):
    """The first folder of src/ on the way to a file, or the file itself."""
    return re.sub(r"\.rs$", "", file.split("/")[0])


def check(src):
    """Everything that is wrong with a folder of sources, and a line of figures."""
    library = Crate(src, "lib.rs")
    program = Crate(src, "main.rs") if (src / "main.rs").is_file() else None
    faults, floor, between = list(library.faults), {}, set()
    lines = [line.split("#")[0].split() for line in (src / "FLOORS").read_text(encoding="utf-8").splitlines()]
    for number, rooms in enumerate(filter(None, lines)):
        for room in rooms:
            if room in floor:
                faults.append(f"{src.name}/FLOORS: the room {room} has two floors")
            floor[room] = number
    graph = library.imports()
    for file, found in graph.items():
        room = room_of(file)
        if room in ("cli", "main"):
            faults.append(f"{src.name}/{file} is of the program, and the library holds it as a module")
        elif room not in floor:
            faults.append(f"{src.name}/{file}: the room {room} has no floor in {src.name}/FLOORS")
        else:
            for other, path in found.items():
                target = room_of(other)
                if target != room:
                    between.add((room, target))
                if target != room and floor.get(target, len(floor)) >= floor[room]:
                    faults.append(
                        f"{src.name}/{file} imports {path} of {src.name}/{other}, which runs up: "
                        f"{target} is on floor {floor.get(target)}, {room} on {floor[room]}")
    graphs, inner = [graph], 0
    files, tests = set(graph), set(library.tests)
    if program:
        graphs.append(program.imports())
        faults += program.faults
        files |= set(graphs[1])
        tests |= program.tests
        for file in graphs[1]:
            if room_of(file) not in ("cli", "main"):
                faults.append(f"{src.name}/{file} is of the library, and the program holds it as a module")
        used = [u[1] for m in program.modules.values() for u in m.uses] + [p[2] for p in program.paths]
        inner = sum(p[:2] == [LIBRARY, "internal"] for p in used)
    for g in graphs:
        for group in circles(g):
            faults.append("a circle: " + ", ".join(f"{src.name}/{f}" for f in group) + "".join(
                f"\n    {src.name}/{a} imports {g[a][b]} of {src.name}/{b}" for a, b in around(g, group)))
    for path in sorted(src.rglob("*.rs")):
        name = path.relative_to(src).as_posix()
        if name not in files and name not in tests:
            faults.append(f"{src.name}/{name}: no module declares it")
    ups = sum("which runs up" in f for f in faults)
    rounds = sum(f.startswith("a circle") for f in faults)
    return faults, (f"{len(files)} files, {len({room_of(f) for f in graph})} rooms, {len(between)} arrows between rooms, "
                    f"{ups} imports that run up, {rounds} circles, {inner} imports of {LIBRARY}::internal by the program")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test(check)
    src = pathlib.Path(sys.argv[1]) if sys.argv[1:] else pathlib.Path(__file__).resolve().parent.parent / "src"
    faults, figures = check(src)
    for fault in faults:
        print(fault, file=sys.stderr)
    print(figures)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
