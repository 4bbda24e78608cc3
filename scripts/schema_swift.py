"""The settings of the Swift package, made of the schema by scripts/schema.py."""
import json
import re

TYPES = {"bool": "Bool", "number": "Double", "integer": "UInt64", "two numbers": "[Double]", "sources": "TrainData",
         "names": "TargetModules", "blocks": "[UInt64]", "integers by module": "[String: UInt64]",
         "numbers by module": "[String: Double]", "JSON object": "[String: JSONValue]"}
# How a value crosses, where the library's record has it in another form.
CROSSED = {"sources": "data?.sources", "names": "targetModules?.names", "JSON object": "try chatTemplateKwargs?.json()"}


def camel(name):
    return re.sub(r"_(\w)", lambda m: m.group(1).upper(), name)


def wrapped(text, indent):
    """A documentation comment in lines of at most 125 letters."""
    lines, line = [], ""
    for word in text.split():
        if line and len(indent) + len("/// ") + len(line) + 1 + len(word) > 125:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [f"{indent}/// {line}" for line in [*lines, line]]


def literal(value):
    if value in ({}, []):
        return "[:]" if value == {} else "[]"
    return json.dumps(value, ensure_ascii=False)


def rows(parts, indent):
    """Parts with commas between, several in a line."""
    lines, line = [], ""
    for i, part in enumerate(parts):
        part += "," if i < len(parts) - 1 else ""
        if line and len(indent) + len(line) + 1 + len(part) > 125:
            lines.append(indent + line)
            line = part
        else:
            line = f"{line} {part}".strip()
    return [*lines, indent + line]


def swift(settings):
    kind = lambda s: TYPES.get(s["type"], "String")
    has_default = lambda s: s["default"] not in (None, "")
    lines = ["// Made by scripts/schema.py of src/config; change those.", "", "import SFTMixFFI", "",
             "/// Settings of a run, by their names on the command line and in settings files. What is left out has its default; in a run",
             "/// that is taken up, the run's own value. As JSON they have the form of `run.json`.",
             "public struct TrainSettings: Codable, Equatable, Sendable {"]
    for s in settings:
        text = s["doc"].replace("`None`", "`nil`")
        if "words" in s:
            text += f" One of: {', '.join(s['words'])}."
        if has_default(s):
            text += f" Default: {json.dumps(s['default'], ensure_ascii=False)}."
        lines += [*wrapped(text, "    "), f"    public var {camel(s['name'])}: {kind(s)}?"]
    lines += ["", "    /// Settings of which those that are given differ from the defaults.", "    public init("]
    lines += rows([f"{camel(s['name'])}: {kind(s)}? = nil" for s in settings], "        ")
    lines += ["    ) {"]
    lines += [f"        self.{camel(s['name'])} = {camel(s['name'])}" for s in settings]
    lines += ["    }", "", "    /// Every setting that has a default, with it.", "    public static let defaults = TrainSettings("]
    lines += rows([f"{camel(s['name'])}: {literal(s['default'])}" for s in settings if has_default(s)], "        ")
    return "\n".join([*lines, "    )", "}", ""])


def coding(settings):
    """How they are read, where a slip in a name must not pass unseen, and how they cross."""
    kind = lambda s: TYPES.get(s["type"], "String")
    lines = ["// Made by scripts/schema.py of src/config; change those.", "", "import SFTMixFFI", "", "extension TrainSettings {",
             "    enum CodingKeys: String, CodingKey, CaseIterable {"]
    lines += [f"        case {camel(s['name'])}" + (f" = \"{s['name']}\"" if "_" in s["name"] else "") for s in settings]
    lines += ["    }", "", "    /// Settings as `run.json` has them; a name that there is not is an error.",
              "    public init(from decoder: any Decoder) throws {", "        try refuseUnknown(CodingKeys.self, in: decoder)",
              "        let at = try decoder.container(keyedBy: CodingKeys.self)"]
    for s in settings:
        lines.append(f"        {camel(s['name'])} = try at.decodeIfPresent({kind(s)}.self, forKey: .{camel(s['name'])})")
    lines += ["    }", "", "    /// As they cross to the library.", "    func core() throws -> SFTMixFFI.TrainSettings {",
              "        SFTMixFFI.TrainSettings("]
    lines += rows([f"{camel(s['name'])}: {CROSSED.get(s['type'], camel(s['name']))}" for s in settings], "            ")
    return "\n".join([*lines, "        )", "    }", "}", ""])
