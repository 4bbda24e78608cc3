"""Callbacks that fail, rows that are none, and what holds whom."""
import asyncio
import gc
import logging
import pathlib
import sys
import weakref

import pytest

import sftmix
from conftest import DEMO, settings

SHORT = dict(recipe="ntp", max_steps=1, warmup_ratio=0.0, max_length=16)


class Odd(BaseException):
    """What no caller catches by the way."""


def raising(error):
    def call(*_):
        raise error

    return call


@pytest.mark.parametrize("error", [KeyboardInterrupt("k"), SystemExit(4), GeneratorExit("g"), Odd("o")], ids=repr)
def test_what_ends_programs_reaches_whoever_waits(tmp_path, error):
    with sftmix.TrainingJob(**settings(tmp_path / "a", **SHORT), on_event=raising(error)) as job:
        with pytest.raises(type(error)) as seen:
            job.run()
        assert seen.value is error and job.status().state == "failed"
        with pytest.raises(type(error)):
            job.wait()
        with pytest.raises(type(error)):
            list(job)

    def rows():
        yield {"text": "a b c"}
        raise error

    # A generator may not end by GeneratorExit while it goes on; what an iterator raises is what counts.
    class Source:
        def __iter__(self):
            self.rows = iter([{"text": "a b c"}])
            return self

        def __next__(self):
            for row in self.rows:
                return row
            raise error

    for data in ([rows()] if not isinstance(error, GeneratorExit) else []) + [Source()]:
        with pytest.raises(type(error)) as seen:
            sftmix.TrainingJob(**settings(tmp_path / "b", **SHORT, data=data)).run()
        assert seen.value is error

    generator = sftmix.Generator(DEMO, threads=1)
    with pytest.raises(type(error)) as seen:
        generator.generate("Once", on_text=raising(error))
    assert seen.value is error


@pytest.mark.parametrize("how", ["run_async", "run_slice", "run_slice_async", "iterated"])
def test_the_cause_is_there_however_the_job_is_waited_for(tmp_path, how):
    error = LookupError("mine")
    with sftmix.TrainingJob(**settings(tmp_path / "a", **SHORT), on_event=raising(error)) as job:
        with pytest.raises(sftmix.CallbackError) as seen:
            if how == "run_slice":
                job.run_slice(60)
            elif how == "iterated":
                list(job)
            else:
                asyncio.run(job.run_async() if how == "run_async" else job.run_slice_async(60))
        assert seen.value.__cause__ is error


def test_each_job_has_its_own_cause(tmp_path):
    """Whatever others have left, and though the words are the same."""
    from sftmix._callbacks import Told

    for i in range(150):
        with pytest.raises(sftmix.CallbackError):
            Told(None, None).call(raising(ValueError(i)))
    errors = [KeyError("mine"), KeyError("mine")]
    jobs = [sftmix.TrainingJob(**settings(tmp_path / str(i), **SHORT), on_event=raising(e)) for i, e in enumerate(errors)]
    for job in jobs:
        job.start()
    for job, error in reversed(list(zip(jobs, errors))):
        with pytest.raises(sftmix.CallbackError) as seen:
            job.wait()
        assert seen.value.__cause__ is error
        job.close()


@pytest.mark.parametrize("row, says", [(None, "row 6: expected a dict, or a JSON object as text, found None"),
                                       ({"text": object()}, "row 6: .*not JSON serializable"),
                                       ({"text": "\ud800"}, "row 6: .*surrogates")])
def test_a_row_that_is_none_is_no_end(tmp_path, row, says):
    rows = [{"text": f"a b c {i}"} if i != 5 else row for i in range(40)]
    with pytest.raises(sftmix.CallbackError, match=says) as seen:
        sftmix.TrainingJob(**settings(tmp_path / "a", **SHORT, data=rows)).run()
    assert isinstance(seen.value.__cause__, (TypeError, ValueError))
    assert not (tmp_path / "a").exists()


def test_a_log_that_fails_does_not_end_the_run(tmp_path, monkeypatch):
    class Broken(logging.Filter):
        def filter(self, record):
            raise ValueError("boom")

    logger, told = logging.getLogger("sftmix-broken"), []
    logger.addFilter(Broken())
    logger.setLevel(logging.DEBUG)
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    sftmix.log_to(logger, "debug")
    try:
        report = sftmix.TrainingJob(**settings(tmp_path / "a", **{**SHORT, "max_length": 100_000})).run()
    finally:
        sftmix.log_to(None)
    assert report.steps and told and str(told[0].exc_value) == "boom"


def test_an_object_that_listens_by_its_own_method_goes(tmp_path):
    class Owner:
        def __init__(self, name, rows=None):
            more = {} if rows is None else {"data": self.rows()}
            self.seen = []
            self.job = sftmix.TrainingJob(**settings(tmp_path / name, **SHORT, **more), on_event=self.on)

        def on(self, event):
            self.seen.append(event.kind)

        def rows(self):
            for i in range(8):
                yield {"text": f"a b c {i}"}

    for name, rows, run in [("a", None, True), ("b", True, True), ("c", True, False)]:
        owner = Owner(name, rows)
        if run:
            owner.job.run()
            assert "step" in owner.seen
        gone = weakref.ref(owner)
        del owner
        gc.collect()
        assert gone() is None, name


def test_a_job_that_nobody_holds_stops(tmp_path):
    sftmix.TrainingJob(**settings(tmp_path / "a", max_steps=5000, epochs=500), on_event=lambda e: None).start()
    assert not (tmp_path / "a/adapter").exists()


def test_who_cancels_a_task_stops_its_job_behind_a_checkpoint(tmp_path):
    async def run(start, out):
        job = sftmix.TrainingJob(**settings(out, max_steps=5000, epochs=500))
        task = asyncio.create_task(start(job))
        while job.status().global_step < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(1000):
            if job.status().state == "cancelled":
                break
            await asyncio.sleep(0.01)
        assert job.status().state == "cancelled"
        assert pathlib.Path(job.status().checkpoint).is_dir()
        with pytest.raises(sftmix.StoppedError):
            job.wait()
        job.close()

    asyncio.run(run(lambda job: job.run_async(), tmp_path / "a"))
    asyncio.run(run(lambda job: job.run_slice_async(600), tmp_path / "b"))


def test_a_slice_that_is_over_is_no_failure(tmp_path):
    with sftmix.TrainingJob(**settings(tmp_path / "a", max_steps=5000, epochs=500)) as job:
        assert job.wait() is None
        assert job.run_slice(0.05).report is None
        assert job.status().state == "idle" and job.wait() is None and job.wait(0.1) is None


def test_a_callback_does_not_call_its_generator():
    generator = sftmix.Generator(DEMO, threads=1)
    seen = []

    def on_text(piece):
        seen.append(generator.adapter)
        for call in [lambda: generator.generate("a"), lambda: next(generator.stream("a")), generator.forget, generator.close,
                     lambda: generator.use_adapter(None)]:
            with pytest.raises(sftmix.MisuseError, match="callback"):
                call()
        return False

    assert generator.generate("Once", on_text=on_text).new_tokens == 1 and seen == [None]
