package org.sftmix

/** The version of the library. */
public fun version(): String = coreVersion()

/**
 * A model that is open: a Hugging Face folder or a GGUF file. Jobs and generators share its mapped weights.
 *
 * To close it lets the weights go once the last job and generator that shares them is closed too.
 */
public class Model private constructor(core: CoreModel) : AutoCloseable {
    /**
     * Opens a model.
     *
     * @param path a model folder with `config.json`, `tokenizer.json` and safetensors, or a GGUF file.
     * @throws SftmixException.Io where nothing lies there, [SftmixException.ModelNotSupported] or
     *   [SftmixException.ModelFormat] for what cannot be used.
     */
    public constructor(path: String) : this(CoreModel.open(path))

    internal val handle = Handle("model", core)

    /**
     * The same model with worker threads that are shared: jobs, evaluations and generators that are opened on what is returned
     * compute on these [threads] (`null`: the machine's cores), where each would have its own otherwise. A setting `threads` of
     * another number is an error then. It is closed by itself.
     */
    public fun shareWorkers(threads: Int? = null): Model =
        handle.use { Model(it.shareWorkers(threads?.let { n -> natural("threads", n) })) }

    /** Where it lies. */
    public val path: String get() = handle.use { it.path() }

    /** Lets it go. What shares its weights keeps them. */
    override fun close(): Unit = handle.close()

    override fun toString(): String = runCatching { "Model($path)" }.getOrDefault("Model(closed)")
}

/** Does work with the open model that was given, or with none. */
internal inline fun <R> Model?.lent(work: (CoreModel?) -> R): R = if (this == null) work(null) else handle.use { work(it) }

/** Data files of a run, each once an epoch. For other weights: `listOf(DataSource("a.jsonl", weight = 2.0), …)`. */
public fun files(vararg paths: String): List<DataSource> = paths.map { DataSource(it) }

/**
 * Sends what the library logs, down to [level] (error, warn, info or debug), to one listener of the whole process; `null`
 * drops it again, as at the start. It is called with a level and a message, on the thread that logs; what it throws is
 * dropped.
 */
public fun logTo(level: String = "warn", listener: ((level: String, message: String) -> Unit)?) {
    val told = listener?.let {
        object : LogListener {
            override fun onLog(level: String, message: String) {
                // There is no one to tell.
                runCatching { it(level, message) }
            }
        }
    }
    coreLogListener(told, level)
}
