"""One text that is being made, on a thread of its own, and the one who waits for it."""

import queue
from typing import Any, Callable, Iterator, Optional

from . import _core
from ._errors import failed
from ._leaving import watched
from ._work import TURN, Work

_END = object()


class Making(_core.TextListener):
    """A text on its way. The library hands over each piece on the thread that makes it; whoever waits takes the pieces on
    the thread that asked, where interrupts are seen and an exception is at home."""

    def __init__(self, make: Callable[[Any], Any]):
        self._work = Work(lambda: self._made(make))
        # As many as there are: the text is bounded by its tokens, and one that had to wait for its reader would hold the
        # generator from whoever calls it in the loop.
        self._pieces: "queue.SimpleQueue" = queue.SimpleQueue()
        self._answers: Optional["queue.SimpleQueue"] = None
        self._wanted = True
        self._left = False

    def _made(self, make: Callable[[Any], Any]) -> Any:
        try:
            return make(self)
        finally:
            self._pieces.put(_END)

    def on_text(self, piece: str) -> bool:
        """The library's call: whether to go on."""
        if self._left:
            return False
        if not self._wanted:
            return True
        self._pieces.put(piece)
        return True if self._answers is None else self._answer()

    def _answer(self) -> bool:
        while not self._left:
            try:
                return self._answers.get(timeout=TURN)
            except queue.Empty:
                continue
        return False

    def result(self, on_text: Optional[Callable[[str], Optional[bool]]] = None) -> Any:
        """Makes it to its end. ``on_text`` is called with each piece before the next token; ``False`` ends the text."""
        if on_text is None:
            self._wanted = False
            for _ in self.pieces():
                pass
            return self._work.result()
        self._answers = queue.SimpleQueue()
        try:
            for piece in self.pieces():
                try:
                    goes_on = on_text(piece) is not False
                except Exception as e:
                    raise failed(e) from e
                self._answers.put(goes_on)
        finally:
            self.leave()
        return self._work.result()

    def pieces(self) -> Iterator[str]:
        """Makes it, and gives the pieces as they come; whoever leaves before the end ends the text."""
        watched(self)
        try:
            self._work.start()
            while (piece := self._next()) is not _END:
                yield piece
            self._work.settle()
        finally:
            self.leave()

    def _next(self) -> Any:
        while True:
            try:
                return self._pieces.get(timeout=TURN)
            except queue.Empty:
                continue

    def error(self) -> None:
        """Raises what kept it from its end."""
        self._work.result()

    def leave(self) -> None:
        """Ends it at its next token, and does not wait for that."""
        self._left = True

    def settle(self) -> None:
        """Waits until it has ended."""
        self._work.settle()

    def _leave_for_good(self) -> None:
        self.leave()
        if self._work.begun:
            self.settle()
