"""What the tests share: the demo's model and rows, and the command line to compare with."""
import os
import pathlib
import signal
import subprocess

import pytest

import sftmix

# A shell that runs this in the background has interrupts ignored, and what is started from here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = pathlib.Path(os.environ["SFTMIX_ROOT"])
DEMO = ROOT / "assets/demo"
PROGRAM = pathlib.Path(os.environ["SFTMIX_PROGRAM"])

SETTINGS = dict(model=DEMO, data=DEMO / "train.jsonl", epochs=1, max_steps=8, batch_size=4, max_length=64, threads=2,
                save_every=3)


def settings(out, **more):
    return {**SETTINGS, "out": out, **more}


def adapter(run):
    return (pathlib.Path(run) / "adapter/adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="session")
def by_program(tmp_path_factory):
    """The adapter that the command line gives for SETTINGS."""
    out = tmp_path_factory.mktemp("program") / "run"
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in settings(out).items()]
    subprocess.run([PROGRAM, "train", *flags], check=True, capture_output=True)
    return adapter(out)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run with held-out rows."""
    out = tmp_path_factory.mktemp("finished") / "run"
    report = sftmix.TrainingJob(**settings(out, valid=DEMO / "valid.jsonl")).run()
    return out, report
