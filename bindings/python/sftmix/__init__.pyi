import logging
import os
from typing import Any, AsyncIterator, Callable, Iterable, Iterator, Literal, Mapping, Sequence, overload

__version__: str

Source = str | os.PathLike | tuple[str | os.PathLike, float]
Files = Source | Sequence[Source]
# Files or rows. As one iterable: of two, a list of paths and (path, weight) is of neither to a checker.
Data = Source | Iterable[Source | dict]

_Kind = Literal["prepared", "step", "evaluated", "stopped_early", "sweep", "split", "checkpoint", "limits", "other"]
_State = Literal["idle", "preparing", "running", "pausing", "paused", "stopping", "done", "cancelled", "failed"]
_Half = Literal["confident", "unconfident", "neither"]
_Column = Literal[
    "row", "confidence", "mean_probability", "variability", "correctness", "forgetfulness", "mean_perplexity", "mean_nll",
    "tokens",
]
_Filters = Iterable[tuple[_Column, float | None, float | None]]

class Event:
    kind: _Kind
    def __getattr__(self, name: str) -> Any: ...
    def to_dict(self) -> dict: ...

class Record:
    def to_dict(self) -> dict: ...

class Report(Record):
    run: str
    adapter: str
    steps: int
    train_loss: float
    base_eval_loss: float | None
    eval_loss: float | None
    best_eval_loss: float | None
    best_step: int | None
    stopped_early: bool
    examples: int
    rows_cut: int
    rows_dropped: int
    rows_skipped: int
    seconds: float
    peak_anonymous_bytes: int

class Status(Record):
    state: _State
    stage: str
    global_step: int
    total_steps: int
    epoch: float
    loss: float | None
    eval_loss: float | None
    tokens_per_second: float
    elapsed_seconds: float
    eta_seconds: float | None
    peak_anonymous_bytes: int
    checkpoint: str | None
    limits: dict

class Slice(Record):
    report: Report | None
    checkpoint: str | None

class Generation(Record):
    text: str
    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    stopped: bool
    stop: str | None
    cancelled: bool
    prompt_seconds: float
    seconds: float

class Plan(Record):
    fits: bool
    memory_limit: int | None
    predicted_peak_bytes: int
    memory: dict | None
    savings: list
    examples: int
    tokens: int
    supervised_tokens: int
    longest: int
    steps: int
    micro_batch: int | None
    micro_tokens: int | None
    blocks_kept: float | None
    loss_chunk: int | None
    seconds: float | None

class Evaluation(Record):
    examples: int
    supervised_tokens: int
    nll: float
    perplexity: float
    token_accuracy: float
    exact_match: float
    ece: float

class Exported(Record):
    format: str
    path: str
    difference: float

class Merged(Record):
    path: str
    linears: int
    bytes: int
    difference: float

class Model:
    def __init__(self, path: str | os.PathLike) -> None: ...
    def share_workers(self, threads: int | None = None) -> Model: ...
    @property
    def path(self) -> str: ...
    def close(self) -> None: ...
    def __enter__(self) -> Model: ...
    def __exit__(self, *_: Any) -> None: ...

class TrainingJob:
    def __init__(
        self,
        *,
        # <settings of TrainingJob>
        model: Model | str | os.PathLike,
        data: Data,
        out: str | os.PathLike,
        valid: str | os.PathLike | None = None,
        valid_split: float | None = None,
        recipe: str = 'sftmix',
        mu: float = 0.2,
        mix_alpha: float = 0.5,
        mix_reduction: str = 'token',
        dynamics: str | os.PathLike = 'sweep',
        reference_epochs: int = 1,
        reference_checkpoints: int = 4,
        confidence: str = 'perplexity',
        epochs: int = 3,
        max_steps: int | None = None,
        batch_size: int = 8,
        micro_batch: int | None = None,
        max_length: int = 1024,
        loraplus_lr_ratio: float | None = None,
        neftune_noise_alpha: float | None = None,
        init_adapter: str | os.PathLike | None = None,
        force_base: bool = False,
        lr: float = 0.0002,
        schedule: str = 'cosine',
        warmup_ratio: float = 0.1,
        weight_decay: float = 0.01,
        adam_betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-08,
        clip: float = 1.0,
        seed: int = 0,
        device: str = 'auto',
        threads: int | None = None,
        recompute: str = 'auto',
        memory_limit: int | None = None,
        resident_limit: int | None = None,
        eval_every: int | None = None,
        early_stopping_patience: int | None = None,
        early_stopping_threshold: float = 0.0,
        keep_best: bool = False,
        save_every: int = 100,
        keep: int = 2,
        cache_dir: str | os.PathLike | None = None,
        lora_r: int = 16,
        lora_alpha: float = 32.0,
        lora_dropout: float = 0.0,
        use_rslora: bool = False,
        use_dora: bool = False,
        target_modules: str | list[str] = 'all-linear',
        layers_to_transform: list[int] | None = None,
        rank_pattern: dict[str, int] = {},
        alpha_pattern: dict[str, float] = {},
        data_format: str | None = None,
        prompt_field: str | None = None,
        response_field: str | None = None,
        text_field: str | None = None,
        prompt_template: str | None = None,
        messages_field: str | None = None,
        chat_template: str | os.PathLike | None = None,
        chat_template_kwargs: dict | None = None,
        template_drops: str | list[str] | None = None,
        bad_rows: str = 'error',
        # </settings of TrainingJob>
        on_event: Callable[[Event], bool | None] | None = None,
    ) -> None: ...
    @classmethod
    def resume(
        cls,
        out: str | os.PathLike,
        *,
        on_event: Callable[[Event], bool | None] | None = None,
        **given: Any,
    ) -> TrainingJob: ...
    @property
    def out(self) -> str: ...
    @property
    def settings(self) -> dict: ...
    def start(self) -> TrainingJob: ...
    @overload
    def wait(self, timeout: float) -> Report | None: ...
    # Of a job that was started; one that was not, or whose slice is over, gives None.
    @overload
    def wait(self, timeout: None = None) -> Report: ...
    def run(self, progress: bool = False) -> Report: ...
    async def run_async(self) -> Report: ...
    def run_slice(self, seconds: float) -> Slice: ...
    async def run_slice_async(self, seconds: float) -> Slice: ...
    def pause(self) -> None: ...
    def unpause(self) -> None: ...
    def cancel(self, save: bool = True) -> None: ...
    def update(
        self, *, threads: int | None = None, duty_cycle: float | None = None, memory_limit: int | None = None
    ) -> None: ...
    def status(self) -> Status: ...
    def events(self, timeout: float | None = None) -> Iterator[Event]: ...
    def events_async(self) -> AsyncIterator[Event]: ...
    def __iter__(self) -> Iterator[Event]: ...
    def close(self) -> None: ...
    def __enter__(self) -> TrainingJob: ...
    def __exit__(self, *_: Any) -> None: ...

class Generator:
    def __init__(
        self, model: Model | str | os.PathLike, adapter: str | os.PathLike | None = None, *, device: str = "auto",
        threads: int | None = None,
    ) -> None: ...
    def add_adapter(self, name: str, path: str | os.PathLike) -> None: ...
    def use_adapter(self, name: str | None) -> None: ...
    @property
    def adapters(self) -> list[str]: ...
    @property
    def adapter(self) -> str | None: ...
    @property
    def context(self) -> int: ...
    def generate(
        self, prompt: str, *, max_new_tokens: int = 128, temperature: float = 0.0, top_k: int | None = None,
        top_p: float | None = None, min_p: float | None = None, repetition_penalty: float = 1.0,
        stop: str | Sequence[str] = (), seed: int = 0, on_text: Callable[[str], bool | None] | None = None,
    ) -> Generation: ...
    def chat(
        self, messages: Iterable[Mapping[str, Any]], *, tools: list[dict] | None = None, max_new_tokens: int = 128,
        temperature: float = 0.0, top_k: int | None = None, top_p: float | None = None, min_p: float | None = None,
        repetition_penalty: float = 1.0, stop: str | Sequence[str] = (), seed: int = 0,
        on_text: Callable[[str], bool | None] | None = None,
    ) -> Generation: ...
    def stream(
        self, prompt: str, *, max_new_tokens: int = 128, temperature: float = 0.0, top_k: int | None = None,
        top_p: float | None = None, min_p: float | None = None, repetition_penalty: float = 1.0,
        stop: str | Sequence[str] = (), seed: int = 0,
    ) -> Iterator[str]: ...
    def cancel(self) -> None: ...
    def forget(self) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Generator: ...
    def __exit__(self, *_: Any) -> None: ...

class Summary(Record):
    examples: int
    checkpoints: list[str]
    confidence: str
    perplexity: dict
    nll: dict
    spearman: float
    confident: dict
    unconfident: dict
    neither: dict

class DataMap:
    def __init__(self, run: str | os.PathLike) -> None: ...
    def summary(self) -> Summary: ...
    def rows(
        self, *, sort_by: _Column = "confidence", descending: bool = False, half: _Half | None = None,
        filters: _Filters = (), offset: int = 0, limit: int = 100,
        with_text: bool = False,
    ) -> dict[str, list]: ...
    def count(self, *, half: _Half | None = None, filters: _Filters = ()) -> int: ...
    def history(self, index: int) -> list[dict]: ...

def plan(
    *,
    # <settings of plan>
    model: Model | str | os.PathLike,
    data: Files,
    out: str | os.PathLike | None = None,
    valid: str | os.PathLike | None = None,
    valid_split: float | None = None,
    recipe: str = 'sftmix',
    mu: float = 0.2,
    mix_alpha: float = 0.5,
    mix_reduction: str = 'token',
    dynamics: str | os.PathLike = 'sweep',
    reference_epochs: int = 1,
    reference_checkpoints: int = 4,
    confidence: str = 'perplexity',
    epochs: int = 3,
    max_steps: int | None = None,
    batch_size: int = 8,
    micro_batch: int | None = None,
    max_length: int = 1024,
    loraplus_lr_ratio: float | None = None,
    neftune_noise_alpha: float | None = None,
    init_adapter: str | os.PathLike | None = None,
    force_base: bool = False,
    lr: float = 0.0002,
    schedule: str = 'cosine',
    warmup_ratio: float = 0.1,
    weight_decay: float = 0.01,
    adam_betas: tuple[float, float] = (0.9, 0.999),
    adam_eps: float = 1e-08,
    clip: float = 1.0,
    seed: int = 0,
    device: str = 'auto',
    threads: int | None = None,
    recompute: str = 'auto',
    memory_limit: int | None = None,
    resident_limit: int | None = None,
    eval_every: int | None = None,
    early_stopping_patience: int | None = None,
    early_stopping_threshold: float = 0.0,
    keep_best: bool = False,
    save_every: int = 100,
    keep: int = 2,
    cache_dir: str | os.PathLike | None = None,
    lora_r: int = 16,
    lora_alpha: float = 32.0,
    lora_dropout: float = 0.0,
    use_rslora: bool = False,
    use_dora: bool = False,
    target_modules: str | list[str] = 'all-linear',
    layers_to_transform: list[int] | None = None,
    rank_pattern: dict[str, int] = {},
    alpha_pattern: dict[str, float] = {},
    data_format: str | None = None,
    prompt_field: str | None = None,
    response_field: str | None = None,
    text_field: str | None = None,
    prompt_template: str | None = None,
    messages_field: str | None = None,
    chat_template: str | os.PathLike | None = None,
    chat_template_kwargs: dict | None = None,
    template_drops: str | list[str] | None = None,
    bad_rows: str = 'error',
    # </settings of plan>
) -> Plan: ...
def evaluate(
    *,
    # <settings of evaluate>
    model: Model | str | os.PathLike,
    data: Files,
    batch_size: int = 8,
    max_length: int = 1024,
    device: str = 'auto',
    threads: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    data_format: str | None = None,
    prompt_field: str | None = None,
    response_field: str | None = None,
    text_field: str | None = None,
    prompt_template: str | None = None,
    messages_field: str | None = None,
    chat_template: str | os.PathLike | None = None,
    chat_template_kwargs: dict | None = None,
    template_drops: str | list[str] | None = None,
    bad_rows: str = 'error',
    # </settings of evaluate>
    adapter: str | os.PathLike | None = None,
    force: bool = False,
) -> Evaluation: ...
def inspect(
    *,
    # <settings of inspect>
    model: Model | str | os.PathLike,
    data: Files,
    max_length: int = 1024,
    threads: int | None = None,
    data_format: str | None = None,
    prompt_field: str | None = None,
    response_field: str | None = None,
    text_field: str | None = None,
    prompt_template: str | None = None,
    messages_field: str | None = None,
    chat_template: str | os.PathLike | None = None,
    chat_template_kwargs: dict | None = None,
    template_drops: str | list[str] | None = None,
    bad_rows: str = 'error',
    # </settings of inspect>
    rows: int = 3,
    row: int | None = None,
) -> list[dict]: ...
def export(
    run: str | os.PathLike | None = None, *, formats: str | Sequence[str] = ("peft",), out: str | os.PathLike | None = None,
    model: Model | str | os.PathLike | None = None, adapter: str | os.PathLike | None = None,
    data: str | os.PathLike | None = None, force: bool = False,
) -> list[Exported]: ...
def merge(
    run: str | os.PathLike | None = None, *, out: str | os.PathLike, dtype: str | None = None, gguf: str | None = None,
    model: Model | str | os.PathLike | None = None, adapter: str | os.PathLike | None = None,
    data: str | os.PathLike | None = None, force: bool = False,
) -> Merged: ...
def log_to(logger: logging.Logger | None = None, level: str | int = "warn") -> None: ...

class Error(Exception):
    detail: str

class IoError(Error):
    path: str
    reason: str
class InvalidConfigError(Error):
    field: str
    reason: str
class ModelNotSupportedError(Error):
    path: str
    reason: str
class ModelFormatError(Error):
    path: str
    tensor: str
    reason: str
class TokenizerError(Error):
    path: str
    reason: str
class ChatTemplateError(Error):
    path: str
    reason: str
class DataInvalidError(Error):
    path: str
    row: int
    reason: str
class NothingToTrainError(Error):
    reason: str
class NothingTrainedError(Error):
    reason: str
class AdapterError(Error):
    path: str
    reason: str
class BaseMismatchError(Error):
    adapter: str
    what: str
    trained_on: str
    expected: str
    base: str
    found: str
class ExportMismatchError(Error):
    path: str
    what: str
    difference: float
    bound: float
class DynamicsError(Error):
    path: str
    reason: str
class NoDynamicsError(Error):
    path: str
    taken_from: str | None
class ModelNotFoundError(Error):
    name: str
    cache: str
    reason: str
class DownloadError(Error):
    url: str
    reason: str
class CheckpointError(Error):
    path: str
    reason: str
class NonFiniteError(Error):
    what: str
class StoppedError(Error):
    checkpoint: str | None
class DeviceError(Error):
    device: str
    reason: str
class DeviceMemoryError(Error): ...
class MemoryLimitError(Error):
    limit: int
    needed: int
    savings: list
class TensorError(Error): ...
class MisuseError(Error): ...
class ThreadsError(Error): ...
class CallbackError(Error):
    reason: str
class OtherError(Error): ...
