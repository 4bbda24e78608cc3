"""Events and records, as Python has them."""

import enum
import json
from typing import Any

from . import _core


def plain(value: Any) -> Any:
    """A record as a dict, its records too."""
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "__dict__") and type(value).__module__ == _core.__name__ and not isinstance(value, type):
        return {name: plain(v) for name, v in vars(value).items() if not name.startswith("_")}
    return value


class Record:
    """A record of the library, with its fields as attributes."""

    def __init__(self, core: Any):
        self.__dict__.update(plain(core))

    def to_dict(self) -> dict:
        """Its fields by name."""
        return {name: value.to_dict() if isinstance(value, Record) else value for name, value in vars(self).items()}

    def __eq__(self, other: Any) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.__dict__.items())})"


class Event:
    """Something that happened in a job. ``kind`` says what: ``prepared``, ``step``, ``evaluated``, ``stopped_early``,
    ``sweep``, ``split``, ``checkpoint`` or ``limits``; its figures are attributes, by the names of ``metrics.jsonl``."""

    __slots__ = ("kind", "_fields")

    def __init__(self, event: Any):
        fields = {name: value for name, value in vars(event).items() if not name.startswith("_")}
        self.kind = type(event).__name__.rpartition(".")[2].lower()
        inner = fields.get(self.kind)
        if inner is not None and len(fields) == 1:
            self._fields = plain(inner)
        else:
            self._fields = {name: plain(value) for name, value in fields.items()}

    def __getattr__(self, name: str) -> Any:
        fields = object.__getattribute__(self, "_fields")
        if name in fields:
            return fields[name]
        raise AttributeError(f"an event {self.kind!r} has no {name!r}; it has {', '.join(fields)}")

    def __dir__(self):
        return ["kind", "to_dict", *self._fields]

    def to_dict(self) -> dict:
        """Its figures by name, with ``event``, as a line of ``metrics.jsonl``."""
        return {"event": self.kind, **self._fields}

    def __repr__(self) -> str:
        return f"<sftmix event {json.dumps(self.to_dict())}>"
