"""Models that are open."""

import os
from typing import Any

from . import _core
from ._errors import misuse
from ._work import waited


class Model:
    """A model that is open: a Hugging Face folder or a GGUF file. Jobs and generators share its mapped weights."""

    def __init__(self, path: Any):
        path = os.fspath(path)
        self._opened = waited(lambda: _core.Model.open(path))
        self._path = self._opened.path()

    @property
    def _core(self) -> Any:
        if self._opened is None:
            raise misuse("the model was closed")
        return self._opened

    @property
    def path(self) -> str:
        """Where it lies."""
        return self._path

    def close(self) -> None:
        """Lets it go. Jobs and generators that were opened on it keep its weights until they are closed themselves."""
        self._opened = None

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<sftmix.Model {self.path}>"
