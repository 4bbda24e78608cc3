"""Arguments in the types that go across. What is of another is refused by its name, before anything is done."""

import json
import operator
import os
from typing import Any, List, Optional

from ._errors import invalid


def said(value: Any) -> str:
    """What was found, in short."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def path(name: str, value: Any) -> str:
    """A path as text."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a path, found {said(value)}")
    return value


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a str, found {said(value)}")
    return value


def texts(name: str, value: Any) -> List[str]:
    """One text or several."""
    if isinstance(value, str):
        return [value]
    values = several(name, value, "a str or a list of str")
    if not all(isinstance(v, str) for v in values):
        raise TypeError(f"{name}: expected a str or a list of str, found {said(value)}")
    return values


def several(name: str, value: Any, expected: str) -> list:
    """What may be iterated over, and is no text."""
    if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__iter__"):
        raise TypeError(f"{name}: expected {expected}, found {said(value)}")
    return list(value)


def number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number, found {said(value)}") from None


def whole(name: str, value: Any, least: int = 0, most: int = 2**64 - 1) -> int:
    """A whole number within bounds; the default ones are those of what goes across."""
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an int, found {said(value)}") from None
    if not least <= value <= most:
        # What goes across at most says nothing to whoever gave too little.
        bounds = f"{least} or more" if value < least and most >= 2**32 - 1 else f"{least} to {most}"
        raise invalid(name, f"expected {bounds}, found {value}")
    return value


def maybe(check: Any, name: str, value: Any) -> Optional[Any]:
    """What may be left out."""
    return None if value is None else check(name, value)


def as_json(name: str, value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as e:
        raise type(e)(f"{name}: {e}") from e
