import java.nio.file.Path
import kotlin.io.path.div
import kotlin.io.path.exists
import kotlin.math.abs
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import org.sftmix.*

/** The data map; and what needs no handle: plans, evaluations, looks, exports, merges. */
class MapTest {
    @Test
    fun `the data map`() = runBlocking {
        val (out, report) = finished
        DataMap(out.text).use { map ->
            assertEquals(report.examples, map.summary().examples)
            val page = map.rows(limit = 10u, withText = true)
            assertEquals(10, page.size)
            assertEquals(page.map { it.confidence }.sorted(), page.map { it.confidence })
            assertTrue(page.all { !it.response.isNullOrEmpty() && it.textAbsent == null })
            val rest = map.rows(offset = 10u, limit = 10u)
            assertTrue((page.map { it.index } intersect rest.map { it.index }.toSet()).isEmpty())
            assertNull(rest.first().response)
            assertEquals(report.examples, map.count())
            val halves = listOf("confident", "unconfident", "neither").map { map.count(half = it) }
            assertEquals(report.examples, halves.sum())
            assertEquals(halves[0], halves[1])
            val short = map.rows(sortBy = "tokens", descending = true, filters = listOf(MapFilter("tokens", max = 12.0)), limit = 5u)
            assertTrue(short.isNotEmpty() && short.all { it.tokens <= 12u })
            assertEquals(short.map { it.tokens }.sortedDescending(), short.map { it.tokens })
            val history = map.history(page.first().index)
            assertTrue(history.isNotEmpty() && history.all { it.nll > 0 })
            assertFailsWith<SftmixException.InvalidConfig> { map.rows(sortBy = "beauty") }
            val pages = map.pages(MapQuery(half = "confident", limit = 64u)).toList()
            assertTrue(pages.dropLast(1).all { it.rows.size == 64 })
            assertEquals(halves[0].toInt(), pages.flatMap { it.rows }.map { it.index }.toSet().size)
        }
        assertFailsWith<SftmixException> { DataMap((out / "adapter").text) }
        Unit
    }

    @Test
    fun `plan, evaluate, inspect`() = runBlocking {
        val (_, report) = finished
        val cache = folder().text
        val given = TrainSettings(model = DEMO.text, data = files(ROWS.text), maxLength = 64u, cacheDir = cache)
        val plan = plan(given)
        assertTrue(plan.fits && plan.predictedPeakBytes > 0u)
        assertEquals(report.examples, plan.examples)
        val tight = plan(given.copy(memoryLimit = 1000u))
        assertTrue(!tight.fits && tight.predictedPeakBytes > 1000u)
        val held = given.copy(data = files(HELD_OUT.text))
        assertTrue(abs(evaluate(held).nll - assertNotNull(report.baseEvalLoss)) < 1e-9)
        Model(DEMO.text).use { model ->
            val tuned = evaluate(held.copy(model = null), model, report.adapter)
            assertTrue(abs(tuned.nll - assertNotNull(report.evalLoss)) < 1e-6)
            val file = inspect(TrainSettings(data = files(ROWS.text)), model, rows = 2).single()
            assertEquals(2, file.shown.size)
            val tokens = file.shown[0].windows[0]
            assertTrue(tokens.any { it.trained } && tokens.joinToString("") { it.text }.isNotEmpty())
            assertEquals(7uL, inspect(TrainSettings(data = files(ROWS.text)), model, row = 7).single().shown.single().row)
        }
    }

    @Test
    fun `export and merge`() = runBlocking {
        val (out, _) = finished
        val at = folder()
        val found = export(out.text, listOf("peft", "gguf", "mlx"), (at / "exports").text)
        assertEquals(listOf("peft", "gguf", "mlx"), found.map { it.format })
        assertTrue(found.all { Path.of(it.path).exists() })
        val merged = merge(out.text, out = (at / "merged").text)
        assertTrue((at / "merged/config.json").exists() && merged.linears > 0u)
        Generator((at / "merged").text, threads = 1).use { it.generate("a", GenerateSettings(maxNewTokens = 2u)) }
        assertEquals("formats", assertFailsWith<SftmixException.InvalidConfig> { export(out.text, listOf("onnx")) }.field)
    }
}
