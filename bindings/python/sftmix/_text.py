"""Text from a model and its adapters."""

import json
import os
import queue
import threading
from typing import Any, Callable, Iterator, List, Optional, Union

from . import _core
from ._events import TextListener, with_cause
from ._job import Record


class Generation(Record):
    """What was generated: ``text`` and figures."""

    def __str__(self) -> str:
        return self.text


def _settings(max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, seed):
    stop = [stop] if isinstance(stop, str) else list(stop)
    return _core.GenerateSettings(
        max_new_tokens=max_new_tokens, temperature=float(temperature), top_k=top_k,
        top_p=None if top_p is None else float(top_p), min_p=None if min_p is None else float(min_p),
        repetition_penalty=float(repetition_penalty), stop=stop, seed=seed)


def _message(message: dict) -> Any:
    more = {k: v for k, v in message.items() if k not in ("role", "content")}
    content = message.get("content")
    if not isinstance(content, str):
        more["content"] = content
    return _core.Message(role=message["role"], content=content if isinstance(content, str) else "",
                         more_json=json.dumps(more) if more else None)


class Generator:
    """A resident model that generates, with one of its adapters or without."""

    def __init__(self, model: Any, adapter: Any = None, *, device: str = "auto", threads: Optional[int] = None):
        from . import Model

        opened = model if isinstance(model, Model) else Model(model)
        self._core = _core.Generator.open(opened._core, os.fspath(adapter) if adapter is not None else None, device, threads)

    def add_adapter(self, name: str, path: Any) -> None:
        """Reads a PEFT adapter folder, to be used by this name."""
        self._core.add_adapter(name, os.fspath(path))

    def use_adapter(self, name: Optional[str]) -> None:
        """Generates with the adapter of this name from now on, or with none."""
        self._core.use_adapter(name)

    @property
    def adapters(self) -> List[str]:
        """The names of the adapters."""
        return self._core.adapters()

    @property
    def adapter(self) -> Optional[str]:
        """The name of the adapter in use."""
        return self._core.adapter()

    @property
    def context(self) -> int:
        """The most tokens that prompt and text may have together."""
        return self._core.context()

    def generate(self, prompt: str, *, max_new_tokens: int = 128, temperature: float = 0.0, top_k: Optional[int] = None,
                 top_p: Optional[float] = None, min_p: Optional[float] = None, repetition_penalty: float = 1.0,
                 stop: Union[str, List[str]] = (), seed: int = 0,
                 on_text: Optional[Callable[[str], Optional[bool]]] = None) -> Generation:
        """Continues a prompt. ``on_text`` is called with each piece; ``False`` from it ends the text."""
        settings = _settings(max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, seed)
        return self._made(lambda: self._core.generate(prompt, settings, TextListener(on_text) if on_text else None))

    def chat(self, messages: List[dict], *, tools: Optional[List[dict]] = None, max_new_tokens: int = 128,
             temperature: float = 0.0, top_k: Optional[int] = None, top_p: Optional[float] = None,
             min_p: Optional[float] = None, repetition_penalty: float = 1.0, stop: Union[str, List[str]] = (),
             seed: int = 0, on_text: Optional[Callable[[str], Optional[bool]]] = None) -> Generation:
        """The reply that follows messages (dicts with ``role`` and ``content``), by the model's own chat template."""
        settings = _settings(max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, seed)
        told = [_message(m) for m in messages]
        tools_json = json.dumps(tools) if tools is not None else None
        return self._made(
            lambda: self._core.chat(told, settings, tools_json, TextListener(on_text) if on_text else None))

    @staticmethod
    def _made(make: Callable[[], Any]) -> Generation:
        try:
            return Generation(make())
        except _core.SftmixError.Callback as e:
            raise with_cause(e)

    def stream(self, prompt: str, **settings: Any) -> Iterator[str]:
        """The pieces of :meth:`generate` as they come. To leave the loop ends the text."""
        pieces: "queue.Queue" = queue.Queue(maxsize=64)
        left = threading.Event()

        def put(item: Any) -> bool:
            while not left.is_set():
                try:
                    pieces.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        def work() -> None:
            try:
                self.generate(prompt, on_text=put, **settings)
                put(None)
            except BaseException as e:  # noqa: BLE001 - it is raised in the caller's thread
                put(e)

        thread = threading.Thread(target=work, name="sftmix-stream", daemon=True)
        thread.start()
        try:
            while (item := pieces.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            left.set()
            thread.join()

    def cancel(self) -> None:
        """Ends the text that another thread generates: what there is of it is returned there."""
        self._core.cancel()

    def forget(self) -> None:
        """Frees what a chat has left in the cache."""
        self._core.forget()
