"""Text, the data map, plans, exports, errors, and what help() shows."""
import inspect
import json
import logging
import pathlib
import pickle
import sys

import pytest

import sftmix
from conftest import DEMO, PROGRAM, ROOT, settings


def test_text_with_adapters(finished):
    out, report = finished
    generator = sftmix.Generator(DEMO, threads=2)
    base = generator.generate("Once upon", max_new_tokens=12)
    assert base.new_tokens <= 12 and str(base) == base.text
    pieces = []
    again = generator.generate("Once upon", max_new_tokens=12, on_text=pieces.append)
    assert "".join(pieces) == again.text == base.text
    assert "".join(generator.stream("Once upon", max_new_tokens=12)) == base.text
    generator.add_adapter("mine", report.adapter)
    assert generator.adapters == ["mine"] and generator.adapter is None
    generator.use_adapter("mine")
    assert generator.adapter == "mine"
    generator.generate("Once upon", max_new_tokens=4)
    with pytest.raises(sftmix.InvalidConfigError):
        generator.use_adapter("other")
    stopped = generator.generate("Once upon", max_new_tokens=50, on_text=lambda piece: False)
    assert stopped.new_tokens == 1
    assert next(iter(generator.stream("Once upon", max_new_tokens=500))) is not None

    def fails(piece):
        raise OSError("closed")

    with pytest.raises(sftmix.CallbackError) as e:
        generator.generate("Once upon", on_text=fails)
    assert isinstance(e.value.__cause__, OSError)
    with pytest.raises(sftmix.ChatTemplateError):
        generator.chat([{"role": "user", "content": "hi"}])
    assert generator.context >= 64
    generator.forget()


def test_the_data_map(finished):
    out, report = finished
    data_map = sftmix.DataMap(out)
    summary = data_map.summary()
    assert summary.examples == report.examples
    page = data_map.rows(limit=10, with_text=True)
    assert len(page["row"]) == 10 and page["confidence"] == sorted(page["confidence"])
    assert all(isinstance(text, str) and text for text in page["response"])
    rest = data_map.rows(offset=10, limit=10)
    assert not set(page["index"]) & set(rest["index"])
    assert data_map.count() == report.examples
    empty = data_map.rows(filters=[("tokens", 10**6, None)])
    assert list(empty) == list(page) and not any(empty.values())
    halves = [data_map.count(half=h) for h in ("confident", "unconfident", "neither")]
    assert sum(halves) == report.examples and halves[0] == halves[1]
    short = data_map.rows(sort_by="tokens", descending=True, filters=[("tokens", None, 12)], limit=5)
    assert all(n <= 12 for n in short["tokens"])
    assert short["tokens"] == sorted(short["tokens"], reverse=True)
    assert len(data_map.history(page["index"][0])) >= 1
    with pytest.raises(sftmix.InvalidConfigError):
        data_map.rows(sort_by="beauty")
    with pytest.raises(sftmix.Error):
        sftmix.DataMap(out / "adapter")
    assert repr(data_map) == f"<sftmix.DataMap {out}>"


@pytest.mark.parametrize("filters", [("tokens", None, 12), [("tokens", 12)], [("tokens", None, 1, 2)], ["abc"], "tokens", 3,
                                     [("tokens", "few", None)], [(3, 1, 2)]], ids=repr)
def test_filters_of_a_wrong_shape_are_named(finished, filters):
    data_map = sftmix.DataMap(finished[0])
    for call in (data_map.rows, data_map.count):
        with pytest.raises(TypeError, match="^filters: "):
            call(filters=filters)


def test_numbers_out_of_range_are_named(finished):
    data_map = sftmix.DataMap(finished[0])
    for name, value, call in [("limit", n, data_map.rows) for n in (-1, 0, 10_001, 2**40)] + [
            ("offset", -1, data_map.rows), ("index", -1, data_map.history)]:
        e = raised(sftmix.InvalidConfigError, lambda: call(**{name: value}))
        assert e.field == name and e.reason.startswith("expected ") and e.reason.endswith(f", found {value}")
    for name, call in [("limit", data_map.rows), ("offset", data_map.rows), ("index", data_map.history)]:
        for value in (None, "3", 1.5):
            with pytest.raises(TypeError, match=f"^{name}: expected an int, found {type(value).__name__}"):
                call(**{name: value})
    # The bound is the library's own.
    query = lambda limit: sftmix._core.MapQuery(limit=limit)
    assert data_map._core.page(query(sftmix._map.LIMIT)).rows
    e = raised(sftmix.InvalidConfigError, lambda: data_map._core.page(query(sftmix._map.LIMIT + 1)))
    assert e.reason == f"expected 1 to {sftmix._map.LIMIT}, found {sftmix._map.LIMIT + 1}"


@pytest.mark.parametrize("messages, says", [
    ("hello", "^messages: expected a list of dicts with role and content, found str 'hello'"),
    ({"role": "user", "content": "hi"}, "^messages: expected a list of dicts"), (3, "^messages: .*found int 3"),
    (["hello"], "^messages: .*found str 'hello' as message 1"),
    ([{"role": "user", "content": "a"}, {"user": "x"}], "invalid setting messages: message 2 has no 'role'; it has user"),
    ([{"role": "user", "text": "x"}], "message 1 has no 'content'; it has role, text"), ([{}], "has no 'role'; it has nothing"),
    ([{"role": 3, "content": "x"}], "^messages: role of message 1: expected a str, found int 3"),
    ([{"role": "user", "content": "x", "more": object()}], "^messages: message 1: .*not JSON serializable"),
])
def test_messages_of_a_wrong_shape_are_named(messages, says):
    with sftmix.Generator(DEMO, threads=1) as generator:
        with pytest.raises((TypeError, sftmix.InvalidConfigError), match=says):
            generator.chat(messages)
        # A turn that calls a tool has no text; that this model has no template is said then.
        calls = [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]
        with pytest.raises(sftmix.ChatTemplateError):
            generator.chat(calls)


def test_settings_of_a_text_are_named():
    with sftmix.Generator(DEMO, threads=1) as generator:
        for name, value in [("stop", 3), ("stop", ["a", 3]), ("temperature", "hot"), ("top_k", "a"), ("max_new_tokens", 1.5),
                            ("seed", None), ("prompt", 3)]:
            given = {"prompt": "Once", name: value}
            for call in (generator.generate, generator.stream):
                with pytest.raises(TypeError, match=f"^{name}: expected "):
                    call(**given)
        e = raised(sftmix.InvalidConfigError, lambda: generator.generate("Once", max_new_tokens=-1))
        assert (e.field, e.reason) == ("max_new_tokens", "expected 0 or more, found -1")


def test_plan_evaluate_inspect(tmp_path, finished):
    out, report = finished
    plan = sftmix.plan(model=DEMO, data=DEMO / "train.jsonl", max_length=64, cache_dir=tmp_path)
    assert plan.fits and plan.examples == report.examples and plan.predicted_peak_bytes > 0
    given = dict(model=DEMO, data=DEMO / "valid.jsonl", max_length=64, cache_dir=tmp_path)
    base, tuned = sftmix.evaluate(**given), sftmix.evaluate(adapter=report.adapter, **given)
    assert abs(base.nll - report.base_eval_loss) < 1e-9 and abs(tuned.nll - report.eval_loss) < 1e-6
    [file] = sftmix.inspect(model=DEMO, data=DEMO / "train.jsonl", rows=2)
    assert len(file["shown"]) == 2
    tokens = file["shown"][0]["windows"][0]
    assert any(t["trained"] for t in tokens) and "".join(t["text"] for t in tokens)


def test_export_and_merge(tmp_path, finished, monkeypatch):
    out, _ = finished
    found = sftmix.export(out, formats=["peft", "gguf", "mlx"], out=tmp_path / "exports")
    assert [e.format for e in found] == ["peft", "gguf", "mlx"]
    assert all(pathlib.Path(e.path).exists() for e in found)
    monkeypatch.chdir(tmp_path)
    [short] = sftmix.export(out, out="short")
    assert short.path == str(tmp_path / "short/peft")
    merged = sftmix.merge(out, out=tmp_path / "merged")
    assert (tmp_path / "merged/config.json").exists() and merged.linears > 0
    sftmix.Generator(tmp_path / "merged", threads=1).generate("a", max_new_tokens=2)


def raised(kind, call):
    with pytest.raises(kind) as e:
        call()
    assert isinstance(e.value, sftmix.Error) and str(e.value) == e.value.detail and e.value.detail
    return e.value


def test_errors_have_their_fields(tmp_path, finished):
    out, report = finished
    job = lambda **more: sftmix.TrainingJob(**settings(tmp_path / "x", **more)).run()
    e = raised(sftmix.InvalidConfigError, lambda: job(lr=-1.0))
    assert e.field == "lr"
    e = raised(sftmix.InvalidConfigError, lambda: job(recipe="magic"))
    assert e.field == "recipe" and "sftmix" in e.reason
    e = raised(sftmix.IoError, lambda: sftmix.Model(tmp_path / "none"))
    assert e.path.startswith(str(tmp_path))
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "a"}\n{"txt": "b"}\n')
    e = raised(sftmix.DataInvalidError, lambda: job(data=broken))
    assert (e.path, e.row) == (str(broken), 2)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    raised(sftmix.NothingToTrainError, lambda: job(data=empty))
    e = raised(sftmix.CheckpointError, lambda: sftmix.TrainingJob(**settings(out)))
    assert e.path == str(out)
    e = raised(sftmix.MemoryLimitError, lambda: job(memory_limit=1000))
    assert e.limit == 1000 and e.needed > 1000
    raised(sftmix.DeviceError, lambda: sftmix.Generator(DEMO, device="cuda"))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    e = raised(sftmix.AdapterError, lambda: sftmix.Generator(DEMO, adapter))
    assert e.path.startswith(str(adapter))
    other = tmp_path / "model"
    other.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (other / name).write_bytes((DEMO / name).read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "mystery"}))
    raised(sftmix.ModelNotSupportedError, lambda: sftmix.Model(other))
    (other / "config.json").write_text(json.dumps(config))
    (other / "model.safetensors").write_bytes((DEMO / "model.safetensors").read_bytes()[:1000])
    raised(sftmix.ModelFormatError, lambda: sftmix.Model(other))
    (other / "model.safetensors").write_bytes((DEMO / "model.safetensors").read_bytes())
    (other / "tokenizer.json").write_text("{}")
    raised(sftmix.TokenizerError, lambda: sftmix.Generator(other))
    log = tmp_path / "run/dynamics"
    log.mkdir(parents=True)
    (log / "header.json").write_text("{}")
    raised(sftmix.DynamicsError, lambda: sftmix.DataMap(log))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how much a process has mapped is read from /proc")
def test_threads_that_cannot_be_started_are_an_error():
    import resource
    model = sftmix.Model(DEMO)
    mapped = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (64 << 20), hard))
    try:
        # Each has a stack of 2 MiB.
        e = raised(sftmix.ThreadsError, lambda: model.share_workers(64))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert "worker threads" in str(e)
    assert model.share_workers(2).path == model.path


def test_what_goes_wrong_is_seen_where_it_is_looked_at(tmp_path):
    with pytest.raises(sftmix.CheckpointError, match="no run here"):
        sftmix.TrainingJob.resume(tmp_path / "none")
    with pytest.raises(TypeError, match="memory_limit: expected int, found str '600MiB'"):
        sftmix.TrainingJob(**settings(tmp_path / "x", memory_limit="600MiB"))
    with pytest.raises(sftmix.MemoryLimitError):
        for _ in sftmix.TrainingJob(**settings(tmp_path / "y", memory_limit=1000)):
            pass
    assert repr(sftmix.MisuseError(detail="a")) == "MisuseError('a')"
    again = pickle.loads(pickle.dumps(sftmix.IoError(detail="a", path="b", reason="c")))
    assert (type(again), again.path, str(again)) == (sftmix.IoError, "b", "a")
    again.__notes__ = ["seen in the small hours"]  # As add_note() does, of Python 3.11.
    again.seen = 3
    third = pickle.loads(pickle.dumps(again))
    assert (third.__notes__, third.seen, third.reason) == (again.__notes__, 3, "c")
    plan = sftmix.plan(model=DEMO, data=DEMO / "train.jsonl", max_length=64, cache_dir=tmp_path, memory_limit=1000)
    assert not plan.fits and plan.predicted_peak_bytes > 1000


class Frame:
    """Has what a pandas.DataFrame is known by, and iterates over its columns as that does."""
    columns = ["prompt", "completion"]

    def to_dict(self, orient):
        return [{"prompt": f"a b c {i}", "completion": "d"} for i in range(8)]

    def __iter__(self):
        return iter(self.columns)


def test_a_frame_is_no_rows_and_what_gives_them_is_said(tmp_path):
    given = settings(tmp_path / "x", recipe="ntp", max_steps=2)
    frame = Frame()
    with pytest.raises(TypeError, match=r"data: expected rows, found a Frame, .* give frame.to_dict\("):
        sftmix.TrainingJob(**{**given, "data": frame})
    assert sftmix.TrainingJob(**{**given, "data": frame.to_dict("records")}).run().examples == 8


def test_files_alone_are_taken_where_nothing_is_trained():
    for call in (sftmix.plan, sftmix.evaluate, sftmix.inspect):
        for data in ([{"text": "a"}], ({"text": "a"} for _ in range(2)), Frame()):
            with pytest.raises(TypeError, match="data: expected files here .*TrainingJob"):
                call(model=DEMO, data=data)


@pytest.mark.parametrize("name, value, says", [
    ("valid", iter([]), "a path, found list_iterator"), ("valid", 3, "a path, found int 3"), ("out", 3, "a path"),
    ("model", 3, "a path"), ("cache_dir", b"c", "a path, found bytes"), ("layers_to_transform", 3, "a list of int, found int 3"),
    ("layers_to_transform", ["a"], "an int, found str 'a'"), ("target_modules", 3, "a str or a list of str"),
    ("template_drops", [3], "a str or a list of str"),
    ("rank_pattern", [8], "a dict"), ("chat_template_kwargs", [1], "a dict"), ("adam_betas", 0.9, "two numbers"),
    ("data", [("d", "much")], "a number, found str 'much'"),
])
def test_a_setting_of_a_wrong_type_is_named(name, value, says):
    with pytest.raises(TypeError, match=f"^{name}: .*expected {says}"):
        sftmix.TrainingJob(**{**settings("o"), name: value})


def test_one_word_is_a_list_of_one(tmp_path):
    with sftmix.TrainingJob(**settings(tmp_path / "x", template_drops="tools", target_modules="q_proj, v_proj")) as job:
        assert job.settings["template_drops"] == ["tools"] and job.settings["target_modules"] == ["q_proj", "v_proj"]


def test_slips_are_named_before_anything_is_done():
    with pytest.raises(TypeError, match="did you mean 'batch_size'"):
        sftmix.TrainingJob(model="m", data="d", out="o", batchsize=4)
    with pytest.raises(TypeError, match="iterable of rows"):
        sftmix.TrainingJob(model="m", data=3, out="o")
    with pytest.raises(TypeError, match="'learning_rate'; did you mean 'lr'"):
        sftmix.TrainingJob(model="m", data="d", out="o", learning_rate=1e-4)
    with pytest.raises(TypeError, match="missing 'model' and 'out'"):
        sftmix.TrainingJob(data="d")
    for call in (sftmix.plan, sftmix.evaluate, sftmix.inspect):
        with pytest.raises(TypeError, match="missing 'model'"):
            call(data="d")


def test_what_has_no_effect_is_refused_by_name():
    files = dict(model=DEMO, data=DEMO / "valid.jsonl")
    for name, value in [("lr", 5.0), ("epochs", 7), ("keep_best", True), ("out", "o"), ("valid", "v")]:
        for call in (sftmix.evaluate, sftmix.inspect):
            with pytest.raises(sftmix.InvalidConfigError, match=f"invalid setting {name}: it has no effect on an") as e:
                call(**files, **{name: value})
            assert e.value.field == name
    with pytest.raises(sftmix.InvalidConfigError, match="batch_size"):
        sftmix.inspect(**files, batch_size=2)
    with pytest.raises(TypeError, match="did you mean 'max_length'"):
        sftmix.evaluate(**files, max_seq_length=3)
    # An odd size is a matter of training by pairs.
    odd = sftmix.evaluate(**files, max_length=32, batch_size=3)
    assert abs(odd.nll - sftmix.evaluate(**files, max_length=32).nll) < 1e-4


def test_closed_objects_say_so(tmp_path, finished):
    with sftmix.Model(DEMO) as model:
        generator = sftmix.Generator(model, threads=1)
        path = model.path
    model.close()
    assert model.path == path
    for call in (lambda: sftmix.Generator(model), lambda: sftmix.TrainingJob(**settings(tmp_path / "x", model=model)),
                 lambda: sftmix.plan(model=model, data=DEMO / "train.jsonl"),
                 lambda: sftmix.export(model=model, adapter=finished[1].adapter, out=tmp_path)):
        with pytest.raises(sftmix.MisuseError, match="model was closed"):
            call()
    # What was opened on it goes on.
    with generator:
        stream = generator.stream("Once", max_new_tokens=500)
        assert next(stream)
    generator.close()
    generator.cancel()
    for call in (lambda: generator.generate("a"), generator.forget, lambda: generator.use_adapter(None),
                 lambda: next(generator.stream("a"))):
        with pytest.raises(sftmix.MisuseError, match="generator was closed"):
            call()


def test_who_ended_a_text_is_told():
    with sftmix.Generator(DEMO, threads=1) as generator:
        assert generator.generate("Once", max_new_tokens=9, on_text=lambda piece: False).cancelled
        whole = generator.generate("Once", max_new_tokens=9)
        assert not whole.cancelled and not generator.generate("Once", max_new_tokens=9, stop=whole.text[-2:]).cancelled
        # By the model's context.
        filled = [generator.generate("Once upon", max_new_tokens=10**6, temperature=3.0, seed=seed) for seed in range(4)]
        assert not any(text.cancelled for text in filled)


def test_help_shows_every_setting_with_its_default():
    schema = json.loads((ROOT / "bindings/schema.json").read_text())["settings"]
    signature = inspect.signature(sftmix.TrainingJob.__init__)
    for s in schema:
        shown = signature.parameters[s["name"]].default
        if s["name"] not in ("model", "data", "out"):
            # A list without anything in it is said as None, which may be left out like any other.
            want = (tuple(s["default"]) or None) if isinstance(s["default"], list) else s["default"]
            assert repr(shown) == repr(want), s["name"]
        assert s["name"] in sftmix.TrainingJob.__init__.__doc__
    assert "lr: 'float' = 0.0002" in str(signature)


def test_nothing_is_printed_and_the_log_goes_where_it_is_told(tmp_path, capfd):
    records = []

    class Handler(logging.Handler):
        def emit(self, record):
            records.append(record)

    logger = logging.getLogger("sftmix-test")
    logger.addHandler(Handler())
    logger.setLevel(logging.DEBUG)
    long = settings(tmp_path / "run", max_length=100_000)
    sftmix.log_to(logger, "info")
    sftmix.TrainingJob(**long).run()
    sftmix.log_to(None)
    assert any("100000" in r.getMessage() and r.levelno == logging.WARNING for r in records), records
    seen = len(records)
    sftmix.TrainingJob(**{**long, "out": tmp_path / "again"}).run()
    assert len(records) == seen
    assert capfd.readouterr() == ("", "")


def test_levels_are_those_of_logging_too():
    logger = logging.getLogger("sftmix-levels")
    taken = {"debug": ["debug", "DEBUG", logging.DEBUG, logging.NOTSET, 5], "info": ["info", logging.INFO, 15],
             "warn": ["warn", "warning", "WARNING", logging.WARNING],
             "error": ["error", "critical", "fatal", logging.ERROR, logging.CRITICAL]}
    for level, names in taken.items():
        for name in names:
            assert sftmix._log._level(name) == level, name
            sftmix.log_to(logger, name)
    sftmix.log_to(None)
    e = raised(sftmix.InvalidConfigError, lambda: sftmix.log_to(logger, "loud"))
    assert e.field == "level"
    for level in (None, 1.5, True):
        with pytest.raises(TypeError, match="^level: expected a str or an int"):
            sftmix.log_to(logger, level)


def test_pandas_takes_a_page(finished):
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match="found a DataFrame.*to_dict"):
        sftmix.TrainingJob(model=DEMO, out="o", data=pandas.DataFrame({"text": ["a"]}))
    frame = pandas.DataFrame(sftmix.DataMap(finished[0]).rows(limit=3))
    assert len(frame) == 3 and "confidence" in frame


def test_documented_programs_run(tmp_path):
    import re
    import subprocess
    import sys

    program = (ROOT / "examples/python/finetune.py").read_text()
    assert len(program.splitlines()) <= 60
    subprocess.run([PROGRAM, "demo", "--write", "demo"], check=True, cwd=tmp_path, capture_output=True)
    subprocess.run([sys.executable, ROOT / "examples/python/finetune.py", "demo", "run"], check=True, cwd=tmp_path,
                   capture_output=True, timeout=300)
    for page in ("bindings/python/README.md", "docs/api.md"):
        text = (ROOT / page).read_text()
        folder = tmp_path / page.replace("/", "-")
        folder.mkdir()
        (folder / "demo").symlink_to(tmp_path / "demo")
        blocks = re.findall(r"```python\n(.*?)```", text, re.S)
        assert blocks, page
        # The blocks of a page are one program.
        subprocess.run([sys.executable, "-c", "\n".join(blocks)], check=True, cwd=folder, timeout=300)
