"""The end of the interpreter: what still calls back into Python ends before it.

A thread of the library that calls Python when the interpreter is gone ends the process with an abort. So whatever may
call back is in a set while it lives, and a hook of :mod:`atexit`, which runs while Python is whole, closes what is there:
jobs behind a checkpoint, texts within a token.
"""

import atexit
import os
import threading
import weakref
from typing import Any

from ._errors import misuse

_lock = threading.RLock()
_live: "weakref.WeakSet" = weakref.WeakSet()
_left = False


def watched(one: Any) -> None:
    """Has ``one._leave_for_good()`` called when the interpreter ends, if it lives then."""
    with _lock:
        if _left:
            raise misuse("the interpreter is ending")
        _live.add(one)


@atexit.register
def _leave() -> None:
    global _left
    with _lock:
        _left = True
        live = list(_live)
    for one in live:
        try:
            one._leave_for_good()
        except BaseException:  # noqa: BLE001 - one that fails, or an impatient interrupt, must not keep the others
            pass


def _forked() -> None:
    # Threads are the parent's, and so is who held the lock; what the child opens is its own to close.
    global _lock, _live
    _lock, _live = threading.RLock(), weakref.WeakSet()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
