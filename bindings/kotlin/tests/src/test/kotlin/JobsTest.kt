import java.nio.file.Path
import kotlin.io.path.div
import kotlin.io.path.exists
import kotlin.io.path.isDirectory
import kotlin.io.path.listDirectoryEntries
import kotlin.io.path.readLines
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.async
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.mapNotNull
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.Dispatchers
import org.sftmix.*

/** Jobs: the same bytes as the command line's, events, cancelling, pause, slices, limits. */
class JobsTest {
    private val out = folder() / "run"

    @Test
    fun `the adapter is the command line's`() = runBlocking {
        val report = TrainingJob(settings(out)).use { it.run() }
        assertEquals(byProgram, adapter(out))
        assertEquals((out / "adapter").text, report.adapter)
        assertTrue(report.steps > 8u)
    }

    @Test
    fun `events say what metrics jsonl says`() = runBlocking {
        val seen = TrainingJob(settings(out).copy(valid = HELD_OUT.text)).use { it.train().toList() }
        for (kind in listOf(Event.Prepared::class, Event.Step::class, Event.Evaluated::class, Event.Split::class, Event.Checkpoint::class, Event.Sweep::class))
            assertTrue(seen.any { kind.isInstance(it) }, kind.toString())
        val lines = (out / "metrics.jsonl").readLines()
        val told = seen.mapNotNull { event ->
            event.step?.let { """"step":${it.step},""" to it.loss } ?: (event as? Event.Evaluated)?.let { "eval_loss" to it.evaluated.evalLoss }
        }
        assertEquals(lines.size, told.size)
        for ((line, words) in lines zip told) {
            assertContains(line, words.first)
            assertEquals(Regex(""""(eval_)?loss":([^,}]+)""").find(line)!!.groupValues[2].toDouble(), words.second)
        }
    }

    @Test
    fun `an event comes until it was dealt with`() = runBlocking {
        TrainingJob(settings(out)).use { job ->
            job.start()
            val steps = mutableListOf<ULong>()
            assertFailsWith<ArithmeticException> {
                job.events().collect { event ->
                    val step = event.step?.globalStep ?: return@collect
                    // Not dealt with: the next collector gets it.
                    if (step == 5uL) throw ArithmeticException()
                    steps += step
                }
            }
            val report = assertNotNull(job.wait())
            steps += job.events().mapNotNull { it.step?.globalStep }.toList()
            assertEquals((1uL..report.steps).toList(), steps)
        }
    }

    @Test
    fun `what leaves a flow early leaves its last event`() = runBlocking {
        TrainingJob(settings(out)).use { job ->
            assertEquals(1, job.train().take(1).toList().size)
            assertTrue(job.events().first() is Event.Prepared)
            // Nobody cancelled: the job has gone on.
            assertNotNull(job.wait())
            assertEquals(JobState.DONE, job.status.state)
        }
    }

    @Test
    fun `cancel takes effect within a micro-batch and resume gives the same bytes`() = runBlocking {
        TrainingJob(settings(out)).use { job ->
            job.train().first { it.step?.globalStep == 4uL }
            job.cancel()
            val begun = System.nanoTime()
            val stopped = assertFailsWith<SftmixException.Stopped> { job.wait() }
            assertTrue(System.nanoTime() - begun < 5_000_000_000)
            assertTrue(Path.of(assertNotNull(stopped.checkpoint)).isDirectory())
            assertEquals(JobState.CANCELLED, job.status.state)
        }
        TrainingJob.resume(out.text).use { it.run() }
        assertEquals(byProgram, adapter(out))
    }

    @Test
    fun `cancel without a checkpoint`() = runBlocking {
        TrainingJob(settings(out)).use { job ->
            job.train().collect { if (it.step?.globalStep == 5uL) job.cancel(save = false) }
            assertFailsWith<SftmixException.Stopped> { job.wait() }
            assertFalse((out / "checkpoint-5").exists())
            // The same object goes on.
            job.run()
        }
        assertEquals(byProgram, adapter(out))
    }

    private fun checkpoints() = out.listDirectoryEntries("checkpoint-*")

    /** A coroutine that is cancelled once the job computes: it ends behind a checkpoint, and the job is taken up. */
    private fun cancelled(work: suspend (TrainingJob) -> Unit) = runBlocking {
        TrainingJob(settings(out).copy(saveEvery = 1000u)).use { job ->
            job.update(Limits(dutyCycle = 0.3))
            var ended: Throwable? = null
            val coroutine = launch(Dispatchers.Default) {
                try {
                    work(job)
                } catch (e: Throwable) {
                    ended = e
                    throw e
                }
            }
            while (job.status.globalStep < 2uL) delay(2.milliseconds)
            assertEquals(emptyList(), checkpoints())
            coroutine.cancel()
            coroutine.join()
            assertTrue(ended is CancellationException, "$ended")
            // It had stopped before the coroutine ended.
            assertTrue(job.status.state == JobState.CANCELLED || job.status.state == JobState.IDLE, job.status.toString())
            assertEquals(1, checkpoints().size)
            assertFalse((out / "adapter").exists())
        }
        TrainingJob.resume(out.text).use { it.run() }
        assertEquals(byProgram, adapter(out))
    }

    @Test
    fun `a cancelled run leaves a checkpoint`() = cancelled { it.run() }

    @Test
    fun `a cancelled slice leaves a checkpoint`() = cancelled { it.runSlice(60.seconds) }

    @Test
    fun `a cancelled collector of training leaves a checkpoint`() = cancelled { it.train().collect {} }

    @Test
    fun `who only waits or watches leaves the job alone when cancelled`() = runBlocking {
        TrainingJob(settings(out)).use { job ->
            job.start()
            val waits = launch { job.wait() }
            val watches = launch { job.events().collect {} }
            while (job.status.globalStep < 1uL) delay(2.milliseconds)
            waits.cancel()
            watches.cancel()
            waits.join()
            watches.join()
            assertNotNull(job.wait())
        }
        assertEquals(byProgram, adapter(out))
    }

    @Test
    fun `pause waits behind a checkpoint`() = runBlocking {
        TrainingJob(settings(out)).use { job ->
            job.start()
            while (job.status.globalStep < 2uL) delay(2.milliseconds)
            job.pause()
            until(job, JobState.PAUSED)
            val at = job.status
            assertTrue(Path.of(assertNotNull(at.checkpoint)).isDirectory())
            delay(100.milliseconds)
            assertEquals(at.globalStep, job.status.globalStep)
            assertNull(job.wait(50.milliseconds))
            job.unpause()
            job.wait()
            assertEquals(JobState.DONE, job.status.state)
        }
        assertEquals(byProgram, adapter(out))
    }

    @Test
    fun `slices go on to the same bytes`() = runBlocking {
        TrainingJob(settings(out)).use { job ->
            job.update(Limits(dutyCycle = 0.4))
            var slices = 1
            while (job.runSlice(300.milliseconds).report == null) assertTrue(++slices < 300)
            assertTrue(slices > 1)
        }
        assertEquals(byProgram, adapter(out))
    }

    @Test
    fun `limits change while it runs and no bit of the result`() = runBlocking {
        TrainingJob(settings(out)).use { job ->
            assertEquals("duty_cycle", assertFailsWith<SftmixException.InvalidConfig> { job.update(Limits(dutyCycle = 2.0)) }.field)
            val told = mutableListOf<Pair<ULong?, String?>>()
            var needed = 0uL
            job.train().collect { event ->
                if (event.step?.globalStep == 2uL) {
                    needed = assertFailsWith<SftmixException.MemoryLimit> { job.update(Limits(memoryLimit = 1000u)) }.needed
                    job.update(Limits(memoryLimit = needed, dutyCycle = 0.8))
                }
                if (event is Event.Limits) told += event.limits.memoryLimit to event.refused
            }
            job.wait()
            assertEquals(listOf<Pair<ULong?, String?>>(needed to null), told)
        }
        assertEquals(byProgram, adapter(out))
        TrainingJob(settings(folder() / "run")).use { job ->
            job.update(Limits(threads = 1u))
            job.run()
            assertEquals(1uL, job.status.limits.threads)
        }
    }

    @Test
    fun `two jobs at once on one model`() = runBlocking {
        val runs = listOf(folder() / "a", folder() / "b")
        Model(DEMO.text).use { model ->
            assertEquals(DEMO.text, model.path)
            val reports = runs.map { run ->
                async { TrainingJob(settings(run).copy(model = null), model).use { it.run() } }
            }
            reports.forEach { it.await() }
        }
        runs.forEach { assertEquals(byProgram, adapter(it)) }
    }

    @Test
    fun `jobs share worker threads`() = runBlocking {
        val runs = listOf(folder() / "a", folder() / "b")
        Model(DEMO.text).use { model ->
            model.shareWorkers(2).use { shared ->
                val reports = runs.map { run ->
                    async { TrainingJob(settings(run).copy(model = null, threads = null), shared).use { it.run() } }
                }
                reports.forEach { it.await() }
                val three = settings(folder() / "c").copy(model = null, threads = 3u)
                val e = assertFailsWith<SftmixException.InvalidConfig> { TrainingJob(three, shared).use { it.run() } }
                assertContains(e.reason, "expected 2 or none, found 3")
            }
            assertFailsWith<SftmixException.InvalidConfig> { model.shareWorkers(0) }
        }
        runs.forEach { assertEquals(byProgram, adapter(it)) }
    }

    @Test
    fun `misuse is named`() = runBlocking {
        val job = TrainingJob(settings(out))
        assertNull(job.wait())
        job.start()
        assertContains(assertFailsWith<SftmixException.Misuse> { job.start() }.detail, "running")
        job.cancel()
        job.close()
        job.close()
        assertContains(assertFailsWith<SftmixException.Misuse> { job.status }.detail, "shut down")
        assertFailsWith<SftmixException.Misuse> { job.run() }
        assertFailsWith<SftmixException.Misuse> { job.events().toList() }
        val model = Model(DEMO.text).apply { close() }
        assertFailsWith<SftmixException.Misuse> { model.path }
        assertFailsWith<SftmixException.Misuse> { TrainingJob(settings(folder() / "run"), model) }
        assertFailsWith<SftmixException.Misuse> { plan(settings(out), model) }
        val map = DataMap(finished.first.text).apply { close() }
        assertFailsWith<SftmixException.Misuse> { map.summary() }
        Unit
    }

    @Test
    fun `closing ends who waits`() = runBlocking {
        val job = TrainingJob(settings(out))
        val runs = async(Dispatchers.Default) { runCatching { job.run() } }
        while (job.status.globalStep < 1uL) delay(2.milliseconds)
        job.close()
        assertTrue(runs.await().exceptionOrNull() is SftmixException.Stopped, "${runs.await()}")
        assertEquals(1, checkpoints().count { it.isDirectory() }.coerceAtMost(1))
    }

    @Test
    fun `settings are told by name`() = runBlocking {
        TrainingJob(settings(out).copy(chatTemplateKwargs = """{"enable_thinking":false,"depth":[1,2.5,"é\n"]}""", targetModules = listOf("q_proj"))).use { job ->
            val told = job.settings
            assertEquals(out.text, job.out)
            assertEquals(4L, told["batch_size"])
            assertEquals(2e-4, told["lr"])
            assertEquals(mapOf("enable_thinking" to false, "depth" to listOf(1L, 2.5, "é\n")), told["chat_template_kwargs"])
        }
    }

    @Test
    fun `a killed process is taken up`() = runBlocking {
        val ended = java("ChildrenKt", "killed", out.text)
        assertEquals(137, ended.status, ended.out)
        TrainingJob.resume(out.text).use { job ->
            val steps = job.train().mapNotNull { it.step?.globalStep }.toList()
            val report = assertNotNull(job.wait())
            // Step 5 was not dealt with, and what was done again comes again.
            assertEquals(report.steps, steps.last())
            assertTrue(steps.first() <= 5u)
        }
        assertEquals(byProgram, adapter(out))
    }
}
