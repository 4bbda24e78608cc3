package org.sftmix

// What needs no handle. The work keeps a thread of Dispatchers.IO and is not broken off: a coroutine that is cancelled goes
// on to its end before the cancellation is seen.

/**
 * What a run of these settings will take: memory by part, tokens, time, and whether it stays within its limit. To cancel the
 * coroutine does not end it.
 *
 * @param model an open model, in place of `settings.model`.
 */
public suspend fun plan(settings: TrainSettings, model: Model? = null): RunPlan =
    blocking { model.lent { corePlan(settings, it) } }

/**
 * Loss, perplexity and accuracy of a model on a file of rows. To cancel the coroutine does not end it.
 *
 * @param settings how rows become examples (`data`, `maxLength`, `batchSize`, the shape of rows), where to compute, and the
 *   model, where no open one is given.
 * @param adapter a PEFT adapter folder.
 * @param force takes the adapter whatever base its sftmix.json names.
 */
public suspend fun evaluate(
    settings: TrainSettings,
    model: Model? = null,
    adapter: String? = null,
    force: Boolean = false,
): Evaluation = blocking { model.lent { coreEvaluate(settings, it, adapter, force) } }

/**
 * What training will see of the data files, and what became of all rows. To cancel the coroutine does not end it.
 *
 * @param rows how many rows of each file are shown token by token, from the first.
 * @param row the number of one row that is shown instead, from 1.
 */
public suspend fun inspect(
    settings: TrainSettings,
    model: Model? = null,
    rows: Int = 3,
    row: Long? = null,
): List<InspectedFile> = blocking { model.lent { coreInspect(settings, it, natural("rows", rows), row?.let { natural("row", it) }) } }

/**
 * Writes the adapter of a run for other runtimes, reads each back and compares its logits with the trained one's. They go to
 * `OUT/peft`, `OUT/mlx` and `OUT/gguf`, which holds `adapter.gguf`; exports that were there are replaced. To cancel the
 * coroutine does not end it.
 *
 * @param run a run folder: its adapter, its base and its held-out rows. Or name [model] and [adapter].
 * @param formats peft, gguf, mlx.
 * @param out where to; without, `export` in the run folder.
 * @param data rows to compare on.
 * @param force takes the adapter whatever base its sftmix.json names.
 */
public suspend fun export(
    run: String? = null,
    formats: List<String> = listOf("peft"),
    out: String? = null,
    model: String? = null,
    adapter: String? = null,
    data: String? = null,
    force: Boolean = false,
): List<Exported> = blocking { coreExport(AdapterSource(run, model, adapter, data, force), formats, out) }

/**
 * Writes a model whose weights have the adapter in them. To cancel the coroutine does not end it.
 *
 * @param run a run folder, as for [export].
 * @param out where to.
 * @param dtype f32, f16 or bf16, for a Hugging Face folder.
 * @param gguf a type such as q4_k_m, for a GGUF file.
 */
public suspend fun merge(
    run: String? = null,
    out: String,
    dtype: String? = null,
    gguf: String? = null,
    model: String? = null,
    adapter: String? = null,
    data: String? = null,
    force: Boolean = false,
): Merged = blocking { coreMerge(AdapterSource(run, model, adapter, data, force), out, dtype, gguf) }

internal fun natural(field: String, value: Number): ULong {
    if (value.toLong() < 0) {
        val reason = "expected 0 or more, found $value"
        throw SftmixException.InvalidConfig(detail = "$field: $reason", field = field, reason = reason)
    }
    return value.toLong().toULong()
}
