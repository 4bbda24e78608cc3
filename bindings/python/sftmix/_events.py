"""Events, records and rows, as Python has them."""

import json
import os
from typing import Any, Callable, Iterable, Iterator, Optional, Tuple

from . import _core


def plain(value: Any) -> Any:
    """A record as a dict, its records too."""
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "__dict__") and type(value).__module__ == _core.__name__ and not isinstance(value, type):
        return {name: plain(v) for name, v in vars(value).items() if not name.startswith("_")}
    if hasattr(value, "name") and type(value).__module__ == _core.__name__:
        return value.name.lower()
    return value


class Event:
    """Something that happened in a job. ``kind`` says what: ``prepared``, ``step``, ``evaluated``, ``stopped_early``,
    ``sweep``, ``split``, ``checkpoint`` or ``limits``; its figures are attributes, by the names of ``metrics.jsonl``."""

    __slots__ = ("kind", "_fields")

    def __init__(self, event: Any):
        fields = {name: value for name, value in vars(event).items() if not name.startswith("_")}
        name = type(event).__name__
        self.kind = "".join("_" + c.lower() if c.isupper() and i and name[i - 1].islower() else c.lower()
                            for i, c in enumerate(name))
        inner = fields.get(self.kind)
        self._fields = plain(inner) if inner is not None and len(fields) == 1 else plain_fields(fields)

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


def plain_fields(fields: dict) -> dict:
    return {name: plain(value) for name, value in fields.items()}


class Listener(_core.EventListener):
    """Calls a function with each event; it ends the job by returning ``False``."""

    def __init__(self, call: Callable[[Event], Optional[bool]]):
        self._call = call

    def on_event(self, event: Any) -> bool:
        return failing(lambda: self._call(Event(event)) is not False)


class TextListener(_core.TextListener):
    """Calls a function with each piece of text."""

    def __init__(self, call: Callable[[str], Optional[bool]]):
        self._call = call

    def on_text(self, piece: str) -> bool:
        return failing(lambda: self._call(piece) is not False)


class Rows(_core.RowSource):
    """Rows of an iterable, one by one: dicts, or JSON objects as text."""

    def __init__(self, rows: Iterable):
        self._rows: Iterator = iter(rows)

    def next_row(self) -> Optional[str]:
        def pull() -> Optional[str]:
            row = next(self._rows, None)
            if row is None or isinstance(row, str):
                return row
            return json.dumps(row, ensure_ascii=False)

        return failing(pull)


# What a callback raised, by the text that goes across: the caller gets the exception itself as the cause.
_raised: dict = {}


def failing(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as e:
        reason = f"{type(e).__name__}: {e}"
        if len(_raised) < 100:
            _raised[reason] = e
        raise _core.SftmixError.Callback(detail=f"a callback failed: {reason}", reason=reason) from e


def with_cause(error: Exception) -> Exception:
    """The error with what a callback raised as its cause."""
    cause = _raised.pop(getattr(error, "reason", None), None)
    if cause is not None:
        error.__cause__ = cause
    return error


def sources(data: Any) -> Tuple[Optional[list], Optional[Rows]]:
    """Files with weights, or rows, of what was given as data."""
    if data is None:
        return None, None
    if isinstance(data, (str, os.PathLike)):
        return [_core.DataSource(path=os.fspath(data), weight=1.0)], None
    if isinstance(data, (list, tuple)) and data and all(_is_source(d) for d in data):
        pairs = [(d, 1.0) if isinstance(d, (str, os.PathLike)) else d for d in data]
        return [_core.DataSource(path=os.fspath(path), weight=float(weight)) for path, weight in pairs], None
    if isinstance(data, dict) or not hasattr(data, "__iter__"):
        raise TypeError(f"data: expected a path, a list of paths or (path, weight), or an iterable of rows, "
                        f"found {type(data).__name__}")
    return None, Rows(data)


def _is_source(value: Any) -> bool:
    if isinstance(value, os.PathLike):
        return True
    if isinstance(value, str):
        return not value.lstrip().startswith("{")
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], (str, os.PathLike))
