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

from ._core import version as _version
from ._errors import CLASSES as _CLASSES
from ._errors import Error
from ._events import Event, Record
from ._job import Report, Slice, Status, TrainingJob
from ._log import log_to
from ._map import DataMap, Summary
from ._model import Model
from ._tasks import Evaluation, Exported, Merged, Plan, evaluate, export, inspect, merge, plan
from ._text import Generation, Generator

__version__ = _version()
globals().update(_CLASSES)

__all__ = ["DataMap", "Error", "Evaluation", "Event", "Exported", "Generation", "Generator", "Merged", "Model", "Plan", "Record",
           "Report", "Slice", "Status", "Summary", "TrainingJob", "evaluate", "export", "inspect", "log_to", "merge", "plan",
           *sorted(_CLASSES)]
