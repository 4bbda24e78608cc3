"""Jobs: the same bytes as the command line's, events, pause, slices, limits, rows from an iterable, failures."""
import asyncio
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

import sftmix
from conftest import DEMO, adapter, settings


def until(job, *states):
    end = time.monotonic() + 60
    while job.status().state not in states:
        assert time.monotonic() < end, job.status()
        time.sleep(0.005)


def test_the_adapter_is_the_command_lines(tmp_path, by_program):
    report = sftmix.TrainingJob(**settings(tmp_path / "run")).run()
    assert adapter(tmp_path / "run") == by_program
    assert report.adapter == str(tmp_path / "run/adapter") and report.steps > 8


def test_events_have_the_words_of_metrics_jsonl(tmp_path):
    out = tmp_path / "run"
    seen = []
    with sftmix.TrainingJob(**settings(out, valid=DEMO / "valid.jsonl")) as job:
        seen = list(job)
        job.wait()
    kinds = {e.kind for e in seen}
    assert {"prepared", "step", "evaluated", "split", "checkpoint", "sweep"} <= kinds
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    written = [e.to_dict() for e in seen if e.kind in ("step", "evaluated")]
    assert written == lines
    step = next(e for e in seen if e.kind == "step")
    assert step.global_step == 1 and step.loss > 0
    with pytest.raises(AttributeError, match="has no 'nonsense'"):
        step.nonsense


def test_an_event_comes_until_it_was_dealt_with(tmp_path):
    out = tmp_path / "run"
    with sftmix.TrainingJob(**settings(out)).start() as job:
        steps = []
        for event in job.events():
            if event.kind == "step":
                if event.global_step == 5:
                    break  # Not dealt with: the next reader gets it.
                steps.append(event.global_step)
        report = job.wait()
        steps += [e.global_step for e in job.events() if e.kind == "step"]
    assert steps == list(range(1, report.steps + 1))


def test_cancel_takes_effect_within_a_micro_batch_and_resume_gives_the_same_bytes(tmp_path, by_program):
    out = tmp_path / "run"
    with sftmix.TrainingJob(**settings(out)) as job:
        for event in job:
            if event.kind == "step" and event.global_step == 4:
                job.cancel()
                begun = time.monotonic()
                with pytest.raises(sftmix.StoppedError) as stopped:
                    job.wait()
                assert time.monotonic() - begun < 5
                break
    checkpoint = stopped.value.checkpoint
    assert pathlib.Path(checkpoint).is_dir() and job is not None
    with sftmix.TrainingJob.resume(out) as job:
        job.run()
    assert adapter(out) == by_program


def test_cancel_without_a_checkpoint(tmp_path, by_program):
    out = tmp_path / "run"
    with sftmix.TrainingJob(**settings(out)) as job:
        for event in job:
            if event.kind == "step" and event.global_step == 5:
                job.cancel(save=False)
        with pytest.raises(sftmix.StoppedError):
            job.wait()
        assert not (out / "checkpoint-5").exists()
        # The same object goes on.
        job.run()
    assert adapter(out) == by_program


def test_pause_waits_behind_a_checkpoint(tmp_path, by_program):
    out = tmp_path / "run"
    with sftmix.TrainingJob(**settings(out)).start() as job:
        while job.status().global_step < 2:
            time.sleep(0.002)
        job.pause()
        until(job, "paused")
        at = job.status()
        assert at.checkpoint and pathlib.Path(at.checkpoint).is_dir()
        time.sleep(0.1)
        assert job.status().global_step == at.global_step
        job.unpause()
        job.wait()
        assert job.status().state == "done"
    assert adapter(out) == by_program


def test_slices_go_on_to_the_same_bytes(tmp_path, by_program):
    out = tmp_path / "run"
    with sftmix.TrainingJob(**settings(out)) as job:
        job.update(duty_cycle=0.4)
        slices = 1
        while (part := job.run_slice(0.3)).report is None:
            slices += 1
            assert slices < 300
    assert slices > 1 and adapter(out) == by_program


def test_limits(tmp_path, by_program):
    out = tmp_path / "run"
    with sftmix.TrainingJob(**settings(out)) as job:
        with pytest.raises(sftmix.InvalidConfigError) as e:
            job.update(duty_cycle=2)
        assert e.value.field == "duty_cycle"
        told = []
        for event in job:
            if event.kind == "step" and event.global_step == 2:
                with pytest.raises(sftmix.MemoryLimitError) as e:
                    job.update(memory_limit=1000)
                job.update(memory_limit=e.value.needed, duty_cycle=0.8)
            if event.kind == "limits":
                told.append((event.limits["memory_limit"], event.refused))
        job.wait()
        assert told == [(e.value.needed, None)]
    assert adapter(out) == by_program
    with sftmix.TrainingJob(**settings(tmp_path / "threads")) as job:
        job.update(threads=1)
        job.run()
        assert job.status().limits["threads"] == 1


@pytest.mark.parametrize("text", [False, True])
def test_rows_from_an_iterable(tmp_path, by_program, text):
    lines = (DEMO / "train.jsonl").read_text().splitlines()
    rows = (line if text else json.loads(line) for line in lines)
    out = tmp_path / "run"
    report = sftmix.TrainingJob(**settings(out, data=rows)).run()
    assert report.examples == len(lines)
    if text:
        assert adapter(out) == by_program


def test_a_source_of_rows_that_raises_is_the_cause(tmp_path):
    def rows():
        yield {"text": "a b c"}
        raise LookupError("the database is gone")

    with pytest.raises(sftmix.CallbackError) as e:
        sftmix.TrainingJob(**settings(tmp_path / "run", data=rows())).run()
    assert isinstance(e.value.__cause__, LookupError) and "the database is gone" in e.value.reason
    assert not (tmp_path / "run").exists()


def test_a_listener_that_raises_ends_the_job_behind_a_checkpoint(tmp_path, by_program):
    out = tmp_path / "run"

    def on_event(event):
        if event.kind == "step":
            raise KeyError("screen")

    with sftmix.TrainingJob(**settings(out), on_event=on_event) as job:
        with pytest.raises(sftmix.CallbackError) as e:
            job.run()
        assert isinstance(e.value.__cause__, KeyError)
        assert job.status().state == "failed"
    sftmix.TrainingJob.resume(out).run()
    assert adapter(out) == by_program


def test_a_listener_may_call_back_in_and_be_slow(tmp_path):
    seen = []
    holder = {}

    def on_event(event):
        seen.append((event.kind, holder["job"].status().state))
        holder["job"].update(duty_cycle=1)
        time.sleep(0.05)

    with sftmix.TrainingJob(**settings(tmp_path / "run"), on_event=on_event) as job:
        holder["job"] = job
        job.run()
    steps = [kind for kind, _ in seen if kind == "step"]
    assert steps and seen[0][0] == "prepared"
    holder.clear()


def test_a_listener_stops_the_job(tmp_path):
    with sftmix.TrainingJob(**settings(tmp_path / "run"), on_event=lambda e: e.kind != "step") as job:
        with pytest.raises(sftmix.StoppedError):
            job.run()


def test_two_jobs_at_once_on_one_model(tmp_path, by_program):
    model = sftmix.Model(DEMO)
    jobs = [sftmix.TrainingJob(**settings(tmp_path / n, model=model)).start() for n in "ab"]
    for job in jobs:
        job.wait()
        job.close()
    assert adapter(tmp_path / "a") == adapter(tmp_path / "b") == by_program


def test_jobs_share_worker_threads(tmp_path, by_program):
    shared = sftmix.Model(DEMO).share_workers(2)
    assert shared.path == sftmix.Model(DEMO).path
    given = {k: v for k, v in settings(tmp_path / "x", model=shared).items() if k not in ("threads", "out")}
    jobs = [sftmix.TrainingJob(**given, out=tmp_path / n).start() for n in "ab"]
    with sftmix.Generator(shared) as generator:
        assert generator.generate("Once", max_new_tokens=2).new_tokens
    for job in jobs:
        job.wait()
        job.close()
    assert adapter(tmp_path / "a") == adapter(tmp_path / "b") == by_program
    with pytest.raises(sftmix.InvalidConfigError, match="expected 2 or none, found 3") as e:
        sftmix.TrainingJob(**given, out=tmp_path / "c", threads=3).run()
    assert e.value.field == "threads"
    with pytest.raises(sftmix.InvalidConfigError, match="expected 1 to 1024, found 0"):
        shared.share_workers(0)
    shared.close()
    with pytest.raises(sftmix.MisuseError, match="model was closed"):
        shared.share_workers()


@pytest.mark.parametrize("how", ["job.run()", "job.start().wait()", "job.run_slice(60)", "list(job)"])
def test_an_interrupt_stops_behind_a_checkpoint(tmp_path, by_program, how):
    out = tmp_path / "run"
    program = ("import sftmix, sys, signal, threading, os\n"
               "def on_event(e):\n"
               "    if e.kind == 'step' and e.global_step >= 3 and not sent: sent.append(1); os.kill(os.getpid(), signal.SIGINT)\n"
               "sent = []\n"
               "with sftmix.TrainingJob(**eval(sys.argv[1]), on_event=on_event) as job:\n"
               "    job.update(duty_cycle=0.1)\n"
               f"    {how}\n")
    given = {k: str(v) if isinstance(v, pathlib.Path) else v for k, v in settings(out).items()}
    ended = subprocess.run([sys.executable, "-c", program, repr(given)], capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0 and "KeyboardInterrupt" in ended.stderr.splitlines()[-1], ended.stderr
    assert list(out.glob("checkpoint-*")) and not (out / "adapter").exists()
    sftmix.TrainingJob.resume(out).run()
    assert adapter(out) == by_program


def test_a_job_that_was_not_begun_has_no_events(tmp_path):
    async def watched(job):
        return [e async for e in job.events_async()]

    with sftmix.TrainingJob(**settings(tmp_path / "run")) as job:
        for look in (lambda: list(job.events()), lambda: next(job.events(timeout=0.1)), lambda: asyncio.run(watched(job))):
            with pytest.raises(sftmix.MisuseError, match="not begun.*start"):
                look()
        # What is asked for first and looked at later is of the job as it is then.
        events = job.events()
        job.start()
        assert next(events).kind == "prepared"
        job.cancel(save=False)
    with sftmix.TrainingJob(**settings(tmp_path / "slices")) as job:
        job.run_slice(0.3)
        assert job.status().state in ("idle", "done")
        list(job.events())  # Between slices as well.


def test_what_a_job_is_shows(tmp_path):
    out = tmp_path / "run"
    job = sftmix.TrainingJob(**settings(out))
    assert repr(job) == f"<sftmix.TrainingJob {out}: idle>"
    report = job.run()
    assert repr(job) == f"<sftmix.TrainingJob {out}: done, step {report.steps} of {report.steps}>"
    job.close()
    assert repr(job) == "<sftmix.TrainingJob closed>"


@pytest.mark.parametrize("how", ["one", "several"])
def test_a_file_may_have_a_weight(tmp_path, how):
    file, rows = DEMO / "train.jsonl", len((DEMO / "train.jsonl").read_text().splitlines())
    data = (str(file), 0.5) if how == "one" else [(file, 0.5), DEMO / "valid.jsonl"]
    more = len((DEMO / "valid.jsonl").read_text().splitlines()) if how == "several" else 0
    given = settings(tmp_path / "run", data=data, recipe="ntp", max_steps=2)
    assert sftmix.plan(**given).examples == rows // 2 + more
    assert sftmix.TrainingJob(**given).run().examples == rows // 2 + more
    # Two paths are two files.
    assert sftmix.plan(**{**given, "data": (file, DEMO / "valid.jsonl")}).examples > rows


def test_misuse_is_named(tmp_path):
    with sftmix.TrainingJob(**settings(tmp_path / "run")).start() as job:
        with pytest.raises(sftmix.MisuseError, match="running"):
            job.start()
        job.cancel()
        threads = [threading.Thread(target=job.status) for _ in range(8)]
        [t.start() for t in threads]
        [t.join() for t in threads]
    job.close()
    with pytest.raises(sftmix.MisuseError, match="shut down"):
        job.status()


def test_awaiting(tmp_path, by_program):
    async def both():
        job = sftmix.TrainingJob(**settings(tmp_path / "run"))
        report, ticks = await asyncio.gather(job.run_async(), tick())
        assert ticks == 20
        return report

    async def tick():
        for _ in range(20):
            await asyncio.sleep(0.005)
        return 20

    async def watched():
        job = sftmix.TrainingJob(**settings(tmp_path / "watched")).start()
        return [e.kind async for e in job.events_async()]

    asyncio.run(both())
    assert adapter(tmp_path / "run") == by_program
    assert "step" in asyncio.run(watched())


def test_a_killed_process_is_taken_up(tmp_path, by_program):
    out = tmp_path / "run"
    program = ("import sftmix, sys, os\n"
               "given = eval(sys.argv[1])\n"
               "for e in sftmix.TrainingJob(**given):\n"
               "    if e.kind == 'step' and e.global_step == 5: os.kill(os.getpid(), 9)\n")
    given = {k: str(v) if isinstance(v, pathlib.Path) else v for k, v in settings(out).items()}
    assert subprocess.run([sys.executable, "-c", program, repr(given)]).returncode == -9
    with sftmix.TrainingJob.resume(out) as job:
        steps = [e.global_step for e in job if e.kind == "step"]
        report = job.wait()
    assert adapter(out) == by_program
    # Step 5 was not dealt with, and what was done again comes again.
    assert steps[-1] == report.steps and steps[0] <= 5


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_refused(tmp_path):
    job = sftmix.TrainingJob(**settings(tmp_path / "run"))
    generator = sftmix.Generator(DEMO, threads=1)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            job.start()
        except sftmix.MisuseError as e:
            try:
                generator.generate("a")
            except sftmix.MisuseError:
                code = 0 if "fork" in str(e) else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    job.close()


def test_spawned_processes_work(tmp_path):
    context = multiprocessing.get_context("spawn")
    given = {k: str(v) if isinstance(v, pathlib.Path) else v for k, v in settings(tmp_path / "run").items()}
    process = context.Process(target=_train, args=(given,))
    process.start()
    process.join()
    assert process.exitcode == 0 and (tmp_path / "run/adapter").is_dir()


def _train(given):
    sftmix.TrainingJob(**given).run()


CYCLES = """
import gc, pathlib, sys, sftmix
given = eval(sys.argv[1])
for i in range(1, 201):
    model = sftmix.Model(given["model"])
    with sftmix.TrainingJob(**{**given, "model": model, "out": given["out"] + str(i)}, on_event=lambda e: None) as job:
        job.run()
    del job, model
    if i in (20, 200):
        gc.collect()
        text = pathlib.Path("/proc/self/status").read_text()
        print(next(int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon")) * 1024)
"""


def test_memory_does_not_grow_over_two_hundred_cycles(tmp_path):
    given = settings(tmp_path / "run", recipe="ntp", max_steps=1, warmup_ratio=0.0, max_length=16, cache_dir=tmp_path / "cache")
    given = {k: str(v) if isinstance(v, pathlib.Path) else v for k, v in given.items()}
    # glibc keeps a heap for each of up to sixteen threads, which fill over dozens of cycles; two fill at once.
    told = {**os.environ, "MALLOC_ARENA_MAX": "2"}
    ended = subprocess.run([sys.executable, "-c", CYCLES, repr(given)], env=told, check=True, capture_output=True, text=True)
    early, late = map(int, ended.stdout.split())
    assert late <= early + 2_000_000, (early, late)
