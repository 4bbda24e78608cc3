"""The data map: what a run has found out about each example."""

import os
from typing import Any, Iterable, List, Optional, Tuple

from . import _core
from ._events import plain
from ._job import Record


class Summary(Record):
    """What the map says as a whole."""


class DataMap:
    """What each checkpoint of a run's reference training thinks of each example: confidence, variability, correctness, the
    halves. Rows come in pages: the log is never in memory."""

    def __init__(self, run: Any):
        self._core = _core.DataMap.open(os.fspath(run))

    def summary(self) -> Summary:
        """Distributions, the halves, and how far the two kinds of confidence agree."""
        return Summary(self._core.summary())

    def rows(self, *, sort_by: str = "confidence", descending: bool = False, half: Optional[str] = None,
             where: Iterable[Tuple[str, Optional[float], Optional[float]]] = (), offset: int = 0, limit: int = 100,
             text: bool = True) -> dict:
        """A page of rows as a dict of lists, which ``pandas.DataFrame`` takes; the least confident first unless told
        otherwise. ``where`` holds (key, least, most), with ``None`` for no bound; ``text`` adds prompt and response."""
        filters = [_core.MapFilter(key=key, min=least, max=most) for key, least, most in where]
        query = _core.MapQuery(sort_by=sort_by, descending=descending, half=half, filters=filters, offset=offset, limit=limit,
                               with_text=text)
        rows = [plain(row) for row in self._core.page(query).rows]
        columns = list(rows[0]) if rows else list(_columns())
        return {name: [row[name] for row in rows] for name in columns}

    def count(self, *, half: Optional[str] = None,
              where: Iterable[Tuple[str, Optional[float], Optional[float]]] = ()) -> int:
        """How many rows there are of which this holds."""
        filters = [_core.MapFilter(key=key, min=least, max=most) for key, least, most in where]
        return self._core.page(_core.MapQuery(half=half, filters=filters, limit=1)).total

    def history(self, index: int) -> List[dict]:
        """One example under each checkpoint."""
        return [plain(point) for point in self._core.history(index)]


def _columns() -> Iterable[str]:
    return _core.MapRow.__annotations__
