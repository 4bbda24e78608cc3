"""What a job calls: its listener and its source of rows.

The library keeps what it calls for as long as it keeps the job, out of the sight of Python's garbage collector. An object
that has a job and listens to it by a method of its own would so be held for ever. Here the library is given thin parts
that look weakly at what the job's own object holds: when that object goes, so does the rest.
"""

import json
import weakref
from typing import Any, Callable, Iterable, Iterator, Optional

from . import _core
from ._errors import failed, misuse
from ._events import Event

_END = object()


class Told:
    """The callbacks of one job, and what one of them raised. The job holds it, and nothing else does for long."""

    def __init__(self, on_event: Optional[Callable[[Event], Optional[bool]]], rows: Optional[Iterable]):
        self.on_event = on_event
        self.rows = Rows(rows) if rows is not None else None
        self.raised: Optional[BaseException] = None

    def listener(self) -> Any:
        """What the library calls with events."""
        return _Listener(weakref.ref(self)) if self.on_event is not None else None

    def source(self) -> Any:
        """What the library asks for rows."""
        return _Source(weakref.ref(self)) if self.rows is not None else None

    def call(self, function: Callable[[], Any]) -> Any:
        """Calls it; what it raises is kept here, and goes to the library as the error that ends the job. Whatever it is: an
        exception that is let through to the border is printed there, and the job goes on."""
        try:
            return function()
        except BaseException as e:  # noqa: BLE001 - whoever waits for the job gets it
            self.raised = e
            # Without its context: the library keeps only the text.
            raise failed(e) from None


class _Listener(_core.EventListener):
    def __init__(self, told: "weakref.ref[Told]"):
        self._told = told

    def on_event(self, event: Any) -> bool:
        told = self._told()
        # Its job has no owner any more, and is being stopped for that.
        if told is None or told.on_event is None:
            return True
        return told.call(lambda: told.on_event(Event(event)) is not False)


class _Source(_core.RowSource):
    def __init__(self, told: "weakref.ref[Told]"):
        self._told = told

    def next_row(self) -> Optional[str]:
        told = self._told()
        if told is None or told.rows is None:
            raise failed(misuse("the job that asks for rows has no owner any more"))
        return told.call(told.rows.next)


class Rows:
    """Rows of an iterable, one by one: dicts, or JSON objects as text."""

    def __init__(self, rows: Iterable):
        if hasattr(rows, "to_dict") and hasattr(rows, "columns"):
            # A data frame iterates over the names of its columns. Those of polars have a method of their own.
            how = "frame.to_dicts()" if hasattr(rows, "to_dicts") else 'frame.to_dict("records")'
            raise TypeError(f"data: expected rows, found a {type(rows).__name__}, which iterates over its columns; give {how}")
        self._rows: Iterator = iter(rows)
        self._number = 0

    def next(self) -> Optional[str]:
        """The next as text, or nothing behind the last."""
        row = next(self._rows, _END)
        if row is _END:
            return None
        self._number += 1
        if row is None:
            raise TypeError(f"row {self._number}: expected a dict, or a JSON object as text, found None")
        try:
            text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)
            text.encode()  # Half of a surrogate pair is no text that could go across.
        except (TypeError, ValueError) as e:
            raise (TypeError if isinstance(e, TypeError) else ValueError)(f"row {self._number}: {e}") from e
        return text
