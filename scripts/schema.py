#!/usr/bin/env python3
"""Makes the one schema of settings that every binding shares, from the sources of src/config.

    scripts/schema.py            compares what is committed with what the sources say, and fails where they differ
    scripts/schema.py --write    writes bindings/schema.json, bindings/uniffi/src/settings.rs, and the settings of the Python
                                 package: _settings.py, and those in the stub; those of the Swift package

tests/it/doors.rs holds the schema against the settings as the library writes them.
"""
import json
import pathlib
import re
import sys

import schema_swift

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = [("mod.rs", "TrainConfig"), ("lora.rs", "LoraConfig"), ("data.rs", "DataOptions")]
# The type of a field in Rust, in the schema, and in a record of UniFFI.
TYPES = {
    "PathBuf": ("path", "String"),
    "String": ("text", "String"),
    "bool": ("bool", "bool"),
    "f64": ("number", "f64"),
    "usize": ("integer", "u64"),
    "u64": ("integer", "u64"),
    "(f64, f64)": ("two numbers", "Vec<f64>"),
    "DataSources": ("sources", "Vec<DataSource>"),
    "TargetModules": ("names", "Vec<String>"),
    "Vec<String>": ("names", "Vec<String>"),
    "Layers": ("blocks", "Vec<u64>"),
    "ModulePattern<usize>": ("integers by module", "HashMap<String, u64>"),
    "ModulePattern<f64>": ("numbers by module", "HashMap<String, f64>"),
    "serde_json::Map<String, serde_json::Value>": ("JSON object", "String"),
    "DeviceSetting": ("device", "String"),
    "Dynamics": ("dynamics", "String"),
}
WORDS = re.compile(r"text_enum! \{\s*((?:///[^\n]*\n\s*)*)(\w+) \{(.*?)\n    \}\n\}", re.S)


def words():
    """The settings that are one word of a few: their values with what each means."""
    source = (ROOT / "src/config/words.rs").read_text()
    value = re.compile(r"((?:\s*///[^\n]*\n)+)\s*\w+ = \"([^\"]+)\"")
    return {name: {text: document(doc) for doc, text in value.findall(body)} for _, name, body in WORDS.findall(source)}


def document(lines):
    """The text of a comment, without links."""
    text = " ".join(line.strip().removeprefix("///").strip() for line in lines.strip().splitlines())
    return re.sub(r"\[`(?:\w+::)*(\w+)`\]", r"`\1`", text).strip()


def defaults(source, name):
    body = re.search(rf"impl Default for {name} \{{.*?\n\}}", source, re.S)
    return dict(re.findall(r"^            (\w+): (.*),$", body.group(0), re.M)) if body else {}


def literal(text):
    """A default as JSON."""
    fixed = {"None": None, "true": True, "false": False, "PathBuf::new()": "", "DataSources::default()": "",
             "ModulePattern::default()": {}, "Vec::new()": [], "TargetModules::AllLinear": "all-linear", "Dynamics::Sweep": "sweep",
             "DeviceSetting::Auto": "auto", "(0.9, 0.999)": [0.9, 0.999]}
    if text in fixed:
        return fixed[text]
    word = re.fullmatch(r"(\w+)::(\w+)", text)
    if word:
        source = (ROOT / "src/config/words.rs").read_text()
        return re.search(rf"\b{word.group(2)} = \"([^\"]+)\"", source[source.index(f"{word.group(1)} {{"):]).group(1)
    return json.loads(text)


def settings():
    kinds, out = words(), []
    for file, name in SOURCES:
        source = (ROOT / "src/config" / file).read_text()
        body = re.search(rf"pub struct {name} \{{\n(.*?)\n\}}", source, re.S).group(1)
        has = defaults(source, name)
        for doc, attributes, field, kind in re.findall(r"((?:    ///[^\n]*\n)+)((?:    #[^\n]*\n)*)    pub (\w+): (.+),", body + "\n"):
            if "flatten" in attributes:
                continue
            rename = re.search(r'rename = "(\w+)"', attributes)
            optional = re.fullmatch(r"Option<(.*)>", kind)
            kind = optional.group(1) if optional else kind
            told = TYPES.get(kind, ("word", "String"))
            entry = {"name": rename.group(1) if rename else field, "type": told[0], "rust": told[1],
                     "default": literal(has.get(field, "None" if optional or not kind.startswith("Vec<") else "[]")),
                     "doc": document(doc)}
            if told[0] == "word":
                entry["words"] = kinds[kind]
            out.append(entry)
    return out


def rust(settings):
    lines = ["//! Made by scripts/schema.py of src/config; change those.", "", "use std::collections::HashMap;", "",
             "use serde::Serialize;", "", "use crate::records::DataSource;", "",
             "/// Settings of a run, by their names on the command line and in settings files. What is left out has its default;",
             "/// in a run that is taken up, the run's own value.",
             "#[derive(Clone, Debug, Default, Serialize, uniffi::Record)]", "pub struct TrainSettings {"]
    for s in settings:
        lines.append(f"    /// {s['doc']}")
        if "words" in s:
            lines.append(f"    /// One of: {', '.join(s['words'])}.")
        if s["default"] not in (None, "", []):
            lines.append(f"    /// Default: {json.dumps(s['default'], ensure_ascii=False)}.")
        lines += ["    #[uniffi(default = None)]", '    #[serde(skip_serializing_if = "Option::is_none")]',
                  f"    pub {s['name']}: Option<{s['rust']}>,"]
    return "\n".join([*lines, "}", ""])


PYTHON = {"path": "str | os.PathLike", "text": "str", "bool": "bool", "number": "float", "integer": "int", "word": "str",
          "two numbers": "tuple[float, float]", "names": "str | list[str]", "blocks": "list[int]", "device": "str",
          "integers by module": "dict[str, int]", "numbers by module": "dict[str, float]", "JSON object": "dict",
          "dynamics": "str | os.PathLike", "sources": "Data"}


def taken(file, name, settings):
    """The settings that something which is no run takes, by the fields of its own settings."""
    body = re.search(rf"pub struct {name} \{{\n(.*?)\n\}}", (ROOT / "src" / file).read_text(), re.S).group(1)
    fields = re.findall(r"^    pub (\w+):", body, re.M)
    source = (ROOT / "src/config/data.rs").read_text()
    options = re.findall(r"^    pub (\w+):", re.search(r"pub struct DataOptions \{\n(.*?)\n\}", source, re.S).group(1), re.M)
    fields += options if "data_options" in fields else []
    return [s for s in settings if s["name"] in fields]


def others(settings):
    """What takes some of the settings: its name in the Python package, and those."""
    return {"evaluate": taken("eval.rs", "EvalConfig", settings), "inspect": taken("data/inspect.rs", "InspectConfig", settings)}


def python(settings):
    lines = ['"""Made by scripts/schema.py of src/config; change those."""', "",
             "# name: (type, default, what it says); a default of ... must be given.", "SETTINGS = {"]
    for s in settings:
        default = ... if s["name"] in ("model", "data", "out") else s["default"]
        # A list of nothing is as good as none, and `help` says the same as the stub.
        default = (tuple(default) or None) if isinstance(default, list) else default
        text = s["doc"] + (f" One of: {', '.join(s['words'])}." if "words" in s else "")
        lines.append(f"    {s['name']!r}: ({PYTHON[s['type']]!r}, {'...' if default is ... else repr(default)},")
        lines.append(f"        {text!r}),")
    lines.append("}")
    names = {"evaluate": "EVALUATED", "inspect": "INSPECTED"}
    for name, some in others(settings).items():
        lines += ["", f"# Those that have an effect on what {name}() does.", f"{names[name]} = ("]
        lines += [f"    {s['name']!r}," for s in some] + [")"]
    return "\n".join([*lines, ""])


def stub(settings):
    """The keyword settings in the stub of the package, between the two marks of each that takes some."""
    path = ROOT / "bindings/python/sftmix/__init__.pyi"
    text = path.read_text() if path.exists() else ""
    marks = {"TrainingJob": (settings, ("model", "data", "out"), 8), "plan": (settings, ("model", "data"), 4)}
    marks.update({name: (some, ("model", "data"), 4) for name, some in others(settings).items()})
    for mark, (some, required, indent) in marks.items():
        lines = []
        for s in some:
            must = s["name"] in required
            default = s["default"] if s["default"] not in ("", []) else None
            default = tuple(default) if isinstance(default, list) else default
            kind = PYTHON[s["type"]] + (" | None" if default is None and not must else "")
            # Rows that are handed over are for training alone.
            kind = {"model": "Model | " + kind, "data": kind if mark == "TrainingJob" else "Files"}.get(s["name"], kind)
            lines.append(f"{' ' * indent}{s['name']}: {kind}{'' if must else f' = {default!r}'},\n")
        text = re.sub(rf"( +# <settings of {mark}>\n).*?( +# </settings of {mark}>)",
                      lambda m: m.group(1) + "".join(lines) + m.group(2), text, flags=re.S)
    return text


def main():
    found = settings()
    public = [{k: v for k, v in s.items() if k != "rust"} for s in found]
    files = {ROOT / "bindings/schema.json": json.dumps({"settings": public}, indent=1, ensure_ascii=False) + "\n",
             ROOT / "bindings/uniffi/src/settings.rs": rust(found),
             ROOT / "bindings/python/sftmix/_settings.py": python(found),
             ROOT / "bindings/python/sftmix/__init__.pyi": stub(found),
             ROOT / "bindings/swift/Sources/SFTMix/Settings.swift": schema_swift.swift(found),
             ROOT / "bindings/swift/Sources/SFTMix/SettingsCoding.swift": schema_swift.coding(found)}
    if "--write" in sys.argv[1:]:
        for path, text in files.items():
            path.write_text(text)
        return
    differ = [str(path.relative_to(ROOT)) for path, text in files.items() if not path.exists() or path.read_text() != text]
    if differ:
        sys.exit(f"{', '.join(differ)}: not what src/config says; scripts/schema.py --write makes them anew")


main()
