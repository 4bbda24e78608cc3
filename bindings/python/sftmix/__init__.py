"""Fine-tune language models where the data lives: LoRA adapters by the SFTMix recipe, in little memory.

    import sftmix

    with sftmix.TrainingJob(model="models/Qwen3-0.6B", data="rows.jsonl", out="run") as job:
        for event in job:
            if event.kind == "step":
                print(event.global_step, event.total_steps, event.loss)
        print(job.wait().adapter)

Errors are subclasses of :class:`Error` with fields; settings are keywords, with the names and defaults of the command
line (``help(sftmix.TrainingJob)``).
"""

import logging as _logging
import os as _os

from . import _core
from ._core import version as _version
from ._events import Event
from ._job import Record, Report, Slice, Status, TrainingJob
from ._map import DataMap, Summary
from ._tasks import Evaluation, Exported, Merged, Plan, evaluate, export, inspect, merge, plan
from ._text import Generation, Generator

__version__ = _version()



def _rebuilt(kind, fields):
    """An error that was pickled, as by another process."""
    return kind(**fields)


Error = _core.SftmixError
Error.__str__ = lambda self: getattr(self, "detail", "") or Exception.__str__(self)
for _name in [n for n in vars(Error) if not n.startswith("_") and isinstance(vars(Error)[n], type)]:
    _class = globals()[f"{_name}Error"] = vars(Error)[_name]
    _class.__name__ = _class.__qualname__ = f"{_name}Error"
    _class.__module__ = __name__
    _class.__reduce__ = lambda self: (_rebuilt, (type(self), dict(vars(self))))
    _class.__repr__ = lambda self: f"{type(self).__name__}({str(self)!r})"


class Model:
    """A model that is open: a Hugging Face folder or a GGUF file. Jobs and generators share its mapped weights."""

    def __init__(self, path):
        self._core = _core.Model.open(_os.fspath(path))

    @property
    def path(self) -> str:
        """Where it lies."""
        return self._core.path()

    def __repr__(self) -> str:
        return f"<sftmix.Model {self.path}>"


class _Log(_core.LogListener):
    def __init__(self, logger):
        self._logger = logger

    def on_log(self, level, message):
        self._logger.log(getattr(_logging, level.upper(), _logging.DEBUG), "%s", message)


def log_to(logger=None, level: str = "warn") -> None:
    """Sends what the library logs to a logger of :mod:`logging`; ``None`` drops it again, as at the start."""
    _core.set_log_listener(_Log(logger) if logger is not None else None, level)


__all__ = ["DataMap", "Error", "Evaluation", "Event", "Exported", "Generation", "Generator", "Merged", "Model", "Plan", "Record",
           "Report", "Slice", "Status", "Summary", "TrainingJob", "evaluate", "export", "inspect", "log_to", "merge", "plan", *sorted(n for n in globals() if n.endswith("Error") and n != "Error")]
