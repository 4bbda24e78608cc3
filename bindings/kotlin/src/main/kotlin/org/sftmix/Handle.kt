package org.sftmix

import java.util.concurrent.atomic.AtomicBoolean
import java.util.concurrent.atomic.AtomicInteger
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.async
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.withContext

/**
 * An object of the library. It goes when it is closed and the last call on it has returned. The generated code counts only
 * calls of an object's own methods, not those that are given the object as an argument; here both are counted.
 */
internal class Handle<T : Disposable>(private val what: String, private val core: T) {
    private val closed = AtomicBoolean()
    private val users = AtomicInteger(1)

    inline fun <R> use(block: (T) -> R): R {
        enter()
        try {
            return block(core)
        } finally {
            leave()
        }
    }

    /** The first call does `end` and lets the object go; others do nothing. */
    inline fun close(end: (T) -> Unit = {}) {
        if (!closed.compareAndSet(false, true)) return
        try {
            end(core)
        } finally {
            leave()
        }
    }

    fun enter() {
        if (closed.get()) throw gone()
        // The count is 0 once the object has gone, and stays there.
        while (true) {
            val n = users.get()
            if (n == 0) throw gone()
            if (users.compareAndSet(n, n + 1)) return
        }
    }

    fun leave() {
        if (users.decrementAndGet() == 0) core.destroy()
    }

    private fun gone() = SftmixException.Misuse("misuse: the $what was shut down")
}

/**
 * What a callback of the caller's threw. The library carries an error's text alone; the exception itself becomes the cause
 * of what the caller gets.
 */
internal class Failure {
    @Volatile
    private var thrown: Throwable? = null

    /** Errors count too: what leaves a callback otherwise is printed by JNA, and the library goes on. */
    fun <R> of(call: () -> R): R = try {
        call()
    } catch (e: Throwable) {
        thrown = e
        val reason = "${e::class.simpleName}: ${e.message}"
        throw SftmixException.Callback(detail = "a callback failed: $reason", reason = reason)
    }

    inline fun <R> told(work: () -> R): R = try {
        work()
    } catch (e: SftmixException.Callback) {
        throw caused(e)
    }

    fun caused(e: SftmixException.Callback): SftmixException.Callback {
        val cause = thrown
        if (cause != null && cause !== e && e.cause == null) e.initCause(cause)
        return e
    }
}

/**
 * Awaits work that goes on until it is told to stop. A coroutine that is cancelled stops it, waits until it has stopped, and
 * only then is cancelled: nothing of it runs on behind the caller's back.
 */
internal suspend fun <T> stoppable(stop: () -> Unit, work: suspend () -> T): T {
    currentCoroutineContext().ensureActive()
    // No child of the caller's: as one it would be cancelled with the caller, and could not be waited for. See `dispatched`.
    val apart = CoroutineScope(Dispatchers.Default)
    val running = apart.async(start = CoroutineStart.UNDISPATCHED) { runCatching { work() } }
    val ended = try {
        running.await()
    } catch (e: CancellationException) {
        runCatching(stop)
        withContext(NonCancellable) { running.join() }
        throw e
    }
    return ended.getOrThrow()
}

/**
 * Awaits the library on a dispatcher. Without one (`suspend fun main`, `Dispatchers.Unconfined`) a coroutine would go on
 * inside the library's own call that wakes it, and hold up the thread that made the call.
 */
internal suspend fun <T> dispatched(work: suspend () -> T): T = withContext(Dispatchers.Default) { work() }

/** Work that keeps its thread. */
internal suspend fun <T> blocking(work: () -> T): T = withContext(Dispatchers.IO) { work() }
