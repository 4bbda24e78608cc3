import SFTMixFFI

/// What a run of these settings will take: memory by part, tokens, time, and whether it stays within its limit. Cancelling the
/// task does not end it.
public func plan(_ settings: TrainSettings, model: Model? = nil) async throws -> Plan {
    try await aside { try mapped { try SFTMixFFI.plan(settings: settings.core(), model: model?.core) } }
}

/// Loss, perplexity and accuracy of a model, with an adapter where one is given, on a file of rows. The settings say how rows
/// become examples (`data`, `maxLength`, `batchSize`, the shape of rows), where to compute, and the model, where no open one is
/// given. `force` takes the adapter whatever base it names. Cancelling the task does not end it.
public func evaluate(
    _ settings: TrainSettings, model: Model? = nil, adapter: String? = nil, force: Bool = false
) async throws -> Evaluation {
    try await aside {
        try mapped {
            try SFTMixFFI.evaluate(settings: settings.core(), model: model?.core, adapter: adapter, force: force)
        }
    }
}

/// What training will see of the data files: the first `rows` of each, or the one of number `row`, token by token, and what
/// became of all. Cancelling the task does not end it.
public func inspect(
    _ settings: TrainSettings, model: Model? = nil, rows: UInt64 = 3, row: UInt64? = nil
) async throws -> [InspectedFile] {
    try await aside {
        try mapped { try SFTMixFFI.inspect(settings: settings.core(), model: model?.core, rows: rows, row: row) }
    }
}

/// Writes the adapter of a run for other runtimes (`peft`, `gguf`, `mlx`), reads each back and compares its logits with the
/// trained one's. Without a run, `model` and `adapter` say which adapter on which base, and `data` the rows to compare on;
/// `force` takes the adapter whatever base it names.
///
/// They go to `OUT/peft`, `OUT/mlx` and `OUT/gguf`; without `out`, OUT is `export` in the run folder. `path` of what is returned
/// is that folder: the one for GGUF holds `adapter.gguf`. Exports that were there are replaced. Cancelling the task does not end
/// it.
public func export(
    _ run: String? = nil, formats: [String] = ["peft"], out: String? = nil, model: String? = nil, adapter: String? = nil,
    data: String? = nil, force: Bool = false
) async throws -> [Exported] {
    let source = AdapterSource(run: run, model: model, adapter: adapter, data: data, force: force)
    return try await aside { try mapped { try exportAdapter(source: source, formats: formats, out: out) } }
}

/// Writes a model whose weights have the adapter in them: a Hugging Face folder (`dtype` f32, f16 or bf16), or a GGUF file of a
/// type such as `q4_k_m`. The adapter is named as in ``export(_:formats:out:model:adapter:data:force:)``. Cancelling the task
/// does not end it.
public func merge(
    _ run: String? = nil, out: String, dtype: String? = nil, gguf: String? = nil, model: String? = nil,
    adapter: String? = nil, data: String? = nil, force: Bool = false
) async throws -> Merged {
    let source = AdapterSource(run: run, model: model, adapter: adapter, data: data, force: force)
    return try await aside { try mapped { try SFTMixFFI.merge(source: source, out: out, dtype: dtype, gguf: gguf) } }
}
