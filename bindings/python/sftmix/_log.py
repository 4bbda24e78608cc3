"""What the library logs goes to :mod:`logging`."""

import logging
import sys
import types
from typing import Any, Optional, Union

from . import _core
from ._leaving import watched


class _Log(_core.LogListener):
    def __init__(self, logger: logging.Logger):
        self._logger = logger

    def on_log(self, level: str, message: str) -> None:
        try:
            self._logger.log(getattr(logging, level.upper(), logging.DEBUG), "%s", message)
        except BaseException as e:  # noqa: BLE001 - across the border it would end the run that logs
            told = types.SimpleNamespace(exc_type=type(e), exc_value=e, exc_traceback=e.__traceback__,
                                         err_msg="Exception ignored in what sftmix logs to", object=self._logger)
            sys.unraisablehook(told)


class _Where:
    """Where the log goes: nowhere before the interpreter ends."""

    listening = False

    def _leave_for_good(self) -> None:
        if self.listening:
            _core.set_log_listener(None, "warn")


_where = _Where()


# Nothing is logged above an error.
_LEVELS = {"warning": "warn", "critical": "error", "fatal": "error", "notset": "debug"}


def _level(level: Any) -> str:
    """The library's level for one of its own, or for one of :mod:`logging` by name or number."""
    if isinstance(level, str):
        return _LEVELS.get(level.lower(), level.lower())
    if isinstance(level, bool) or not isinstance(level, int):
        raise TypeError(f"level: expected a str or an int such as logging.WARNING, found {type(level).__name__} {level!r}")
    known = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warn"}
    return next((name for number, name in known.items() if level <= number), "error")


def log_to(logger: Any = None, level: Union[str, int] = "warn") -> None:
    """Sends what the library logs to a logger of :mod:`logging`; ``None`` drops it again, as at the start. ``level`` is
    ``error``, ``warn``, ``info`` or ``debug``, or a level of :mod:`logging` by name or number. What a handler or filter raises
    goes to :func:`sys.unraisablehook`, and not to the run that logs."""
    level = _level(level)
    if logger is not None:
        watched(_where)
    _core.set_log_listener(_Log(logger) if logger is not None else None, level)
    _where.listening = logger is not None
