"""What needs no handle: plan, evaluate, inspect, export, merge."""

import os
from typing import Any, List, Optional

from . import _core
from ._events import plain
from ._job import Record, settings, signed


class Plan(Record):
    """What a run will take."""


class Evaluation(Record):
    """Figures of a set of rows."""


class Exported(Record):
    """An adapter in a format of another runtime."""


class Merged(Record):
    """A model with the adapter in its weights."""


@signed(required=("model", "data"))
def plan(**given: Any) -> Plan:
    """What a run of these settings will take: memory by part, tokens, time, and whether it stays within its limit."""
    record, model, rows = settings(given)
    _no_rows(rows)
    return Plan(_core.plan(record, model))


@signed(required=("model", "data"))
def evaluate(*, adapter: Any = None, force: bool = False, **given: Any) -> Evaluation:
    """Loss, perplexity and accuracy of a model, with an adapter where one is given, on a file of rows."""
    record, model, rows = settings(given)
    _no_rows(rows)
    return Evaluation(_core.evaluate(record, model, _path(adapter), force))


@signed(required=("model", "data"))
def inspect(*, rows: int = 3, row: Optional[int] = None, **given: Any) -> List[dict]:
    """What training will see of the data files: the first ``rows`` of each, or the one of number ``row``, token by token, and
    what became of all."""
    record, model, handed = settings(given)
    _no_rows(handed)
    return [plain(f) for f in _core.inspect(record, model, rows, row)]


def export(run: Any = None, *, formats: Any = ("peft",), out: Any = None, model: Any = None, adapter: Any = None,
           data: Any = None, force: bool = False) -> List[Exported]:
    """Writes the adapter of a run for other runtimes (``peft``, ``gguf``, ``mlx``), reads each back and compares its logits
    with the trained one's."""
    formats = [formats] if isinstance(formats, str) else list(formats)
    return [Exported(e) for e in _core.export_adapter(_source(run, model, adapter, data, force), formats, _path(out))]


def merge(run: Any = None, *, out: Any, dtype: Optional[str] = None, gguf: Optional[str] = None, model: Any = None,
          adapter: Any = None, data: Any = None, force: bool = False) -> Merged:
    """Writes a model whose weights have the adapter in them: a Hugging Face folder (``dtype`` f32, f16 or bf16), or a GGUF
    file of a type such as ``q4_k_m``."""
    return Merged(_core.merge(_source(run, model, adapter, data, force), os.fspath(out), dtype, gguf))


def _path(path: Any) -> Optional[str]:
    return os.fspath(path) if path is not None else None


def _source(run: Any, model: Any, adapter: Any, data: Any, force: bool) -> Any:
    from . import Model

    model = model.path if isinstance(model, Model) else model
    return _core.AdapterSource(run=_path(run), model=_path(model), adapter=_path(adapter), data=_path(data), force=force)


def _no_rows(rows: Any) -> None:
    if rows is not None:
        raise TypeError("data: expected files here; rows that are handed over are for TrainingJob")
