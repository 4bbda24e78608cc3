"""What the files of a Rust crate import from each other, read from their text: for scripts/floors.py."""
import re

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
