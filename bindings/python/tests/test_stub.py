"""The stub says what the package has, and the sources are of the oldest Python that it takes."""
import ast
import inspect
import pathlib

import pytest

import sftmix

PACKAGE = pathlib.Path(sftmix.__file__).parent
STUB = ast.parse((PACKAGE / "__init__.pyi").read_text())
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
# What a record is made of.
RECORDS = {"Report": "TrainReport", "Status": "JobStatus", "Slice": "Slice", "Generation": "Generation", "Plan": "RunPlan",
           "Evaluation": "Evaluation", "Exported": "Exported", "Merged": "Merged", "Summary": "MapSummary"}
# What a record has beside these.
MORE = {"Generation": {"cancelled"}}


def stubbed(node):
    """Parameters of a function of the stub: names, which are by keyword alone, and defaults as text."""
    args = node.args
    found = []
    defaults = [None] * (len(args.args) - len(args.defaults)) + args.defaults
    for arg, default in [*zip(args.args, defaults), *zip(args.kwonlyargs, args.kw_defaults)]:
        found.append((arg.arg, arg in args.kwonlyargs, default and repr(ast.literal_eval(default))))
    return {*found, *([("**", False, None)] if args.kwarg else [])}


def real(function):
    found = set()
    for p in inspect.signature(function).parameters.values():
        if p.kind == p.VAR_KEYWORD:
            found.add(("**", False, None))
        elif p.kind != p.VAR_POSITIONAL:
            found.add((p.name, p.kind == p.KEYWORD_ONLY, None if p.default is p.empty else repr(p.default)))
    return found


def members(name):
    """Functions and properties of a class of the stub, its bases' too."""
    found = {}
    for base in CLASSES[name].bases:
        found.update(members(base.id) if base.id in CLASSES else {})
    found.update({n.name: n for n in CLASSES[name].body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))})
    return found


def public(names):
    return {n for n in names if not n.startswith("_")}


def words(name):
    """The values of a Literal of the stub."""
    [value] = [n.value for n in STUB.body if isinstance(n, ast.Assign) and n.targets[0].id == name]
    return set(ast.literal_eval(value.slice))


def test_the_stub_has_the_words_of_the_library(finished):
    core = sftmix._core
    assert words("_State") == {state.name.lower() for state in core.JobState}
    assert words("_Kind") == {name.lower() for name, kind in vars(core.Event).items() if isinstance(kind, type) and name.isupper()}
    data_map = sftmix.DataMap(finished[0])
    for name, given in [("_Half", "half"), ("_Column", "sort_by")]:
        with pytest.raises(sftmix.InvalidConfigError) as e:
            data_map.rows(**{given: "beauty"})
        told = e.value.reason.removeprefix("expected ").removeprefix("one of ").rpartition(", found")[0]
        assert words(name) == set(told.replace(" or ", ", ").split(", "))


def test_the_stub_has_the_names_of_the_package():
    assert public([*CLASSES, *FUNCTIONS]) == set(sftmix.__all__)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions_are_as_the_stub_says(name):
    assert stubbed(FUNCTIONS[name]) == real(getattr(sftmix, name))


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_classes_are_as_the_stub_says(name):
    kind = getattr(sftmix, name)
    told = members(name)
    if not issubclass(kind, sftmix.Error):
        assert public(told) == public(n for n in dir(kind) if not (name == "Event" and n == "kind")), name
    bases = [base.id for base in CLASSES[name].bases]
    assert not bases or issubclass(kind, tuple(getattr(sftmix, b, Exception) for b in bases))
    for member, node in told.items():
        have = inspect.getattr_static(kind, member)
        if member.startswith("__") and member not in vars(kind):
            continue  # A base's, with a signature of its own.
        decorators = {d.id for d in node.decorator_list if isinstance(d, ast.Name)}
        assert isinstance(have, property) == ("property" in decorators), member
        assert isinstance(have, classmethod) == ("classmethod" in decorators), member
        if isinstance(have, property) or member in ("__getattr__", "__exit__"):
            continue
        function = have.__func__ if isinstance(have, classmethod) else have
        assert stubbed(node) == real(function), f"{name}.{member}"
        # An asynchronous generator is called as a function is.
        is_async = inspect.iscoroutinefunction(function)
        assert isinstance(node, ast.AsyncFunctionDef) == is_async, member


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_records_have_the_fields_that_the_stub_says(name):
    fields = {n.target.id for n in CLASSES[name].body if isinstance(n, ast.AnnAssign)}
    core = set(list(inspect.signature(getattr(sftmix._core, RECORDS[name]).__init__).parameters)[1:])
    assert fields == core | MORE.get(name, set())


@pytest.mark.parametrize("name", sorted(n for n in CLASSES if n.endswith("Error") and n != "Error"))
def test_errors_have_the_fields_that_the_stub_says(name):
    fields = {n.target.id for n in CLASSES[name].body if isinstance(n, ast.AnnAssign)}
    assert {"detail", *fields} == set(list(inspect.signature(getattr(sftmix, name).__init__).parameters)[1:])


@pytest.mark.parametrize("path", sorted(p for p in PACKAGE.iterdir() if p.suffix in (".py", ".pyi")), ids=lambda p: p.name)
def test_sources_are_of_the_oldest_python(path):
    ast.parse(path.read_text(), feature_version=(3, 10))
