import kotlin.io.path.div
import kotlin.io.path.exists
import kotlin.io.path.readLines
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertIs
import kotlin.test.assertTrue
import kotlinx.coroutines.runBlocking
import org.sftmix.*

/** Functions of the caller's: listeners, rows, text; and what happens when they fail. */
class CallbacksTest {
    private val out = folder() / "run"
    private val lines = ROWS.readLines()

    /** The value of a text key in a row of the demo's. */
    private fun parsed(line: String): Map<String, Any> =
        Regex(""""(\w+)": *"((?:[^"\\]|\\.)*)"""").findAll(line).associate { m ->
            m.groupValues[1] to m.groupValues[2].replace("\\n", "\n").replace("\\\"", "\"").replace("\\\\", "\\")
        }

    @Test
    fun `rows that are text`() = runBlocking {
        val report = TrainingJob(settings(out).copy(data = null), lines).use { it.run() }
        assertEquals(lines.size.toULong(), report.examples)
        assertEquals(byProgram, adapter(out))
    }

    @Test
    fun `rows that are maps`() = runBlocking {
        val report = TrainingJob(settings(out).copy(data = null), rows = lines.asSequence().map { parsed(it) }).use { it.run() }
        assertEquals(lines.size.toULong(), report.examples)
        assertEquals(byProgram, adapter(out))
    }

    @Test
    fun `rows that throw are the cause`() = runBlocking {
        val rows = sequence { yield(mapOf("text" to "a b c")); throw NoSuchElementException("the database is gone") }
        val e = assertFailsWith<SftmixException.Callback> { TrainingJob(settings(out).copy(data = null), rows = rows).use { it.run() } }
        assertIs<NoSuchElementException>(e.cause)
        assertContains(e.reason, "the database is gone")
        assertFalse(out.exists())
        val odd = assertFailsWith<SftmixException.Callback> { TrainingJob(settings(out).copy(data = null), listOf<Any>(3)).use { it.run() } }
        assertContains(odd.reason, "Int")
        assertFailsWith<SftmixException.Callback> {
            TrainingJob(settings(out).copy(data = null), listOf(mapOf("text" to Double.NaN))).use { it.run() }
        }
        Unit
    }

    @Test
    fun `a listener that throws ends the job behind a checkpoint`() = runBlocking {
        val thrown = StackOverflowError("screen")
        TrainingJob(settings(out)) { if (it is Event.Step) throw thrown else true }.use { job ->
            val e = assertFailsWith<SftmixException.Callback> { job.run() }
            assertEquals(thrown, e.cause)
            assertEquals("StackOverflowError: screen", e.reason)
            assertEquals(JobState.FAILED, job.status.state)
        }
        TrainingJob.resume(out.text).use { it.run() }
        assertEquals(byProgram, adapter(out))
    }

    @Test
    fun `a listener may call back in and be slow`() = runBlocking {
        val seen = mutableListOf<Event>()
        lateinit var job: TrainingJob
        job = TrainingJob(settings(out)) {
            synchronized(seen) { seen += it }
            job.update(Limits(dutyCycle = 1.0))
            job.status.state != JobState.IDLE && Thread.sleep(50).let { true }
        }
        job.use { it.run() }
        synchronized(seen) {
            assertIs<Event.Prepared>(seen.first())
            assertTrue(seen.any { it is Event.Step })
        }
    }

    @Test
    fun `a listener stops the job`() = runBlocking {
        TrainingJob(settings(out)) { it !is Event.Step }.use { job -> assertFailsWith<SftmixException.Stopped> { job.run() } }
        Unit
    }

    @Test
    fun `a function that throws ends the text`() = runBlocking {
        Generator(DEMO.text, threads = 2).use { generator ->
            val thrown = java.io.IOException("closed")
            val e = assertFailsWith<SftmixException.Callback> { generator.generate("Once upon") { throw thrown } }
            assertEquals<Throwable?>(thrown, e.cause)
            val stopped = generator.generate("Once upon", GenerateSettings(maxNewTokens = 50u)) { false }
            assertEquals(1uL, stopped.newTokens)
        }
    }

    @Test
    fun `the log goes where it is told and nothing is printed`() = runBlocking {
        val told = mutableListOf<Pair<String, String>>()
        logTo("info") { level, message ->
            synchronized(told) { told += level to message }
            error("a listener of the log that fails")
        }
        val long = settings(out).copy(maxLength = 100_000u)
        TrainingJob(long).use { it.run() }
        logTo(listener = null)
        assertTrue(told.any { (level, message) -> level == "warn" && "100000" in message }, told.toString())
        val seen = told.size
        TrainingJob(long.copy(out = (folder() / "again").text)).use { it.run() }
        assertEquals(seen, told.size)
        val quiet = java("ChildrenKt", "quiet", (folder() / "run").text)
        assertEquals(0, quiet.status)
        assertEquals("", quiet.out)
    }
}
