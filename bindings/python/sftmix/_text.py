"""Text from a model and its adapters."""

import os
import threading
import weakref
from typing import Any, Callable, Iterator, List, Mapping, Optional, Union

from . import _checked, _core
from ._errors import invalid, misuse
from ._events import Record
from ._making import Making
from ._model import Model
from ._work import waited


class Generation(Record):
    """What was generated: ``text`` and figures. ``cancelled`` says that its caller ended it, before its end and its
    limits."""

    def __init__(self, core: Any, limit: int, context: int):
        super().__init__(core)
        # What has neither come to its end nor used its room up was ended from outside.
        self.cancelled = not self.stopped and self.new_tokens < min(limit, context - self.prompt_tokens)

    def __str__(self) -> str:
        return self.text


def _settings(max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, seed):
    whole, number, maybe = _checked.whole, _checked.number, _checked.maybe
    return _core.GenerateSettings(
        max_new_tokens=whole("max_new_tokens", max_new_tokens), temperature=number("temperature", temperature),
        top_k=maybe(whole, "top_k", top_k), top_p=maybe(number, "top_p", top_p), min_p=maybe(number, "min_p", min_p),
        repetition_penalty=number("repetition_penalty", repetition_penalty), stop=_checked.texts("stop", stop),
        seed=whole("seed", seed))


def _messages(messages: Any) -> List[Any]:
    expected = "a list of dicts with role and content"
    return [_message(number, m, expected) for number, m in enumerate(_checked.several("messages", messages, expected), 1)]


def _message(number: int, message: Any, expected: str) -> Any:
    if not isinstance(message, Mapping):
        raise TypeError(f"messages: expected {expected}, found {_checked.said(message)} as message {number}")
    # A turn that calls tools need not say anything.
    for name in ("role",) if "tool_calls" in message else ("role", "content"):
        if name not in message:
            raise invalid("messages", f"message {number} has no {name!r}; it has {', '.join(map(str, message)) or 'nothing'}")
    _checked.text(f"messages: role of message {number}", message["role"])
    more = {k: v for k, v in message.items() if k not in ("role", "content")}
    content = message.get("content")
    if not isinstance(content, str):
        more["content"] = content
    return _core.Message(role=message["role"], content=content if isinstance(content, str) else "",
                         more_json=_checked.as_json(f"messages: message {number}", more) if more else None)


class Generator:
    """A resident model that generates, with one of its adapters or without. Calls from several threads take their turns:
    one that is made while a text is on its way, as in the loop over :meth:`stream`, waits for the end of that text.
    ``adapters``, ``adapter`` and ``context`` answer at once. A callback cannot call the generator that calls it."""

    def __init__(self, model: Any, adapter: Any = None, *, device: str = "auto", threads: Optional[int] = None):
        opened = (model if isinstance(model, Model) else Model(model))._core
        adapter = os.fspath(adapter) if adapter is not None else None
        self._opened = waited(lambda: _core.Generator.open(opened, adapter, device, threads))
        self._names = threading.Lock()
        self._context = self._opened.context()
        self._adapters, self._adapter = self._opened.adapters(), self._opened.adapter()
        self._texts: "weakref.WeakSet[Making]" = weakref.WeakSet()
        # Threads that are in a callback of a text of this generator.
        self._called: set = set()

    @property
    def _core(self) -> Any:
        """The library's object, for a call that takes its turn."""
        opened = self._opened
        if opened is None:
            raise misuse("the generator was closed")
        if threading.get_ident() in self._called:
            raise misuse("a callback calls the generator that calls it")
        return opened

    def add_adapter(self, name: str, path: Any) -> None:
        """Reads a PEFT adapter folder, to be used by this name."""
        core, path = self._core, os.fspath(path)
        waited(lambda: self._named(core, lambda: core.add_adapter(name, path)))

    def use_adapter(self, name: Optional[str]) -> None:
        """Generates with the adapter of this name from now on, or with none."""
        core = self._core
        waited(lambda: self._named(core, lambda: core.use_adapter(name)))

    def _named(self, core: Any, change: Callable[[], None]) -> None:
        # Changes come one by one, so that what is kept here is what the last one left.
        with self._names:
            change()
            self._adapters, self._adapter = core.adapters(), core.adapter()

    @property
    def adapters(self) -> List[str]:
        """The names of the adapters."""
        return list(self._adapters)

    @property
    def adapter(self) -> Optional[str]:
        """The name of the adapter in use."""
        return self._adapter

    @property
    def context(self) -> int:
        """The most tokens that prompt and text may have together."""
        return self._context

    def generate(self, prompt: str, *, max_new_tokens: int = 128, temperature: float = 0.0, top_k: Optional[int] = None,
                 top_p: Optional[float] = None, min_p: Optional[float] = None, repetition_penalty: float = 1.0,
                 stop: Union[str, List[str]] = (), seed: int = 0,
                 on_text: Optional[Callable[[str], Optional[bool]]] = None) -> Generation:
        """Continues a prompt. ``on_text`` is called with each piece, on the thread that called; ``False`` from it ends the
        text. An interrupt ends it too."""
        settings = _settings(max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, seed)
        prompt, core = _checked.text("prompt", prompt), self._core
        return self._made(lambda listener: core.generate(prompt, settings, listener), max_new_tokens, on_text)

    def chat(self, messages: List[dict], *, tools: Optional[List[dict]] = None, max_new_tokens: int = 128,
             temperature: float = 0.0, top_k: Optional[int] = None, top_p: Optional[float] = None,
             min_p: Optional[float] = None, repetition_penalty: float = 1.0, stop: Union[str, List[str]] = (),
             seed: int = 0, on_text: Optional[Callable[[str], Optional[bool]]] = None) -> Generation:
        """The reply that follows messages (dicts with ``role`` and ``content``), by the model's own chat template."""
        settings = _settings(max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, seed)
        told = _messages(messages)
        tools_json = _checked.maybe(_checked.as_json, "tools", tools)
        core = self._core
        return self._made(lambda listener: core.chat(told, settings, tools_json, listener), max_new_tokens, on_text)

    def _made(self, make: Callable[[Any], Any], limit: int,
              on_text: Optional[Callable[[str], Optional[bool]]]) -> Generation:
        return Generation(self._making(make).result(self._guarded(on_text)), limit, self._context)

    def _making(self, make: Callable[[Any], Any]) -> Making:
        making = Making(make)
        self._texts.add(making)
        return making

    def _guarded(self, on_text: Optional[Callable[[str], Optional[bool]]]) -> Optional[Callable[[str], Optional[bool]]]:
        """The callback, of which is known that its thread is in it."""
        if on_text is None:
            return None

        def call(piece: str) -> Optional[bool]:
            here = threading.get_ident()
            self._called.add(here)
            try:
                return on_text(piece)
            finally:
                self._called.discard(here)

        return call

    def stream(self, prompt: str, *, max_new_tokens: int = 128, temperature: float = 0.0, top_k: Optional[int] = None,
               top_p: Optional[float] = None, min_p: Optional[float] = None, repetition_penalty: float = 1.0,
               stop: Union[str, List[str]] = (), seed: int = 0) -> Iterator[str]:
        """The pieces of :meth:`generate` as they come. To leave the loop ends the text."""
        settings = _settings(max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, seed)
        prompt = _checked.text("prompt", prompt)

        def pieces() -> Iterator[str]:
            core = self._core
            making = self._making(lambda listener: core.generate(prompt, settings, listener))
            yield from making.pieces()
            making.error()

        return pieces()

    def cancel(self) -> None:
        """Ends the text that another thread generates: what there is of it is returned there."""
        opened = self._opened
        if opened is not None:
            opened.cancel()

    def forget(self) -> None:
        """Frees what a chat has left in the cache."""
        waited(self._core.forget)

    def close(self) -> None:
        """Ends what is generated, and lets the model go."""
        if self._opened is None:
            return
        self._core  # Not from a callback of its own, which would wait for itself.
        self._opened = None
        for making in list(self._texts):
            making._leave_for_good()

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
