"""What the library logs goes to :mod:`logging`."""

import logging
import sys
import types
from typing import Any, Optional

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


def log_to(logger: Any = None, level: str = "warn") -> None:
    """Sends what the library logs to a logger of :mod:`logging`; ``None`` drops it again, as at the start. What a handler
    or filter raises goes to :func:`sys.unraisablehook`, and not to the run that logs."""
    if logger is not None:
        watched(_where)
    _core.set_log_listener(_Log(logger) if logger is not None else None, level)
    _where.listening = logger is not None
