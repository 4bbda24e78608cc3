"""Settings and data as they are given by keyword."""

import difflib
import inspect
import os
from numbers import Real
from typing import Any, Callable, Iterable, List, Optional, Sequence, Tuple

from . import _checked, _core
from ._errors import invalid
from ._model import Model
from ._settings import SETTINGS

# What other trainers call a setting.
_ELSEWHERE = {
    "learning_rate": "lr", "num_train_epochs": "epochs", "num_epochs": "epochs", "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size", "model_name_or_path": "model", "model_path": "model", "train_dataset": "data",
    "dataset": "data", "eval_dataset": "valid", "valid_data": "valid", "output_dir": "out", "lr_scheduler_type": "schedule",
    "max_seq_length": "max_length", "max_grad_norm": "clip", "grad_clip": "clip", "rank": "lora_r", "r": "lora_r",
    "save_steps": "save_every", "eval_steps": "eval_every", "save_total_limit": "keep", "random_state": "seed",
}


def check_names(given: Iterable[str], known: Sequence[str], what: str) -> None:
    """Refuses what is no setting, and what is one and has no effect on ``what`` is to be done."""
    for name in given:
        if name in known:
            continue
        if name in SETTINGS:
            raise invalid(name, f"it has no effect on {what}, which takes {', '.join(known)}")
        near = [_ELSEWHERE.get(name), *difflib.get_close_matches(name, known, 1)]
        near = [n for n in near if n in known]
        raise TypeError(f"there is no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def settings(given: dict, required: Sequence[str] = (), known: Sequence[str] = tuple(SETTINGS), what: str = "a run") -> tuple:
    """The settings record, the open model (or none) and the rows (or none) of what was given by keyword."""
    check_names(given, known, what)
    given = {name: value for name, value in given.items() if value is not None}
    missing = [repr(name) for name in required if name not in given]
    if missing:
        raise TypeError(f"missing {' and '.join(missing)}: expected by keyword")
    model = given.pop("model", None)
    opened = model._core if isinstance(model, Model) else None
    data, rows = sources(given.pop("data", None))
    fields = {"data": data, "model": _checked.path("model", model) if model is not None and opened is None else None}
    for name, value in given.items():
        fields[name] = _value(name, value)
    return _core.TrainSettings(**fields), opened, rows


def _value(name: str, value: Any) -> Any:
    """A value in the type of the record."""
    told = SETTINGS[name][0]
    if told == "str | os.PathLike":
        return _checked.path(name, value)
    if name == "target_modules" and isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if told == "str | list[str]":
        return _checked.texts(name, value)
    if told == "list[int]":
        return [_checked.whole(name, v) for v in _checked.several(name, value, "a list of int")]
    if told == "tuple[float, float]":
        return [_checked.number(name, v) for v in _checked.several(name, value, "two numbers")]
    if told.startswith("dict") and not isinstance(value, dict):
        raise TypeError(f"{name}: expected a dict, found {_checked.said(value)}")
    if name == "chat_template_kwargs":
        return _checked.as_json(name, value)
    if told == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = float(value)
    kind = {"int": int, "float": float, "bool": bool, "str": str}.get(told)
    if kind is not None and (not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)):
        raise TypeError(f"{name}: expected {kind.__name__}, found {_checked.said(value)}")
    return value


class _Default:
    """A default in a signature: help() shows it, and it is told from what was given."""

    def __init__(self, value: Any):
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def signed(required: Sequence[str] = (), known: Sequence[str] = tuple(SETTINGS), rows: bool = False) -> Callable:
    """Gives a function of ``**given`` the signature and the documentation of the settings that it knows."""
    # Of which more is known here than where settings are made.
    types = {"model": "Model | str | os.PathLike", "data": "Files | Iterable[dict | str]" if rows else "Files"}

    def decorate(function: Callable) -> Callable:
        kinds = inspect.Parameter
        own = [p for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD]
        named = {p.name for p in own}
        more = []
        for name in known:
            if name in named:
                continue
            told, default, _ = SETTINGS[name]
            told = types.get(name, told) + (" | None" if default is None else "")
            default = kinds.empty if name in required else _Default(None if default is ... else default)
            more.append(kinds(name, kinds.KEYWORD_ONLY, annotation=told, default=default))
        positional = [p for p in own if p.kind == p.POSITIONAL_OR_KEYWORD]
        keywords = [p for p in own if p.kind == p.KEYWORD_ONLY]
        function.__signature__ = inspect.Signature([*positional, *more, *keywords])
        text = "".join(f"\n    {name}: {SETTINGS[name][2]}" for name in known if name not in named)
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nSettings:{text}\n"
        return function

    return decorate


def sources(data: Any) -> Tuple[Optional[List[Any]], Optional[Iterable]]:
    """Files with weights, or rows, of what was given as data."""
    if data is None:
        return None, None
    if isinstance(data, (str, os.PathLike)):
        return [_core.DataSource(path=os.fspath(data), weight=1.0)], None
    if _is_weighted(data):
        data = [data]
    if isinstance(data, (list, tuple)) and data and all(_is_source(d) for d in data):
        pairs = [(d, 1.0) if isinstance(d, (str, os.PathLike)) else d for d in data]
        return [_core.DataSource(path=os.fspath(path), weight=_checked.number(f"data: weight of {os.fspath(path)}", weight))
                for path, weight in pairs], None
    if isinstance(data, dict) or not hasattr(data, "__iter__"):
        raise TypeError(f"data: expected a path, (path, weight), a list of these, or an iterable of rows, "
                        f"found {type(data).__name__}")
    return None, data


def _is_source(value: Any) -> bool:
    if isinstance(value, os.PathLike):
        return True
    if isinstance(value, str):
        return not value.lstrip().startswith("{")
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], (str, os.PathLike))


def _is_weighted(value: Any) -> bool:
    """One file with its weight; two paths are two files."""
    return _is_source(value) and isinstance(value, tuple) and isinstance(value[1], Real)
