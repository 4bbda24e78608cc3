"""The data map: what a run has found out about each example."""

import inspect
import os
from typing import Any, Iterable, List, Optional, Tuple

from . import _checked, _core
from ._events import Record, plain
from ._work import waited


# By the record, and not by its first row: a page without rows has the same columns.
_COLUMNS = list(inspect.signature(_core.MapRow.__init__).parameters)[1:]


#: The most rows of a page, as the library has it; a number that cannot go across would be refused without a name.
LIMIT = 10_000


def _filters(filters: Any) -> List[Any]:
    found = []
    for one in _checked.several("filters", filters, "a list of (key, least, most)"):
        if not isinstance(one, (tuple, list)) or len(one) != 3 or not isinstance(one[0], str):
            raise TypeError(f"filters: expected a list of (key, least, most), found {_checked.said(one)} in it")
        key, least, most = one
        least, most = (_checked.maybe(_checked.number, f"filters: {key}", bound) for bound in (least, most))
        found.append(_core.MapFilter(key=key, min=least, max=most))
    return found


class Summary(Record):
    """What the map says as a whole."""


class DataMap:
    """What each checkpoint of a run's reference training thinks of each example: confidence, variability, correctness, the
    halves. Rows come in pages: the log is never in memory."""

    def __init__(self, run: Any):
        self._run = run = os.fspath(run)
        self._core = waited(lambda: _core.DataMap.open(run))

    def __repr__(self) -> str:
        return f"<sftmix.DataMap {self._run}>"

    def summary(self) -> Summary:
        """Distributions, the halves, and how far the two kinds of confidence agree."""
        return Summary(waited(self._core.summary))

    def rows(self, *, sort_by: str = "confidence", descending: bool = False, half: Optional[str] = None,
             filters: Iterable[Tuple[str, Optional[float], Optional[float]]] = (), offset: int = 0, limit: int = 100,
             with_text: bool = False) -> dict:
        """A page of rows as a dict of lists, which ``pandas.DataFrame`` takes; the least confident first unless told
        otherwise. ``filters`` holds (key, least, most), bounds included, ``None`` for none; ``with_text`` adds prompt and response.
        Keys are the columns: ``row`` (in its file, from 1), ``confidence`` (SFTMix's: minus the mean perplexity or nll),
        ``mean_probability`` (cartography's confidence), ``variability``, ``correctness``, ``forgetfulness``,
        ``mean_perplexity``, ``mean_nll``, ``tokens`` (those that are trained): by each of these it is sorted and filtered.
        ``index`` is the place in the set, from 0; ``file``, ``file_index`` and ``half`` say where it is from and which half it
        is in. ``limit`` is 1 to 10000: further pages are had by ``offset``."""
        filters, offset = _filters(filters), _checked.whole("offset", offset)
        limit = _checked.whole("limit", limit, 1, LIMIT)
        query = _core.MapQuery(sort_by=sort_by, descending=descending, half=half, filters=filters, offset=offset, limit=limit,
                               with_text=with_text)
        rows = [plain(row) for row in waited(lambda: self._core.page(query)).rows]
        return {name: [row[name] for row in rows] for name in _COLUMNS}

    def count(self, *, half: Optional[str] = None,
              filters: Iterable[Tuple[str, Optional[float], Optional[float]]] = ()) -> int:
        """How many rows there are of which this holds."""
        query = _core.MapQuery(half=half, filters=_filters(filters), limit=1)
        return waited(lambda: self._core.page(query)).total

    def history(self, index: int) -> List[dict]:
        """One example, by its ``index``, under each checkpoint."""
        index = _checked.whole("index", index, 0, 2**32 - 1)
        return [plain(point) for point in waited(lambda: self._core.history(index))]
