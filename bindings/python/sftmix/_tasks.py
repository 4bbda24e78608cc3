"""What needs no handle: plan, evaluate, inspect, export, merge. An interrupt leaves each at once: an evaluation is broken
off, the others go to their end aside."""

import os
from typing import Any, List, Optional

from . import _checked, _core
from ._events import Record, plain
from ._given import settings, signed
from ._model import Model
from ._settings import EVALUATED, INSPECTED
from ._work import Breakable, waited


class Plan(Record):
    """What a run will take."""


class Evaluation(Record):
    """Figures of a set of rows."""


class Exported(Record):
    """An adapter in a format of another runtime; ``path`` is absolute."""

    def __init__(self, core: Any):
        super().__init__(core)
        self.path = os.path.abspath(self.path)


class Merged(Record):
    """A model with the adapter in its weights; ``path`` is absolute."""

    def __init__(self, core: Any):
        super().__init__(core)
        self.path = os.path.abspath(self.path)


@signed(required=("model", "data"))
def plan(**given: Any) -> Plan:
    """What a run of these settings will take: memory by part, tokens, time, and whether it stays within its limit. ``data``
    is files here, as for :func:`evaluate` and :func:`inspect`: a path, (path, weight) or a list of these."""
    record, model = _of_files(given)
    return Plan(waited(lambda: _core.plan(record, model)))


@signed(required=("model", "data"), known=EVALUATED)
def evaluate(*, adapter: Any = None, force: bool = False, **given: Any) -> Evaluation:
    """Loss, perplexity and accuracy of a model, with an adapter where one is given, on a file of rows. ``force`` takes the
    adapter whatever base it names."""
    record, model = _of_files(given, EVALUATED, "an evaluation")
    # What holds only for SFTMix, as a batch of even size, does not hold here.
    record.recipe = "ntp"
    adapter = _path(adapter)
    return Evaluation(Breakable(lambda: _core.evaluate_async(record, model, adapter, force)).wait())


@signed(required=("model", "data"), known=INSPECTED)
def inspect(*, rows: int = 3, row: Optional[int] = None, **given: Any) -> List[dict]:
    """What training will see of the data files: the first ``rows`` of each, or the one of number ``row``, token by token, and
    what became of all."""
    rows, row = _checked.whole("rows", rows), _checked.maybe(_checked.whole, "row", row)
    record, model = _of_files(given, INSPECTED, "an inspection")
    return [plain(f) for f in waited(lambda: _core.inspect(record, model, rows, row))]


def export(run: Any = None, *, formats: Any = ("peft",), out: Any = None, model: Any = None, adapter: Any = None,
           data: Any = None, force: bool = False) -> List[Exported]:
    """Writes the adapter of a run for other runtimes (``peft``, ``gguf``, ``mlx``), reads each back and compares its logits
    with the trained one's."""
    formats = _checked.texts("formats", formats)
    source, out = _source(run, model, adapter, data, force), _path(out)
    return [Exported(e) for e in waited(lambda: _core.export_adapter(source, formats, out))]


def merge(run: Any = None, *, out: Any, dtype: Optional[str] = None, gguf: Optional[str] = None, model: Any = None,
          adapter: Any = None, data: Any = None, force: bool = False) -> Merged:
    """Writes a model whose weights have the adapter in them: a Hugging Face folder (``dtype`` f32, f16 or bf16), or a GGUF
    file of a type such as ``q4_k_m``."""
    source, out = _source(run, model, adapter, data, force), os.fspath(out)
    return Merged(waited(lambda: _core.merge(source, out, dtype, gguf)))


def _path(path: Any) -> Optional[str]:
    return os.fspath(path) if path is not None else None


def _source(run: Any, model: Any, adapter: Any, data: Any, force: bool) -> Any:
    if isinstance(model, Model):
        model = model._core.path()
    return _core.AdapterSource(run=_path(run), model=_path(model), adapter=_path(adapter), data=_path(data), force=force)


def _of_files(given: dict, *known: Any) -> tuple:
    record, model, rows = settings(given, ("model", "data"), *known)
    if rows is not None:
        raise TypeError("data: expected files here (a path, (path, weight) or a list of these); rows that are handed over are "
                        "for TrainingJob")
    return record, model
