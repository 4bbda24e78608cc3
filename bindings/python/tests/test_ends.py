"""Ends from outside: interrupts, signals, exits of the interpreter. Small programs, whose exit codes tell."""
import pathlib
import subprocess
import sys
import textwrap
import time

import pytest

import sftmix
from conftest import DEMO, adapter, settings

BEGIN = """
import os, pathlib, signal, sys, threading, time
import sftmix
given = eval(sys.argv[1])
DEMO = pathlib.Path(given["model"])
def soon(number, seconds=0.5):
    threading.Timer(seconds, lambda: os.kill(os.getpid(), number)).start()
"""

# A text that takes its time: each token waits for a slow callback, and the turn is held meanwhile.
BUSY = """
generator = sftmix.Generator(DEMO, threads=1)
def hold():
    generator.generate("Once upon", max_new_tokens=400, temperature=3.0, seed=1, on_text=lambda piece: time.sleep(0.05))
threading.Thread(target=hold, daemon=True).start()
time.sleep(0.3)
"""


def ended(program, out, begin=BEGIN, **more):
    """A program's end, its output and how long it took."""
    given = {k: str(v) if isinstance(v, pathlib.Path) else v for k, v in settings(out, **more).items()}
    at = time.monotonic()
    done = subprocess.run([sys.executable, "-c", begin + textwrap.dedent(program), repr(given)], capture_output=True, text=True,
                          timeout=120)
    done.seconds = time.monotonic() - at
    return done


LONG = dict(max_steps=5000, epochs=500)


@pytest.mark.parametrize("how", [
    "job = sftmix.TrainingJob(**given, on_event=lambda e: time.sleep(0.001)).start()",
    "class A:\n"
    "    def __init__(self): self.job = sftmix.TrainingJob(**given, on_event=self.on).start()\n"
    "    def on(self, event): self.last = event\n"
    "a = A()",
    "import logging; logging.basicConfig(level=0); sftmix.log_to(logging.getLogger(), 'debug')\n"
    "job = sftmix.TrainingJob(**given, on_event=lambda e: logging.debug('x')).start()",
    "def rows():\n"
    "    while True: time.sleep(0.001); yield {'text': 'a b c'}\n"
    "given['data'] = rows(); job = sftmix.TrainingJob(**given).start()",
], ids=["function", "method", "log", "rows"])
def test_a_program_ends_while_a_job_calls_back(tmp_path, how):
    done = ended(f"{how}\ntime.sleep(1.5)\nprint('end')", tmp_path / "run", **LONG)
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr[-2000:]
    if "rows" not in how:
        assert list((tmp_path / "run").glob("checkpoint-*")), "the end of the program stops a job behind a checkpoint"


def test_an_exception_of_the_program_is_its_end(tmp_path):
    program = """
    job = sftmix.TrainingJob(**given, on_event=lambda e: None).start()
    time.sleep(0.6)
    raise RuntimeError("mine")
    """
    done = ended(program, tmp_path / "run", **LONG)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == "RuntimeError: mine", done.stderr


@pytest.mark.parametrize("how", [
    "generator = sftmix.Generator(DEMO, threads=1)\n"
    "it = generator.stream('Once upon', max_new_tokens=400, temperature=3.0, seed=1); next(it)",
    BUSY,
    BUSY + "threading.Thread(target=lambda: list(generator.stream('a')), daemon=True).start()\ntime.sleep(0.1)",
], ids=["stream", "callback", "turn"])
def test_a_program_ends_while_a_text_is_made(tmp_path, how):
    done = ended(f"{how}\nprint('end')", tmp_path / "run")
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr[-2000:]


def test_a_program_ends_while_threads_call_on(tmp_path):
    program = """
    generator = sftmix.Generator(DEMO, threads=1)
    def on():
        while True:
            generator.generate("Once upon", max_new_tokens=20, on_text=lambda piece: None)
    for _ in range(2):
        threading.Thread(target=on, daemon=True).start()
    data = pathlib.Path(given["out"] + ".jsonl")
    data.write_text((DEMO / "train.jsonl").read_text() * 20)
    threading.Thread(target=lambda: sftmix.evaluate(model=DEMO, data=data, threads=1), daemon=True).start()
    time.sleep(1)
    """
    done = ended(program, tmp_path / "run")
    assert done.returncode == 0 and "FATAL" not in done.stderr, done.stderr[-2000:]


@pytest.mark.parametrize("how", ["job.run()", "job.run(progress=True)", "job.start().wait()", "job.run_slice(60)"])
def test_a_handler_that_exits_stops_behind_a_checkpoint_at_once(tmp_path, by_program, how):
    out = tmp_path / "run"
    program = f"""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    job = sftmix.TrainingJob(**given)
    job.update(duty_cycle=0.05)
    def kill():
        while job.status().global_step < 2: time.sleep(0.01)
        print(time.monotonic(), flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=kill).start()
    try:
        {how}
    finally:
        print(time.monotonic(), job.status().state, flush=True)
    """
    done = ended(program, out)
    sent, seen, state = done.stdout.split()
    assert done.returncode == 7 and state == "cancelled", (done.returncode, state, done.stderr[-2000:])
    assert float(seen) - float(sent) < 5
    assert list(out.glob("checkpoint-*"))
    sftmix.TrainingJob.resume(out).run()
    assert adapter(out) == by_program


@pytest.mark.parametrize("call", [
    "generator.generate('a')", "generator.generate('a', on_text=print)", "generator.chat([])", "list(generator.stream('a'))",
    "generator.use_adapter(None)", "generator.forget()",
])
def test_an_interrupt_ends_the_wait_for_a_turn(tmp_path, call):
    program = BUSY + f"""
at = time.monotonic()
soon(signal.SIGINT)
try:
    {call}
except KeyboardInterrupt:
    print(time.monotonic() - at)
"""
    done = ended(program, tmp_path / "run")
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 3, "it waited for the other's text"


def test_an_interrupt_or_an_exit_in_a_callback_of_a_text_reaches_the_caller(tmp_path):
    program = """
    generator = sftmix.Generator(DEMO, threads=1)
    for kind, raises in [(KeyboardInterrupt, lambda p: os.kill(os.getpid(), signal.SIGINT) or time.sleep(5)),
                         (SystemExit, lambda p: sys.exit(3)), (GeneratorExit, lambda p: (_ for _ in ()).throw(GeneratorExit()))]:
        try:
            generator.generate("Once upon", max_new_tokens=60, on_text=raises)
        except kind:
            print(kind.__name__)
    print(generator.generate("Once upon", max_new_tokens=4).new_tokens)
    """
    done = ended(program, tmp_path / "run")
    assert done.stdout.split() == ["KeyboardInterrupt", "SystemExit", "GeneratorExit", "4"], done.stderr
    assert done.stderr == ""


def test_an_interrupt_breaks_an_evaluation_off(tmp_path):
    program = """
    data = pathlib.Path(given["out"] + ".jsonl")
    data.write_text((DEMO / "train.jsonl").read_text() * 20)
    def name(task):
        try:
            return (task / "comm").read_text()
        except OSError:
            return ""  # It has just ended.
    def workers():
        return sum(name(task) == "sftmix-async\\n" for task in pathlib.Path("/proc/self/task").iterdir())
    at = time.monotonic()
    soon(signal.SIGINT, 1.0)
    try:
        sftmix.evaluate(model=DEMO, data=data, threads=1, cache_dir=given["out"] + ".cache")
    except KeyboardInterrupt:
        print(time.monotonic() - at)
    until = time.monotonic() + 20
    while workers() and time.monotonic() < until: time.sleep(0.05)
    print(workers())
    """
    done = ended(program, tmp_path / "run")
    seconds, left = done.stdout.split()
    assert float(seconds) < 3 and left == "0", (done.stdout, done.stderr)


def test_a_call_in_the_loop_over_a_stream_does_not_hang(tmp_path):
    program = """
    import faulthandler
    faulthandler.dump_traceback_later(60, exit=True)
    generator = sftmix.Generator(DEMO, threads=1)
    for seed in range(60):
        how = dict(max_new_tokens=400, temperature=3.0, seed=seed)
        whole = generator.generate("Once upon", **how)
        if whole.new_tokens > 150: break
    pieces = []
    for piece in generator.stream("Once upon", **how):
        pieces.append(piece)
        if len(pieces) == 1:
            generator.adapter, generator.adapters, generator.context
            generator.use_adapter(None)
            generator.generate("a", max_new_tokens=2)
            generator.forget()
    print(whole.new_tokens > 150, "".join(pieces) == whole.text)
    """
    done = ended(program, tmp_path / "run")
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_what_waits_is_not_called_on_the_main_thread(tmp_path, monkeypatch, finished):
    """No signal handler of Python runs while the main thread is in the library."""
    import threading

    core, seen = sftmix._tasks._core, []

    class Seen(BaseException):
        pass

    def look(name):
        def call(*_, **__):
            seen.append((name, threading.current_thread() is threading.main_thread()))
            raise Seen

        return call

    files = dict(model=DEMO, data=DEMO / "valid.jsonl")
    calls = {"plan": lambda: sftmix.plan(**files), "inspect": lambda: sftmix.inspect(**files),
             "export_adapter": lambda: sftmix.export(finished[0], out=tmp_path), "merge": lambda: sftmix.merge(finished[0], out="o"),
             "evaluate_async": lambda: sftmix.evaluate(**files)}
    for name, call in calls.items():
        monkeypatch.setattr(core, name, look(name))
        with pytest.raises(Seen):
            call()
    assert seen == [(name, False) for name in calls]
