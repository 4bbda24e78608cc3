import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNull
import kotlin.test.assertTrue
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import org.sftmix.*

/** Text from a model and its adapters, whole and in pieces. */
class TextTest {
    /** Drawn so wildly that no end token comes soon. */
    private val long = GenerateSettings(maxNewTokens = 200u, temperature = 5.0, seed = 1u)
    private val short = GenerateSettings(maxNewTokens = 12u)

    @Test
    fun `text with adapters`() = runBlocking {
        Model(DEMO.text).use { model ->
            Generator(model, threads = 2).use { generator ->
                val base = generator.generate("Once upon", short)
                assertTrue(base.newTokens in 1uL..12uL)
                val pieces = mutableListOf<String>()
                val again = generator.generate("Once upon", short) { pieces.add(it) }
                assertEquals(base.text, again.text)
                assertEquals(base.text, pieces.joinToString(""))
                assertEquals(base.text, generator.stream("Once upon", short).toList().joinToString(""))
                generator.addAdapter("mine", finished.second.adapter)
                assertEquals(listOf("mine"), generator.adapters)
                assertNull(generator.adapter)
                generator.useAdapter("mine")
                assertEquals("mine", generator.adapter)
                val tuned = generator.generate("Question: What", short)
                assertFailsWith<SftmixException.InvalidConfig> { generator.useAdapter("other") }
                Generator(model, finished.second.adapter, threads = 2).use { opened ->
                    assertEquals(listOf("default"), opened.adapters)
                    assertEquals(tuned.text, opened.generate("Question: What", short).text)
                }
                val drawn = GenerateSettings(maxNewTokens = 12u, temperature = 1.5, seed = 3u, stop = listOf("zzz"))
                assertEquals(generator.generate("Once", drawn).text, generator.generate("Once", drawn).text)
                assertTrue(generator.context >= 64u)
                generator.forget()
            }
        }
    }

    @Test
    fun `chat needs a template`() = runBlocking {
        Generator(DEMO.text, threads = 1).use { generator ->
            val messages = listOf(Message("user", "hi", moreJson = """{"reasoning_content":"none"}"""))
            assertFailsWith<SftmixException.ChatTemplate> { generator.chat(messages, tools = listOf(mapOf("name" to "f"))) }
            assertFailsWith<SftmixException.ChatTemplate> { generator.streamChat(messages).toList() }
            Unit
        }
    }

    @Test
    fun `who leaves a stream ends the text`() = runBlocking {
        Generator(DEMO.text, threads = 1).use { generator ->
            val begun = System.nanoTime()
            val whole = generator.generate("Once upon", long)
            val took = System.nanoTime() - begun
            assertTrue(whole.newTokens > 50u, "a text that is long enough to be left: ${whole.newTokens}")
            val left = System.nanoTime()
            assertEquals(2, generator.stream("Once upon", long).take(2).toList().size)
            // The next text is made at once: the one that was left does not go on behind the caller's back.
            generator.generate("a", GenerateSettings(maxNewTokens = 1u))
            assertTrue(System.nanoTime() - left < took, "left after ${System.nanoTime() - left} ns of $took")
        }
    }

    @Test
    fun `a cancelled coroutine ends its text and no other`() = runBlocking {
        Generator(DEMO.text, threads = 1).use { generator ->
            val whole = generator.generate("Once upon", long)
            assertTrue(whole.newTokens > 50u, "${whole.newTokens}")
            var pieces = 0
            val coroutine = launch(Dispatchers.Default) {
                generator.generate("Once upon", long) { pieces++; Thread.sleep(10); true }
            }
            while (pieces < 2) delay(1)
            // Waits for its turn, and gets a whole text.
            val other = async(Dispatchers.Default) { generator.generate("Once upon", long) }
            delay(20)
            coroutine.cancel()
            coroutine.join()
            assertTrue(coroutine.isCancelled)
            assertTrue(pieces.toULong() < whole.newTokens / 2u, "$pieces pieces of ${whole.newTokens} tokens")
            assertEquals(whole.text, other.await().text)
        }
    }

    @Test
    fun `cancel returns what there is`() = runBlocking {
        Generator(DEMO.text, threads = 1).use { generator ->
            var pieces = 0
            val text = async(Dispatchers.Default) {
                generator.generate("Once upon", long) { pieces++; Thread.sleep(10); true }
            }
            while (pieces < 2) delay(1)
            generator.cancel()
            val made = text.await()
            assertTrue(made.newTokens >= 2u && !made.stopped)
        }
    }

    @Test
    fun `closed generators are named`() = runBlocking {
        val generator = Generator(DEMO.text, threads = 1)
        generator.close()
        generator.close()
        assertContains(assertFailsWith<SftmixException.Misuse> { generator.generate("a") }.detail, "shut down")
        assertFailsWith<SftmixException.Misuse> { generator.stream("a").first() }
        assertEquals("threads", assertFailsWith<SftmixException.InvalidConfig> { Generator(DEMO.text, threads = 0) }.field)
        assertEquals("threads", assertFailsWith<SftmixException.InvalidConfig> { Generator(DEMO.text, threads = -1) }.field)
    }

    @Test
    fun `a collector that fails ends the text and is what is thrown`() = runBlocking {
        Generator(DEMO.text, threads = 1).use { generator ->
            assertFailsWith<ArithmeticException> { generator.stream("Once upon", short).collect { throw ArithmeticException() } }
            assertFailsWith<CancellationException> { generator.stream("Once upon", short).collect { throw CancellationException("enough") } }
            assertTrue(generator.generate("Once upon", short).newTokens > 0u)
        }
    }
}
