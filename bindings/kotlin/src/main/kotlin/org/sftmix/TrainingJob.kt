package org.sftmix

import kotlin.time.Duration
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.DurationUnit
import kotlin.time.TimeSource
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.emitAll
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.isActive
import kotlinx.coroutines.withContext

// Longest wait in the library: between two, a coroutine sees that it was cancelled.
private val TURN = 250.milliseconds

/**
 * A run: start it or run it in slices, steer it from any thread, collect its events or be called with them. Its folder alone
 * is enough to take it up again ([resume]).
 *
 * A coroutine that is cancelled while it suspends in [run], [runSlice] or [train] stops the job within a micro-batch, behind
 * a checkpoint; the [CancellationException] follows when that is on disk. A run that was not prepared yet has no checkpoint then.
 *
 * ```
 * TrainingJob(TrainSettings(model = "demo", data = files("demo/train.jsonl"), out = "run")).use { println(it.run().adapter) }
 * ```
 */
public class TrainingJob private constructor(private val failure: Failure, make: (Failure) -> CoreJob) : AutoCloseable {
    private val handle = Handle("job", make(failure))

    /**
     * A new run in a folder that holds none.
     *
     * @param settings what to train, on what, where to; what is left out has its default.
     * @param model an open model, in place of `settings.model`.
     * @param rows rows in place of `settings.data`: maps, or JSON objects as text. They are read once, when the job begins,
     *   and written through to the run folder. They are read to their end however short a slice is; to stop the job ends that
     *   at once. One thread asks for them at a time, but not the caller's.
     * @param onEvent called with each event on a thread of its own; `false` from it stops the job. Training does not wait for
     *   it, and while it is busy the newest step takes the place of the one before. What it throws ends the job behind a
     *   checkpoint, and is the cause of the [SftmixException.Callback] that [run] or [wait] throws.
     * @throws SftmixException.InvalidConfig [SftmixException.Checkpoint] and others, before anything is written.
     */
    public constructor(
        settings: TrainSettings,
        model: Model? = null,
        rows: Sequence<Any>? = null,
        onEvent: ((Event) -> Boolean)? = null,
    ) : this(Failure(), { failure ->
        model.lent { CoreJob(settings, it, onEvent?.let { Hearing(failure, it) }, rows?.let { Rows(failure, it) }) }
    })

    /** As the other constructor, with rows of a collection. */
    public constructor(
        settings: TrainSettings,
        rows: Iterable<Any>,
        model: Model? = null,
        onEvent: ((Event) -> Boolean)? = null,
    ) : this(settings, model, rows.asSequence(), onEvent)

    public companion object {
        /**
         * The run in the folder [out], to be taken up where its newest whole checkpoint stands.
         *
         * @param settings inputs that have moved, of the same content (`model`, `data`, `valid`, `initAdapter`, `chatTemplate`,
         *   `dynamics`), and settings of the machine (`device`, `memoryLimit`, `residentLimit`, `cacheDir`); the rest are the
         *   run's own. The number of threads changes by [update] alone.
         * @param model an open model, in place of the run's.
         * @throws SftmixException.Checkpoint where the folder holds no run: one that was stopped before it was prepared has left
         *   none, and begins anew with the same settings.
         */
        public fun resume(
            out: String,
            settings: TrainSettings? = null,
            model: Model? = null,
            onEvent: ((Event) -> Boolean)? = null,
        ): TrainingJob = TrainingJob(Failure()) { failure ->
            model.lent { CoreJob.resume(out, settings, it, onEvent?.let { Hearing(failure, it) }) }
        }
    }

    /** Its run folder. */
    public val out: String get() = handle.use { it.out() }

    /** Every setting, by the names of settings files. */
    @Suppress("UNCHECKED_CAST")
    public val settings: Map<String, Any?> get() = Json.value(handle.use { it.settingsJson() }) as Map<String, Any?>

    /** What it is at; answers at once. */
    public val status: JobStatus get() = handle.use { it.status() }

    /** Begins it on a thread of its own. */
    public fun start(): TrainingJob = apply { handle.use { it.start() } }

    /** Begins it and waits for its end. To cancel the coroutine stops it behind a checkpoint. */
    public suspend fun run(): TrainReport = stopped { handle.use { it.runAsync() } }

    /**
     * Waits for the end of what was started: the report, or `null` where it still goes on after [timeout], or was not begun.
     * Throws what ended it. To cancel the coroutine ends the waiting alone.
     */
    public suspend fun wait(timeout: Duration? = null): TrainReport? {
        val begun = TimeSource.Monotonic.markNow()
        return failure.told {
            while (true) {
                currentCoroutineContext().ensureActive()
                val left = left(begun, timeout)
                val report = blocking { handle.use { it.wait(left.toDouble(DurationUnit.SECONDS)) } }
                if (report != null) return report
                if (!isGoing() || over(begun, timeout)) return handle.use { it.wait(0.0) }
            }
            @Suppress("UNREACHABLE_CODE")
            null
        }
    }

    /**
     * Trains for at most so long and the micro-batch under way, writes a checkpoint and returns. The next slice, in this
     * process or another, goes on to the same bytes. To cancel the coroutine ends the slice at once, with its checkpoint.
     *
     * Preparing (reading rows, opening and hashing) counts towards the time and may take longer. However short a slice is, the
     * run gets on: rows that were tokenised stay for the next, and once prepared it does one step at least. While the job is
     * paused, slices pass without a step.
     */
    public suspend fun runSlice(time: Duration): Slice =
        stopped { handle.use { it.runSliceAsync(time.toDouble(DurationUnit.SECONDS)) } }

    /**
     * Asks it to wait: it finishes its micro-batch and writes a checkpoint. Before it runs, or between two slices: it is held at
     * its start.
     */
    public fun pause(): Unit = handle.use { it.pause() }

    /** Lets it go on after a pause; returns at once, when [status] may still say that it is paused. */
    public fun unpause(): Unit = handle.use { it.unpause() }

    /**
     * Asks it to stop within a micro-batch: behind a checkpoint, or without [save] at the newest one that is there. Before it
     * runs, or between two slices: its next attempt stops.
     */
    public fun cancel(save: Boolean = true): Unit = handle.use { it.cancel(save) }

    /**
     * Changes what it may take of the machine, from the next micro-batch on. The limits are this object's: a run that is taken
     * up has those of its settings.
     */
    public fun update(limits: Limits): Unit = handle.use { it.update(limits) }

    /**
     * Its events from the first that was not dealt with. An event counts as dealt with when the collector has returned from
     * it: one whose collector throws, or leaves the flow (`first`, `take`), comes again to the next, also after a crash of
     * the process. Ends with the job, or where none came for [timeout]. It begins nothing and says nothing of a failure:
     * [train] does both. Behind an operator that runs ahead, such as `buffer`, events are dealt with when it has them.
     *
     * Steps and evaluations all come, however late they are collected; of sweeps and checkpoints the newest. A job has one place
     * up to which events were dealt with: of two collectors at once each gets a part. One collects, and passes on.
     */
    public fun events(timeout: Duration? = null): Flow<Event> = flow {
        while (true) {
            val next = next(timeout) ?: break
            emit(next.event)
            handle.use { it.acknowledge(next.number) }
        }
    }

    /**
     * Begins it, unless it was begun, and gives its [events]; throws what made it fail. A job that was stopped just ends
     * here: [wait] tells. To cancel the collecting coroutine stops it behind a checkpoint; to leave the flow otherwise
     * (`first`, an exception) does not.
     */
    public fun train(): Flow<Event> = flow {
        if (status.state == JobState.IDLE) start()
        try {
            emitAll(events())
        } catch (e: CancellationException) {
            if (!currentCoroutineContext().isActive) withContext(NonCancellable) { end() }
            throw e
        }
        if (status.state == JobState.FAILED) wait()
    }

    /** Stops it, behind a checkpoint, and lets its threads and memory go. It blocks until then, a micro-batch or so. */
    override fun close(): Unit = handle.close { it.shutDown() }

    private suspend fun end() {
        // That it was stopped, or failed, is told to who waits for it.
        runCatching {
            cancel()
            wait()
        }
    }

    private suspend fun <T> stopped(work: suspend () -> T): T = failure.told { stoppable({ cancel() }, work) }

    private suspend fun next(timeout: Duration?): NumberedEvent? {
        val begun = TimeSource.Monotonic.markNow()
        while (true) {
            // Asked before the event: a job may end between the two, and what it said last must not be missed.
            val going = isGoing()
            val left = left(begun, timeout).toDouble(DurationUnit.SECONDS)
            val next = dispatched { handle.use { it.nextEventAsync(left) } }
            if (next != null || !going || over(begun, timeout)) return next
        }
    }

    private fun isGoing() = when (status.state) {
        JobState.IDLE, JobState.DONE, JobState.CANCELLED, JobState.FAILED -> false
        else -> true
    }

    private fun left(begun: TimeSource.Monotonic.ValueTimeMark, timeout: Duration?): Duration =
        if (timeout == null) TURN else (timeout - begun.elapsedNow()).coerceIn(Duration.ZERO, TURN)

    private fun over(begun: TimeSource.Monotonic.ValueTimeMark, timeout: Duration?): Boolean =
        timeout != null && begun.elapsedNow() >= timeout
}
