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
import tempfile

LIBRARY = "sftmix"
TOKEN = re.compile(
    r'(?P<skip>//[^\n]*|\s+)|(?P<block>/\*)'
    r'|(?P<text>[bc]?r(?P<h>\#*)".*?"(?P=h)|[bc]?"(?:\\.|[^"\\])*")'
    r"|(?P<char>b?'(?:\\(?:u\{[^}]*\}|x\w\w|.)|[^\\'])')|(?P<life>'\w+)"
    r"|(?P<word>(?:r\#)?[^\W\d]\w*)|(?P<number>\d\w*)|(?P<sign>::|\S)", re.S)
ITEMS = {"fn", "struct", "enum", "trait", "const", "static", "type", "union"}
BEGINS = ITEMS | {"mod", "use", "impl", "pub", "unsafe", "async", "extern", "let", "macro_rules"}
OPEN, CLOSE = "([{", ")]}"


def tokens_of(text):
    """The words and signs of a file; a string is one token that keeps its quotes, comments and characters are none."""
    out, at = [], 0
    while at < len(text):
        m = TOKEN.match(text, at)
        at = m.end()
        if m.lastgroup == "block":
            depth = 1
            while depth and at < len(text):
                two = text[at:at + 2]
                depth += (two == "/*") - (two == "*/")
                at += 2 if two in ("/*", "*/") else 1
        elif m.group("text"):
            out.append('"' + m.group("text").split('"', 1)[1])
        elif m.group("word"):
            out.append(m.group("word")[2:] if m.group("word").startswith("r#") else m.group("word"))
        elif m.group("sign"):
            out.append(m.group("sign"))
        elif m.group("char") or m.group("life") or m.group("number"):
            out.append("0")
    return out


def is_word(token):
    return token[:1].isalpha() or token[:1] == "_"


def end_of(tokens, at):
    """Behind the bracket that closes the one at `at`."""
    depth = 0
    while at < len(tokens):
        depth += (tokens[at] in OPEN) - (tokens[at] in CLOSE)
        at += 1
        if depth == 0:
            break
    return at


def arguments(tokens):
    """Split at the commas outside brackets."""
    out, depth = [[]], 0
    for t in tokens:
        depth += (t in OPEN) - (t in CLOSE)
        if t == "," and depth == 0:
            out.append([])
        else:
            out[-1].append(t)
    return [a for a in out if a]


def for_tests(condition):
    """Whether a `cfg` holds in tests alone."""
    if condition == ["test"]:
        return True
    if condition[:2] == ["all", "("]:
        return any(for_tests(a) for a in arguments(condition[2:-1]))
    if condition[:2] == ["any", "("]:
        return all(for_tests(a) for a in arguments(condition[2:-1]))
    return False


def end_of_item(tokens, at):
    """Behind the item, field, arm or statement that begins at `at`."""
    comma = at < len(tokens) and tokens[at] not in BEGINS
    while at < len(tokens):
        t = tokens[at]
        if t in CLOSE:
            return at
        if t == ";" or t == "," and comma:
            return at + 1
        if t in OPEN:
            at = end_of(tokens, at)
            if t == "{" and not (at < len(tokens) and tokens[at] in (";", ",", "else", ".")):
                return at
        else:
            at += 1
    return at


def leaves(tree):
    """The paths of a use tree and the name each is used by; a path may end in `*`."""
    path, i = [], 0
    while i < len(tree):
        t = tree[i]
        if t == "{":
            out = []
            for part in arguments(tree[i + 1:end_of(tree, i) - 1]):
                for leaf, name in leaves(part):
                    if leaf == ["self"]:
                        out.append((path, path[-1] if name == "self" else name))
                    else:
                        out.append((path + leaf, name))
            return out
        if t == "as":
            return [(path, tree[i + 1])]
        if t != "::":
            path.append(t)
        i += 1
    return [(path, path[-1])] if path else []


class Module:
    """A module: the files that it stands in, more than one where `cfg` chooses, and the names in it."""

    def __init__(self):
        self.files, self.children, self.uses, self.names = [], set(), [], set()


class Crate:
    """The modules of a crate, from its root file on."""

    def __init__(self, src, root):
        self.src, self.modules, self.tests, self.faults = src, {}, set(), []
        self.paths, self.words, self.macros, self.calls, self.outside = [], {}, {}, [], []
        self.file(root, (), src)

    def file(self, name, module, folder, tests=False):
        """Reads a file; `folder` is where the files of its children stand."""
        path = self.src / name
        if not path.is_file():
            return
        tokens = tokens_of(path.read_text(encoding="utf-8"))
        if tests or self.inner_tests(tokens):
            self.tests.add(name)
            for child, inside, attributes in self.declared(tokens):
                for file, below in self.places(child, attributes, path.parent, folder.joinpath(*inside)):
                    self.file(file, module + (child,), below, True)
            return
        self.modules.setdefault(module, Module()).files.append(name)
        self.scope(tokens, name, module, folder, path.parent)

    @staticmethod
    def inner_tests(tokens):
        at = 0
        while tokens[at:at + 3] == ["#", "!", "["]:
            end = end_of(tokens, at + 2)
            if tokens[at + 3:at + 5] == ["cfg", "("] and for_tests(tokens[at + 5:end - 2]):
                return True
            at = end
        return False

    @staticmethod
    def declared(tokens):
        """Modules in files of their own, with the modules that stand around them."""
        attributes, around, at = [], [], 0
        while at < len(tokens):
            while around and around[-1][1] <= at:
                around.pop()
            if tokens[at:at + 2] == ["#", "["]:
                end = end_of(tokens, at + 1)
                attributes.append(tokens[at + 2:end - 1])
                at = end
                continue
            if tokens[at] == "mod" and tokens[at + 2:at + 3] == [";"]:
                yield tokens[at + 1], [name for name, _ in around], attributes
            if tokens[at] == "mod" and tokens[at + 2:at + 3] == ["{"]:
                around.append((tokens[at + 1], end_of(tokens, at + 2)))
            if tokens[at] in (";", "{", "}"):
                attributes = []
            at += 1

    def places(self, child, attributes, beside, folder):
        """The files that a module may stand in, each with the folder of its children."""
        out, always = [], False
        for a in attributes:
            for i, t in enumerate(a):
                if t == "path" and a[i + 1:i + 2] == ["="]:
                    file = (beside / a[i + 2].strip('"').rstrip('#"')).resolve()
                    out.append((file, file.parent))
                    always = always or a[0] == "path"
        if not always:
            out += [(folder / f"{child}.rs", folder / child), (folder / child / "mod.rs", folder / child)]
        src = self.src.resolve()
        for file, below in out:
            file = file.resolve()
            if src in file.parents:
                yield file.relative_to(src).as_posix(), below

    def scope(self, tokens, file, module, folder, beside):
        """Reads the tokens of a file or of a module inside one."""
        here = self.modules.setdefault(module, Module())
        if file not in here.files:
            here.files.append(file)
        words = self.words.setdefault((file, module), set())
        attributes, inside, at = [], [], 0
        while at < len(tokens):
            t = tokens[at]
            if t == "#" and tokens[at + 1:at + 2] in (["["], ["!"]):
                start = at + (2 if tokens[at + 1] == "!" else 1)
                end = end_of(tokens, start)
                attribute = tokens[start + 1:end - 1]
                if attribute[:1] in (["macro_use"], ["macro_export"]):
                    self.faults.append(f"{self.shown(file)}: {attribute[0]}: pass macros on by `use`, as other names")
                for word in attribute:
                    if re.fullmatch(r'"\w+(::\w+)+"#*', word):
                        self.paths.append((file, module, word.strip('"#').split("::")))
                self.mentions(attribute, file, module, words)
                at = end
                if attribute[:2] == ["cfg", "("] and for_tests(attribute[2:-1]):
                    while tokens[at:at + 2] == ["#", "["]:
                        start, at = at, end_of(tokens, at + 1)
                        attributes.append(tokens[start + 2:at - 1])
                    end = end_of_item(tokens, at)
                    for child, inside, own in self.declared(tokens[at:end]):
                        for name, below in self.places(child, attributes + own, beside, folder.joinpath(*inside)):
                            self.file(name, module + (child,), below, True)
                    at, attributes = end, []
                else:
                    attributes.append(attribute)
                continue
            if t == "pub" and tokens[at + 1:at + 2] == ["("] and tokens[at + 2] in ("crate", "self", "super", "in"):
                at = end_of(tokens, at + 1)
                if tokens[at:at + 1] == ["use"]:
                    at = self.use(tokens, at, file, module, True)
                    attributes = []
                continue
            if t == "use" and tokens[at + 1:at + 2] not in (["<"], []):
                at = self.use(tokens, at, file, module, at > 0 and tokens[at - 1] == "pub")
                attributes = []
                continue
            if t == "mod" and at + 2 < len(tokens) and is_word(tokens[at + 1]) and tokens[at + 2] in (";", "{"):
                child = tokens[at + 1]
                here.children.add(child)
                if tokens[at + 2] == ";":
                    for name, below in self.places(child, attributes, beside, folder):
                        self.file(name, module + (child,), below)
                    at += 3
                else:
                    end = end_of(tokens, at + 2)
                    below = folder / child
                    self.scope(tokens[at + 3:end - 1], file, module + (child,), below, below)
                    at = end
                attributes = []
                continue
            if t == "macro_rules" and tokens[at + 1:at + 2] == ["!"]:
                end = end_of(tokens, at + 3)
                here.names.add(tokens[at + 2])
                self.macro(tokens[at + 2], tokens[at + 4:end - 1], file, module, words)
                at, attributes = end, []
                continue
            if t in ITEMS and at + 1 < len(tokens) and not any(inside):
                here.names.add(tokens[at + 1])
            if t in OPEN:
                # What a macro is given may be items of the module.
                inside.append(not (t == "{" and tokens[at - 1:at] == ["!"]))
            elif t in CLOSE and inside:
                inside.pop()
            if t in (";", "{", "}"):
                attributes = []
            at = self.mention(tokens, at, file, module, words)

    def use(self, tokens, at, file, module, public):
        end = at
        while end < len(tokens) and tokens[end] != ";":
            end += 1
        tree = tokens[at + 1:end]
        absolute = tree[:1] == ["::"]
        for path, name in leaves(tree):
            if not absolute:
                self.modules[module].uses.append((public, path, name, file))
        return end + 1

    def mentions(self, tokens, file, module, words):
        at = 0
        while at < len(tokens):
            at = self.mention(tokens, at, file, module, words)

    def mention(self, tokens, at, file, module, words, into=None):
        """Reads one token, or the path that begins with it."""
        if tokens[at:at + 2] == ["pub", "("] and tokens[at + 2] in ("crate", "self", "super", "in"):
            return end_of(tokens, at + 1)
        if not is_word(tokens[at]):
            return at + 1
        path, end = [tokens[at]], at + 1
        while tokens[end:end + 1] == ["::"] and end + 1 < len(tokens) and is_word(tokens[end + 1]):
            path.append(tokens[end + 1])
            end += 2
        before = tokens[at - 1] if at else ""
        if before not in ("::", "."):
            words.add(path[0])
            if len(path) > 1:
                (self.paths if into is None else into).append((file, module, path))
        if tokens[end:end + 1] == ["!"]:
            self.calls.append((file, module, path[-1]))
        return end

    def macro(self, name, tokens, file, module, words):
        """Paths from the root are the macro's own; others mean what they mean where it is called."""
        found, at = [], 0
        while at < len(tokens):
            if tokens[at] == "use" and tokens[at + 1:at + 2] != ["<"]:
                end = at
                while end < len(tokens) and tokens[end] != ";":
                    end += 1
                found += [(file, module, path) for path, _ in leaves([t for t in tokens[at + 1:end] if t != "$"]) if path]
                at = end
            else:
                at = self.mention(tokens, at, file, module, words, found)
        self.paths += [f for f in found if f[2][0] == "crate"]
        self.macros.setdefault(name, []).extend(f[2] for f in found if f[2][0] != "crate")

    def shown(self, file):
        return f"{self.src.name}/{file}"

    def start(self, module, path, seen=()):
        """A path as seen from a module, from the crate's root: every one that it may be."""
        first, here = path[0], list(module)
        if first == "crate":
            return [path[1:]]
        if first == "self":
            return [here + path[1:]]
        if first == "super":
            while path and path[0] == "super":
                path, here = path[1:], here[:-1]
            return [here + path]
        known = self.modules[module]
        if first in known.children:
            return [here + path]
        out = []
        for _, used, name, _ in known.uses:
            if name == first and used != path[:1] and (module, first) not in seen and used[-1] != "*":
                out += [p + path[1:] for p in self.start(module, used, (*seen, (module, first)))]
            elif used[-1] == "*" and len(path) > 1 and (module, "*" + first) not in seen:
                for p in self.start(module, used[:-1], (*seen, (module, "*" + first))):
                    if self.holds(tuple(p), first, module):
                        out.append(p + path)
        return out

    def visible(self, module, use, reader):
        return use[0] or reader[:len(module)] == module

    def holds(self, module, name, reader, seen=()):
        """Whether a path through this module may go on with this name."""
        known = self.modules.get(module)
        if known is None or module in seen:
            return False
        if name in known.children or name in known.names:
            return True
        for use in known.uses:
            if not self.visible(module, use, reader):
                continue
            if use[2] == name:
                return True
            if use[1][-1] == "*":
                if any(self.holds(tuple(p), name, reader, (*seen, module)) for p in self.start(module, use[1][:-1])):
                    return True
        return False

    def find(self, path, reader, seen=()):
        """The files that a path from the root leads to."""
        module = ()
        for i, name in enumerate(path):
            known = self.modules.get(module)
            if known is None:
                return set()
            if name in known.children and module + (name,) in self.modules:
                module += (name,)
                continue
            if name == "*" or (module, name) in seen:
                break
            found, rest, onward = set(), list(path[i + 1:]), (*seen, (module, name))
            for use in known.uses:
                if not self.visible(module, use, reader):
                    continue
                if use[2] == name and use[1][-1] != "*":
                    targets = [p + rest for p in self.start(module, use[1])]
                elif use[1][-1] == "*" and name not in known.names:
                    starts = self.start(module, use[1][:-1])
                    targets = [p + [name] + rest for p in starts if self.holds(tuple(p), name, reader)]
                else:
                    continue
                for target in targets:
                    found |= self.find(target, reader, onward)
                if not use[0] and targets:
                    found |= set(known.files)
            if found:
                return found
            break
        return set(self.modules[module].files) if module in self.modules else set()

    def imports(self):
        """For each file, the files that it imports from and a path by which it does."""
        graph = {file: {} for module in self.modules.values() for file in module.files}

        def add(file, module, path):
            for p in self.start(module, path):
                for other in sorted(self.find(p, module)):
                    if other != file:
                        graph[file].setdefault(other, "::".join(path))

        for module, known in self.modules.items():
            for _, path, _, file in known.uses:
                add(file, module, path)
                if path[-1] == "*":
                    for p in self.start(module, path[:-1]):
                        for word in sorted(self.words.get((file, module), ())):
                            if self.holds(tuple(p), word, module):
                                for other in sorted(self.find(p + [word], module)):
                                    if other != file:
                                        graph[file].setdefault(other, "::".join(path[:-1] + [word]))
        for file, module, path in self.paths:
            add(file, module, path)
        for file, module, name in self.calls:
            for path in self.macros.get(name, ()):
                add(file, module, path)
        return graph


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


def tried():
    """Small trees, and what must be said of each: words of every fault, in order."""
    floors = "low\nmid\nhigh\nlib\n"
    roots = "mod low; mod mid; mod high;"

    def tree(**files):
        named = {k.replace("__", "/") + (".rs" if k != "FLOORS" else ""): v for k, v in files.items()}
        return {**{"FLOORS": floors, "lib.rs": roots, "low.rs": "pub struct L;", "mid.rs": "", "high.rs": ""}, **named}

    up = ["src/low.rs imports", "src/high.rs, which runs up"]
    yield "imports that run down", tree(high="use crate::low::L; use crate::mid;"), []
    yield "an import that runs up", tree(low="use crate::high::H;", high="pub struct H;"), [up]
    yield "a path in code", tree(low="fn f() { crate::high::h(); }", high="pub fn h() {}"), [up]
    yield "a use inside a function", tree(low="fn f() { use crate::high::h; h() }", high="pub fn h() {}"), [up]
    yield "a use tree", tree(low="use {crate::{mid::{self as m}, high::{a, b as c}}};"), [up, ["src/low.rs imports", "src/mid.rs"]]
    yield "a name imported as another", tree(low="use crate::mid as m; fn f() { m::x::g() }", mid="pub mod x;", mid__x=""), [
        ["src/low.rs", "src/mid.rs, which runs up"], ["src/low.rs imports m::x::g", "src/mid/x.rs, which runs up"]]
    yield "a neighbour", {**tree(mid="use crate::high;"), "FLOORS": "low\nmid high\nlib\n"}, [["src/mid.rs", "src/high.rs"]]
    yield "a name passed on", tree(low="use crate::mid::H;", mid="pub use crate::high::H;", high="pub struct H;"), [
        up, ["src/mid.rs imports", "src/high.rs, which runs up"]]
    yield "a name passed on under another", tree(low="use crate::mid::M;", mid="pub(crate) use crate::high::H as M;"), [
        up, ["src/mid.rs", "src/high.rs"]]
    yield "names passed on in bulk", tree(
        low="use crate::mid::*; fn f(h: H) {}", mid="pub use crate::high::*;", high="pub struct H;"), [
        ["src/low.rs", "src/high.rs"], ["src/low.rs", "src/mid.rs"], ["src/mid.rs", "src/high.rs"]]
    yield "the root's names are followed", tree(high="use crate::L; use crate::inner::all::L as A;", **{
        "lib": roots + "pub use low::L; pub mod inner { pub mod all { pub use crate::low::*; } }"}), []
    yield "the root's own names", tree(high="use crate::R;", lib=roots + "pub struct R;"), [["src/high.rs", "src/lib.rs, which runs up"]]
    yield "a macro's path from the root", tree(low="macro_rules! m { () => { $crate::high::h() } }"), [up]
    yield "a macro's other paths are its callers'", tree(
        low="macro_rules! m { () => { super::high::h() } } mod inner { fn f() { m!() } }", high=""), []
    yield "a macro's path where it is called", tree(low="macro_rules! m { () => { super::high::h() } } fn f() { m!() }"), [up]
    yield "an attribute", tree(low="#[serde(with = \"crate::high\")] struct S;"), [up]
    yield "a cfg", tree(low="#[cfg(not(test))] use crate::high::h;"), [up]
    yield "an attribute's path", tree(low="#[cfg_attr(x, crate::high::mark)] struct S;"), [up]
    yield "tests alone", tree(low="""
        #[cfg(test)] use crate::high::h;
        struct S { #[cfg(test)] a: crate::high::H, b: u8 }
        #[cfg(all(test, unix))] fn f() -> [u8; 2] { crate::high::h() }
        #[cfg(test)] #[path = "low_tests.rs"] mod tests;
        #[cfg(test)] mod more { use crate::high::*; mod deep; }""", low_tests="use crate::high;", low__more__deep="use crate::high;"), []
    yield "behind tests", tree(low="#[cfg(test)] mod tests { fn f() { \"}\"; '{'; } } use crate::high::h;"), [up]
    yield "comments, texts and visibilities", tree(low="""
        //! crate::high::h
        /* use crate::high; /* */ use crate::high; */
        pub(in crate::high) fn f<'a>(x: &'a str) -> char { r#"" crate::high::h(); "#; '"'; b'\\''; "\\" crate::high::h()"; 'a' }
        fn g() -> impl Fn() + use<> { ::high::f; <L>::high::x; a.high::<L>() }"""), []
    ring = ["a circle: src/mid/a.rs, src/mid/b.rs", "src/mid/a.rs imports", "of src/mid/b.rs"]
    yield "a circle", tree(mid="mod a; mod b;", mid__a="use super::b::B;", mid__b="use super::a::A;"), [ring]
    yield "a circle through a name passed on", tree(
        mid="mod a; mod b; pub use a::A; pub use b::B;", mid__a="use super::B; pub struct A;",
        mid__b="use crate::mid::A; pub struct B;"), [ring]
    yield "a circle through a name taken from a parent", tree(
        mid="mod a; use crate::low::L; fn f() { a::g() }", mid__a="use super::L; pub fn g() {}"), [
        ["a circle: src/mid.rs, src/mid/a.rs"]]
    yield "a circle through all of a parent", tree(mid="mod a; fn f() { a::g() }", mid__a="use super::*; pub fn g() {}"), [
        ["a circle: src/mid.rs, src/mid/a.rs"]]
    yield "files that cfg chooses between", tree(
        mid="#[cfg_attr(unix, path = \"other.rs\")] mod a; #[cfg(x)] mod c;", mid__a="", other="use crate::high;",
        mid__c="use crate::high;", high="", FLOORS="low\nother\nmid\nhigh\nlib\n"), [
        ["src/other.rs", "src/high.rs"], ["src/mid/c.rs", "src/high.rs"]]
    yield "a room without a floor", {**tree(), "FLOORS": "low\nmid\nlib\n"}, [["src/high.rs", "no floor"]]
    yield "a room with two", {**tree(), "FLOORS": floors + "low\n"}, [["low has two floors"], None]
    yield "a file of no module", tree(mid__lost=""), [["src/mid/lost.rs: no module"]]
    yield "macros passed on by place", tree(lib="#[macro_use] mod low; mod mid; mod high;"), [["src/lib.rs: macro_use"]]
    yield "a program", tree(main="mod cli; use sftmix::internal::x;", cli__mod="mod a; use sftmix::low::L;", cli__a="fn f() { sftmix::mid::g() }"), []
    yield "a program with a circle", tree(main="mod cli;", cli__mod="mod a; fn f() {} fn m() { a::g() }", cli__a="use crate::cli::f;"), [
        ["a circle: src/cli/a.rs, src/cli/mod.rs"]]
    yield "a program that takes a file of the library", tree(main="mod cli; mod low;", cli__mod="use crate::low::L;"), [
        ["src/low.rs is of the library"]]
    yield "a library that takes a file of the program", tree(
        main="mod cli;", cli__mod="", lib=roots + "mod cli;"), [["src/cli/mod.rs is of the program"]]


def self_test():
    wrong = 0
    for name, files, expected in tried():
        with tempfile.TemporaryDirectory() as folder:
            src = pathlib.Path(folder) / "src"
            for file, text in files.items():
                path = src / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            faults, _ = check(src)
        open_ended = None in expected
        left = list(faults)
        for words in filter(None, expected):
            found = [f for f in left if all(word in f for word in words)]
            if not found:
                break
            left.remove(found[0])
        else:
            if open_ended or not left:
                continue
        wrong += 1
        print(f"{name}: expected {expected}, found {faults}", file=sys.stderr)
    print(f"self-test: {sum(1 for _ in tried())} trees, {wrong} judged wrongly")
    return 1 if wrong else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    src = pathlib.Path(sys.argv[1]) if sys.argv[1:] else pathlib.Path(__file__).resolve().parent.parent / "src"
    faults, figures = check(src)
    for fault in faults:
        print(fault, file=sys.stderr)
    print(figures)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
