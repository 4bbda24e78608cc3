"""What the scripts beside this one share: running `sftmix bench`, the machine's name, results on disk."""

import json
import os
import pathlib
import platform
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = ROOT / "target" / "release" / "sftmix"
MIB = 1 << 20


class Refused(Exception):
    """The program ended with an error; says its last line."""


def sftmix_bench(binary, arguments):
    """The report of `sftmix bench --json` with these arguments."""
    command = [str(binary), "bench", "--json", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
        if "unexpected argument" in done.stderr:
            raise SystemExit(f"{binary} is too old: {said[0]}")
        # Lines of steps come first; the error stands behind them.
        raise Refused(next((line for line in said if line.startswith("error")), said[-1]))
    return json.loads(done.stdout)


def machine():
    """Processor and cores, for the line under a table."""
    name = platform.processor() or platform.machine()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores"


def stamp():
    """When, on what and of which commit a result is."""
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip() or None,
        "machine": machine(),
        "load_average": load and round(load, 2),
    }


def load(path):
    return json.loads(path.read_text()) if path.exists() else {}


def save(path, value):
    """One entry of `value` a line. Written under another name first: an interrupted run loses the entry it was
    at, not the others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    entries = ",\n".join(f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items())
    part.write_text("{\n" + entries + "\n}\n")
    part.replace(path)


def table(head, rows):
    """Markdown; the first column is text, the others numbers."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)
