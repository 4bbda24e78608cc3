"""Training jobs."""

import inspect as _inspect
import json
import os
import threading
import time
from typing import Any, Callable, Iterator, Optional

from . import _core
from ._events import Event, Listener, plain, sources, with_cause
from ._settings import SETTINGS

# Longest wait in the library, in seconds: between two, Python sees to interrupts.
_TURN = 0.2


class Record:
    """A record of the library, with its fields as attributes."""

    def __init__(self, core: Any):
        self.__dict__.update(plain(core))

    def to_dict(self) -> dict:
        """Its fields by name."""
        return dict(self.__dict__)

    def __eq__(self, other: Any) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.__dict__.items())})"


class Report(Record):
    """What a finished run says."""


class Status(Record):
    """A job at a glance."""


class Slice(Record):
    """How a slice ended: ``report`` when the run is finished, else ``checkpoint``."""

    def __init__(self, core: Any):
        self.report = Report(core.report) if core.report is not None else None
        self.checkpoint = core.checkpoint


class _Default:
    """A default in a signature: help() shows it, and it is told from what was given."""

    def __init__(self, value: Any):
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def settings(given: dict) -> tuple:
    """The settings record, the open model and the rows of what was given by keyword."""
    from . import Model

    unknown = [name for name in given if name not in SETTINGS]
    if unknown:
        import difflib

        near = difflib.get_close_matches(unknown[0], SETTINGS, 1)
        raise TypeError(f"there is no setting {unknown[0]!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    given = {name: value for name, value in given.items() if value is not None}
    model = given.pop("model", None)
    opened = model._core if isinstance(model, Model) else None
    data, rows = sources(given.pop("data", None))
    fields = {"data": data, "model": os.fspath(model) if model is not None and opened is None else None}
    for name, value in given.items():
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        elif name == "target_modules" and isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        elif name == "chat_template_kwargs":
            value = json.dumps(value)
        elif name == "adam_betas":
            value = [float(v) for v in value]
        elif SETTINGS[name][0] == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = float(value)
        kinds = {"int": int, "float": float, "bool": bool, "str": str}
        kind = kinds.get(SETTINGS[name][0])
        if kind is not None and (not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)):
            raise TypeError(f"{name}: expected {kind.__name__}, found {type(value).__name__} {value!r}")
        fields[name] = value
    return _core.TrainSettings(**fields), opened, rows


def signed(required: tuple = (), leading: tuple = (), trailing: tuple = ()) -> Callable:
    """Gives a function of ``**settings`` the signature and the documentation of all of them."""

    def decorate(function: Callable) -> Callable:
        kind = _inspect.Parameter.KEYWORD_ONLY
        own = [p for p in _inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD]
        named = {p.name for p in own}
        more = [
            _inspect.Parameter(name, kind, annotation=told,
                               default=_inspect.Parameter.empty if name in required else _Default(None if default is ... else default))
            for name, (told, default, _) in SETTINGS.items()
            if name not in named
        ]
        positional = [p for p in own if p.kind == p.POSITIONAL_OR_KEYWORD]
        keywords = [p for p in own if p.kind == p.KEYWORD_ONLY]
        function.__signature__ = _inspect.Signature([*positional, *more, *keywords])
        text = "".join(f"\n    {name}: {doc}" for name, (_, _, doc) in SETTINGS.items() if name not in named)
        function.__doc__ = f"{_inspect.cleandoc(function.__doc__ or '')}\n\nSettings:{text}\n"
        return function

    return decorate


class TrainingJob:
    """A run: start it or run it in slices, steer it from any thread, iterate over its events or be called with them. Its
    folder alone is enough to take it up again (:meth:`resume`)."""

    @signed(required=("model", "data", "out"))
    def __init__(self, *, on_event: Optional[Callable[[Event], Optional[bool]]] = None, **given: Any):
        """A new run in a folder that holds none. ``model`` is a path or an open :class:`Model`; ``data`` a path, a list of
        paths or (path, weight), or any iterable of rows (dicts, or JSON text), which is read once and not held in memory.
        ``on_event`` is called with each event on a thread of its own; ``False`` from it stops the job."""
        record, model, rows = settings(given)
        self._core = _core.TrainingJob(record, model, Listener(on_event) if on_event else None, rows)

    @classmethod
    def resume(cls, out: Any, *, on_event: Optional[Callable[[Event], Optional[bool]]] = None, **given: Any) -> "TrainingJob":
        """The run in the folder ``out``, to be taken up where its newest whole checkpoint stands. Settings are its own; inputs
        that have moved and settings of the machine may be given anew."""
        record, model, rows = settings(given)
        if rows is not None:
            raise TypeError("data: rows of a run that is taken up are in its folder")
        job = cls.__new__(cls)
        job._core = _core.TrainingJob.resume(os.fspath(out), record, model, Listener(on_event) if on_event else None)
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
        self._core.start()
        return self

    def wait(self, timeout: Optional[float] = None) -> Optional[Report]:
        """Waits for the end of what was started: the report, or ``None`` where it still goes on after ``timeout`` seconds.
        ``None`` too where it was not begun. Raises what ended it."""
        until = None if timeout is None else time.monotonic() + timeout
        try:
            while True:
                # In turns, so that an interrupt is seen.
                left = _TURN if until is None else min(_TURN, max(0.0, until - time.monotonic()))
                report = self._core.wait(left)
                if report is not None:
                    return Report(report)
                if not self._is_going() or (until is not None and time.monotonic() >= until):
                    report = self._core.wait(0.0)
                    return Report(report) if report is not None else None
        except _core.SftmixError.Callback as e:
            raise with_cause(e)

    def run(self, progress: bool = False) -> Report:
        """Begins it and waits for its end; ``progress`` shows a bar, where ``tqdm`` is installed."""
        self._core.start()
        try:
            if progress:
                self._bar()
            else:
                self.wait()
        except KeyboardInterrupt:
            self._core.cancel(True)
            try:
                self._core.wait(None)
            except _core.SftmixError:
                pass  # The checkpoint is written; the interrupt is what the caller sees.
            raise
        report = self.wait()
        assert report is not None
        return report

    def _is_going(self) -> bool:
        return self.status().state not in ("idle", "done", "cancelled", "failed")

    def _bar(self) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            tqdm = None
        bar = None
        for event in self.events():
            if tqdm is not None and event.kind == "prepared":
                bar = tqdm(total=event.total_steps, initial=event.resumed_at, unit="step")
            elif bar is not None and event.kind == "step":
                bar.update(1)
                bar.set_postfix(loss=f"{event.loss:.4f}")
        if bar is not None:
            bar.close()

    async def run_async(self) -> Report:
        """As :meth:`run`, for callers that await."""
        try:
            return Report(await self._core.run_async())
        except _core.SftmixError.Callback as e:
            raise with_cause(e)

    def run_slice(self, seconds: float) -> Slice:
        """Trains for at most so long and the micro-batch under way, writes a checkpoint and returns. The next slice, in this
        process or another, goes on to the same bytes."""
        ended: list = []

        def work() -> None:
            try:
                ended.append(self._core.run_slice(float(seconds)))
            except Exception as e:
                ended.append(e)
            finally:
                done.set()

        # Not by join: an interrupt in it marks a thread as ended that is not (bpo-45274).
        done = threading.Event()
        thread = threading.Thread(target=work, name="sftmix-slice")
        thread.start()
        try:
            while not done.wait(_TURN):
                pass
        except KeyboardInterrupt:
            self._core.cancel(True)
            done.wait()
            raise
        if isinstance(ended[0], Exception):
            raise with_cause(ended[0])
        return Slice(ended[0])

    async def run_slice_async(self, seconds: float) -> Slice:
        """As :meth:`run_slice`, for callers that await."""
        try:
            return Slice(await self._core.run_slice_async(float(seconds)))
        except _core.SftmixError.Callback as e:
            raise with_cause(e)

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
        with the job, or where none came for ``timeout`` seconds."""
        while (numbered := self._next(timeout)) is not None:
            yield Event(numbered.event)
            self._core.acknowledge(numbered.number)

    def _next(self, timeout: Optional[float]) -> Any:
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _TURN if until is None else min(_TURN, max(0.0, until - time.monotonic()))
            going = self._is_going()
            numbered = self._core.next_event(left)
            if numbered is not None or not going or (until is not None and time.monotonic() >= until):
                return numbered

    async def events_async(self):
        """As :meth:`events`, for callers that await."""
        while (numbered := await self._core.next_event_async(None)) is not None:
            yield Event(numbered.event)
            self._core.acknowledge(numbered.number)

    def __iter__(self) -> Iterator[Event]:
        """Begins it, unless it was begun, and gives its events; raises what made it fail. A job that was stopped just ends here:
        :meth:`wait` tells."""
        if self.status().state == "idle":
            self._core.start()
        yield from self.events()
        if self.status().state == "failed":
            self.wait()

    def close(self) -> None:
        """Stops it, behind a checkpoint, and lets its threads and memory go."""
        self._core.shut_down()

    def __enter__(self) -> "TrainingJob":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
