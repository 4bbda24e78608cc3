"""Training jobs."""

import json
import os
import time
from typing import Any, AsyncIterator, Callable, Iterator, Optional

from . import _checked, _core
from ._callbacks import Told
from ._errors import misuse, of_callback
from ._events import Event, Record
from ._given import settings, signed
from ._leaving import watched
from ._work import TURN, Work


class Report(Record):
    """What a finished run says."""


class Status(Record):
    """A job at a glance."""


class Slice(Record):
    """How a slice ended: ``report`` when the run is finished, else ``checkpoint``."""

    def __init__(self, core: Any):
        self.report = Report(core.report) if core.report is not None else None
        self.checkpoint = core.checkpoint


class TrainingJob:
    """A run: start it or run it in slices, steer it from any thread, iterate over its events or be called with them. Its
    folder alone is enough to take it up again (:meth:`resume`).

    What breaks a wait for it (Ctrl-C, a signal handler that raises) stops it behind a checkpoint; so does the end of the
    interpreter."""

    # Whether this object was ever begun, be it for a slice.
    _begun = False

    @signed(required=("model", "data", "out"), rows=True)
    def __init__(self, *, on_event: Optional[Callable[[Event], Optional[bool]]] = None, **given: Any):
        """A new run in a folder that holds none. ``model`` is a path or an open :class:`Model`; ``data`` a path,
        (path, weight), a list of these, or any iterable of rows (dicts, or JSON text), which is read once and not held in
        memory. ``on_event`` is called with each event on a thread of its own; ``False`` from it stops the job."""
        record, model, rows = settings(given, required=("model", "data", "out"))
        self._told = Told(on_event, rows)
        self._core = _core.TrainingJob(record, model, self._told.listener(), self._told.source())
        watched(self)

    @classmethod
    def resume(cls, out: Any, *, on_event: Optional[Callable[[Event], Optional[bool]]] = None, **given: Any) -> "TrainingJob":
        """The run in the folder ``out``, to be taken up where its newest whole checkpoint stands. Settings are its own; inputs
        that have moved and settings of the machine may be given anew."""
        record, model, rows = settings(given)
        if rows is not None:
            raise TypeError("data: rows of a run that is taken up are in its folder")
        job = cls.__new__(cls)
        job._told = Told(on_event, None)
        job._core = _core.TrainingJob.resume(os.fspath(out), record, model, job._told.listener())
        watched(job)
        return job

    @property
    def out(self) -> str:
        """Its run folder."""
        return self._core.out()

    @property
    def settings(self) -> dict:
        """Every setting by name."""
        return json.loads(self._core.settings_json())

    def start(self) -> "TrainingJob":
        """Begins it on a thread of its own."""
        self._begin()
        return self

    def _begin(self) -> None:
        self._core.start()
        self._begun = True

    def wait(self, timeout: Optional[float] = None) -> Optional[Report]:
        """Waits for the end of what was started: the report, or ``None`` where it still goes on after ``timeout`` seconds.
        ``None`` too where it was not begun, or a slice is over. Raises what ended it."""
        try:
            return self._wait(timeout)
        except _core.SftmixError:
            raise
        except BaseException:
            self._break_off()
            raise

    def _wait(self, timeout: Optional[float] = None) -> Optional[Report]:
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            # A slice that is over has left the run idle; the library would call it stopped.
            if self.status().state == "idle":
                return None
            # In turns, so that an interrupt is seen.
            report = self._ended(lambda: self._core.wait(_turn(until)))
            if report is not None:
                return Report(report)
            if not self._is_going() or (until is not None and time.monotonic() >= until):
                report = self._ended(lambda: self._core.wait(0.0))
                return Report(report) if report is not None else None

    def _ended(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except _core.SftmixError.Callback as e:
            error = of_callback(e, self._told.raised)
        raise error

    def _break_off(self) -> None:
        """Stops it behind a checkpoint and waits for that; a second interrupt leaves at once."""
        try:
            if self._is_going():
                self._core.cancel(True)
            while self._is_going():
                self._core.wait(TURN)
        except _core.SftmixError:
            pass  # It has ended. The caller sees what broke the wait, and not how the job took it.

    def run(self, progress: bool = False) -> Report:
        """Begins it and waits for its end; ``progress`` shows a bar, where ``tqdm`` is installed."""
        self._begin()
        try:
            if progress:
                self._bar()
            report = self._wait()
        except BaseException:
            self._break_off()
            raise
        assert report is not None
        return report

    def _is_going(self) -> bool:
        return self.status().state not in ("idle", "done", "cancelled", "failed")

    def _bar(self) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            return
        bar = None
        for event in self.events():
            if event.kind == "prepared":
                bar = tqdm(total=event.total_steps, initial=event.resumed_at, unit="step")
            elif bar is not None and event.kind == "step":
                bar.update(1)
                bar.set_postfix(loss=f"{event.loss:.4f}")
        if bar is not None:
            bar.close()

    async def run_async(self) -> Report:
        """As :meth:`run`, for callers that await. Where that is cancelled, the job stops behind a checkpoint: it is
        stopping then, and :meth:`wait` or :meth:`close` waits for that."""
        self._begun = True
        try:
            return Report(await self._core.run_async())
        except _core.SftmixError.Callback as e:
            error = of_callback(e, self._told.raised)
        raise error

    def run_slice(self, seconds: float) -> Slice:
        """Trains for at most so long and the micro-batch under way, writes a checkpoint and returns. The next slice, in this
        process or another, goes on to the same bytes."""
        seconds = _checked.number("seconds", seconds)
        self._begun = True
        slice = Work(lambda: self._core.run_slice(seconds))
        try:
            slice.start()
            slice.settle()
        except BaseException:
            self._core.cancel(True)
            slice.settle()
            raise
        return Slice(self._ended(slice.result))

    async def run_slice_async(self, seconds: float) -> Slice:
        """As :meth:`run_slice`, for callers that await. Where that is cancelled, the job stops behind a checkpoint, as under
        :meth:`run_async`."""
        seconds = _checked.number("seconds", seconds)
        self._begun = True
        try:
            return Slice(await self._core.run_slice_async(seconds))
        except _core.SftmixError.Callback as e:
            error = of_callback(e, self._told.raised)
        raise error

    def pause(self) -> None:
        """Asks it to wait: it finishes its micro-batch and writes a checkpoint."""
        self._core.pause()

    def unpause(self) -> None:
        """Lets it go on after a pause."""
        self._core.unpause()

    def cancel(self, save: bool = True) -> None:
        """Asks it to stop within a micro-batch: behind a checkpoint, or at the newest one that is there."""
        self._core.cancel(save)

    def update(self, *, threads: Optional[int] = None, duty_cycle: Optional[float] = None,
               memory_limit: Optional[int] = None) -> None:
        """Changes what it may take of the machine, from the next micro-batch on: worker threads, the share of the time in
        which it computes, bytes that it may hold."""
        self._core.update(_core.Limits(threads=threads, duty_cycle=duty_cycle, memory_limit=memory_limit))

    def status(self) -> Status:
        """What it is at; answers at once."""
        return Status(self._core.status())

    def events(self, timeout: Optional[float] = None) -> Iterator[Event]:
        """Its events from the first that was not dealt with; an event counts as dealt with when the next is asked for. Ends
        with the job, or where none came for ``timeout`` seconds. The job must have been begun, as by
        :meth:`start`; to iterate over the job itself begins it."""
        self._check_begun()
        while (numbered := self._next(timeout)) is not None:
            yield Event(numbered.event)
            self._core.acknowledge(numbered.number)

    def _check_begun(self) -> None:
        if not self._begun and self.status().state == "idle":
            raise misuse("the job was not begun and has no events; call start() first")

    def _next(self, timeout: Optional[float]) -> Any:
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            going = self._is_going()
            numbered = self._core.next_event(_turn(until))
            if numbered is not None or not going or (until is not None and time.monotonic() >= until):
                return numbered

    async def events_async(self) -> AsyncIterator[Event]:
        """As :meth:`events`, for callers that await."""
        self._check_begun()
        while (numbered := await self._core.next_event_async(None)) is not None:
            yield Event(numbered.event)
            self._core.acknowledge(numbered.number)

    def __iter__(self) -> Iterator[Event]:
        """Begins it, unless it was begun, and gives its events; raises what made it fail. A job that was stopped just ends here:
        :meth:`wait` tells."""
        if self.status().state == "idle":
            self._begin()
        yield from self.events()
        if self.status().state == "failed":
            self.wait()

    def close(self) -> None:
        """Stops it, behind a checkpoint, and lets its threads and memory go."""
        self._core.shut_down()

    def _leave_for_good(self) -> None:
        self._core.shut_down()

    def __repr__(self) -> str:
        try:
            at = self.status()
            said = f"{self.out}: {at.state}" + (f", step {at.global_step} of {at.total_steps}" if at.total_steps else "")
        except _core.SftmixError:  # It was shut down, or is another process's.
            said = "closed"
        return f"<sftmix.TrainingJob {said}>"

    def __enter__(self) -> "TrainingJob":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _turn(until: Optional[float]) -> float:
    """Seconds to wait in the library at most: between two waits, Python sees to interrupts."""
    return TURN if until is None else min(TURN, max(0.0, until - time.monotonic()))
