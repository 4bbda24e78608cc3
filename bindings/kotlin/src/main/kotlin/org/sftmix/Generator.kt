package org.sftmix

import java.util.concurrent.atomic.AtomicBoolean
import kotlinx.coroutines.channels.trySendBlocking
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.channelFlow

/**
 * A resident model that generates, with one of its adapters or without. Calls from several coroutines take their turns.
 *
 * To cancel a coroutine that generates, or that collects a [stream], ends the text at its next token; only the pass over a
 * long prompt is not broken off.
 */
public class Generator private constructor(core: CoreGenerator) : AutoCloseable {
    private val handle = Handle("generator", core)

    /**
     * Takes an open model into use.
     *
     * @param adapter a PEFT adapter folder, used from the start by the name `default`.
     * @param device auto, cpu, cuda, cuda:N or metal.
     * @param threads worker threads; without, the machine's cores are taken.
     */
    public constructor(model: Model, adapter: String? = null, device: String = "auto", threads: Int? = null) :
        this(model.handle.use { CoreGenerator.open(it, adapter, device, count(threads)) })

    /** As the other constructor, with the model that lies at [path]. */
    public constructor(path: String, adapter: String? = null, device: String = "auto", threads: Int? = null) :
        this(CoreModel.open(path).use { CoreGenerator.open(it, adapter, device, count(threads)) })

    /** Reads a PEFT adapter folder, to be used by this name; one of the same name goes. */
    public fun addAdapter(name: String, path: String): Unit = handle.use { it.addAdapter(name, path) }

    /** Generates with the adapter of this name from now on, or with none. */
    public fun useAdapter(name: String?): Unit = handle.use { it.useAdapter(name) }

    /** The names of the adapters, in the order in which they were added. */
    public val adapters: List<String> get() = handle.use { it.adapters() }

    /** The name of the adapter in use. */
    public val adapter: String? get() = handle.use { it.adapter() }

    /** The most tokens that prompt and text may have together. */
    public val context: ULong get() = handle.use { it.context() }

    /**
     * Continues a prompt.
     *
     * @param onText called with each piece, on the thread that generates; `false` from it ends the text, and what it throws
     *   is the cause of the [SftmixException.Callback] that this throws.
     */
    public suspend fun generate(
        prompt: String,
        settings: GenerateSettings = GenerateSettings(),
        onText: ((String) -> Boolean)? = null,
    ): Generation = made(onText) { core, listener -> core.generateAsync(prompt, settings, listener) }

    /**
     * The reply that follows a conversation, by the model's own chat template. What the last reply has left in the cache is
     * built upon.
     *
     * @param tools functions' schemas, for templates that know them.
     */
    public suspend fun chat(
        messages: List<Message>,
        settings: GenerateSettings = GenerateSettings(),
        tools: List<Map<String, *>>? = null,
        onText: ((String) -> Boolean)? = null,
    ): Generation {
        val told = tools?.let { Json.text(it) }
        return made(onText) { core, listener -> core.chatAsync(messages, settings, told, listener) }
    }

    /** The pieces of [generate] as they come. To leave the flow ends the text. */
    public fun stream(prompt: String, settings: GenerateSettings = GenerateSettings()): Flow<String> =
        channelFlow { generate(prompt, settings) { trySendBlocking(it).isSuccess } }

    /** The pieces of [chat] as they come. To leave the flow ends the text. */
    public fun streamChat(
        messages: List<Message>,
        settings: GenerateSettings = GenerateSettings(),
        tools: List<Map<String, *>>? = null,
    ): Flow<String> = channelFlow { chat(messages, settings, tools) { trySendBlocking(it).isSuccess } }

    /** Ends the text that another coroutine generates: what there is of it is returned there. */
    public fun cancel(): Unit = handle.use { it.cancel() }

    /** Frees what a chat has left in the cache. */
    public fun forget(): Unit = handle.use { it.forget() }

    /** Lets it go. A text that is being generated ends first. */
    override fun close(): Unit = handle.close { it.cancel() }

    private suspend fun made(
        onText: ((String) -> Boolean)?,
        make: suspend (CoreGenerator, TextListener) -> Generation,
    ): Generation {
        val failure = Failure()
        // Of this call alone: to cancel the generator would end another caller's text, or none, where this has not begun.
        val left = AtomicBoolean()
        val listener = object : TextListener {
            override fun onText(piece: String): Boolean = !left.get() && failure.of { onText?.invoke(piece) ?: true }
        }
        return failure.told { stoppable({ left.set(true) }) { handle.use { make(it, listener) } } }
    }
}

private fun count(threads: Int?): ULong? {
    if (threads != null && threads < 1) {
        val reason = "expected 1 to 1024, found $threads"
        throw SftmixException.InvalidConfig(detail = "threads: $reason", field = "threads", reason = reason)
    }
    return threads?.toULong()
}
