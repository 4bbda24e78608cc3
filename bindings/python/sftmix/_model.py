"""Models that are open."""

import os
from typing import Any, Optional

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

    def share_workers(self, threads: Optional[int] = None) -> "Model":
        """The same model with worker threads that are shared: jobs, evaluations and generators that are opened on what is
        returned compute on these ``threads`` (``None``: the machine's cores), where each would have its own otherwise. A setting
        ``threads`` of another number is an error then."""
        core = self._core
        shared = object.__new__(Model)
        shared._opened = waited(lambda: core.share_workers(threads))
        shared._path = self._path
        return shared

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
