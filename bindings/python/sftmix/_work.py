"""Calls of the library that take time, on a thread of their own: whoever waits for one sees interrupts.

A call of the library runs outside Python, where no signal handler does. So it is made aside, and the caller waits in
Python: Ctrl-C, or a handler that raises, breaks the wait at once.
"""

import asyncio
import threading
from typing import Any, Awaitable, Callable, Optional

from ._leaving import watched

#: Longest wait without a look at interrupts, in seconds; where a wait is not broken by them, as on Windows.
TURN = 0.2


class Work:
    """One call, from its start to its end."""

    def __init__(self, call: Callable[[], Any]):
        self._call: Optional[Callable] = call
        self._result: Any = None
        self._error: Optional[BaseException] = None
        # Not by join: an interrupt in it marks a thread as ended that is not (bpo-45274).
        self._done = threading.Event()
        #: Whether there is an end to wait for.
        self.begun = False

    def start(self) -> None:
        # A daemon: the interpreter does not wait for it before its hooks have run, which know how to end it.
        self.begun = True
        try:
            threading.Thread(target=self._run, name="sftmix-call", daemon=True).start()
        except RuntimeError:  # The system has no thread left.
            self._done.set()
            raise

    def _run(self) -> None:
        call, self._call = self._call, None
        try:
            self._result = call()
        except BaseException as e:  # noqa: BLE001 - it is raised where it is waited for
            self._error = e
        finally:
            del call
            self._done.set()

    def settle(self) -> None:
        """Waits for the end, whatever it is."""
        while not self._done.wait(TURN):
            pass

    def result(self) -> Any:
        """What it gave, or raises what it raised; it has ended."""
        # Nothing of it stays here: a traceback holds the frames of those who wait.
        error, result = self._error, self._result
        self._error = self._result = None
        try:
            if error is not None:
                raise error
            return result
        finally:
            del error, result


def waited(call: Callable[[], Any], leave: Optional[Callable[[], None]] = None) -> Any:
    """Makes the call and waits for its end. An interrupt of the wait calls ``leave`` and goes on to the caller; without
    ``leave`` the call cannot be broken off, and goes on to its end aside."""
    work = Work(call)
    try:
        work.start()
        work.settle()
    except BaseException:
        if leave is not None:
            leave()
        raise
    return work.result()


class Breakable:
    """A call that can be broken off: its asynchronous form, which ends when nobody awaits it any more."""

    def __init__(self, call: Callable[[], Awaitable]):
        self._call = call
        self._lock = threading.Lock()
        self._left = False
        self._loop: Any = None
        self._task: Any = None
        self._work = Work(self._on_loop)

    def wait(self) -> Any:
        watched(self)
        try:
            self._work.start()
            self._work.settle()
        except BaseException:
            self.leave()
            raise
        return self._work.result()

    def _on_loop(self) -> Any:
        return asyncio.run(self._awaited())

    async def _awaited(self) -> Any:
        with self._lock:
            if self._left:
                raise asyncio.CancelledError
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            return await self._call()
        finally:
            with self._lock:
                self._loop = self._task = None

    def leave(self) -> None:
        """Breaks it off."""
        with self._lock:
            self._left = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)

    def _leave_for_good(self) -> None:
        self.leave()
        if self._work.begun:
            self._work.settle()
