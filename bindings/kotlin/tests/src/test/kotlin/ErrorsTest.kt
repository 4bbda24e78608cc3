import java.nio.file.Path
import kotlin.io.path.createDirectories
import kotlin.io.path.createDirectory
import kotlin.io.path.div
import kotlin.io.path.readBytes
import kotlin.io.path.readText
import kotlin.io.path.writeBytes
import kotlin.io.path.writeText
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import org.sftmix.*

/** Every kind of error that can be provoked here, with the fields that name what is at fault. */
class ErrorsTest {
    private val at = folder()

    private inline fun <reified E : SftmixException> raised(crossinline call: suspend () -> Unit): E {
        val e = assertFailsWith<E> { runBlocking { call() } }
        assertTrue(!e.message.isNullOrEmpty() && "detail=" !in e.message!!, e.message)
        return e
    }

    private suspend fun train(change: (TrainSettings) -> TrainSettings) {
        TrainingJob(change(settings(at / "run").copy(recipe = "ntp"))).use { it.run() }
    }

    private fun copyOfDemo(name: String): Path = (at / name).createDirectory().also { copy ->
        for (file in listOf("config.json", "tokenizer.json", "model.safetensors")) (copy / file).writeBytes((DEMO / file).readBytes())
    }

    @Test
    fun settings() {
        assertEquals("lr", raised<SftmixException.InvalidConfig> { train { it.copy(lr = -1.0) } }.field)
        val e = raised<SftmixException.InvalidConfig> { train { it.copy(recipe = "magic") } }
        assertEquals("recipe", e.field)
        assertContains(e.reason, "sftmix")
        assertEquals(e.detail, e.message)
        assertContains(e.message, "recipe")
        raised<SftmixException.InvalidConfig> { TrainingJob(settings(at / "run")).use { it.runSlice((-1).let { n -> kotlin.time.Duration.INFINITE * n }) } }
        assertEquals("level", raised<SftmixException.InvalidConfig> { logTo("loud") { _, _ -> } }.field)
        assertEquals("row", raised<SftmixException.InvalidConfig> { inspect(settings(at / "run"), row = -1) }.field)
    }

    @Test
    fun rows() {
        val broken = (at / "broken.jsonl").apply { writeText("{\"text\": \"a\"}\n{\"txt\": \"b\"}\n") }
        val e = raised<SftmixException.DataInvalid> { train { it.copy(data = files(broken.text)) } }
        assertEquals(broken.text to 2uL, e.path to e.row)
        val empty = (at / "empty.jsonl").apply { writeText("") }
        raised<SftmixException.NothingToTrain> { train { it.copy(data = files(empty.text)) } }
    }

    @Test
    fun models() {
        assertTrue(raised<SftmixException.Io> { Model((at / "none").text) }.path.startsWith(at.text))
        val other = copyOfDemo("model")
        val config = (other / "config.json").readText()
        (other / "config.json").writeText(config.replace(Regex("\"model_type\": *\"\\w+\""), "\"model_type\": \"mystery\""))
        raised<SftmixException.ModelNotSupported> { Model(other.text) }
        (other / "config.json").writeText(config)
        (other / "model.safetensors").writeBytes((DEMO / "model.safetensors").readBytes().copyOf(1000))
        raised<SftmixException.ModelFormat> { Model(other.text) }
        (other / "model.safetensors").writeBytes((DEMO / "model.safetensors").readBytes())
        (other / "tokenizer.json").writeText("{}")
        raised<SftmixException.Tokenizer> { Generator(other.text) }
        assertEquals("someone/something", raised<SftmixException.ModelNotFound> { train { it.copy(model = "someone/something") } }.name)
    }

    @Test
    fun runs() {
        val (out, report) = finished
        assertEquals(out.text, raised<SftmixException.Checkpoint> { TrainingJob(settings(out)) }.path)
        assertContains(raised<SftmixException.Checkpoint> { TrainingJob.resume((at / "none").text) }.detail, "no run here")
        assertEquals("seed", raised<SftmixException.InvalidConfig> { TrainingJob.resume(out.text, TrainSettings(seed = 8u)) }.field)
        val adapter = (at / "adapter").createDirectory()
        (adapter / "adapter_config.json").writeText("{}")
        assertTrue(raised<SftmixException.Adapter> { Generator(DEMO.text, adapter.text) }.path.startsWith(adapter.text))
        val base = copyOfDemo("base")
        val weights = (base / "model.safetensors").readBytes()
        weights[1_000_000] = (weights[1_000_000].toInt() xor 1).toByte()
        (base / "model.safetensors").writeBytes(weights)
        val held = TrainSettings(model = base.text, data = files(HELD_OUT.text), cacheDir = at.text)
        val e = raised<SftmixException.BaseMismatch> { evaluate(held, adapter = report.adapter) }
        assertEquals("weights", e.what)
        assertTrue(e.expected != e.found && "base" in e.base)
        runBlocking { evaluate(held, adapter = report.adapter, force = true) }
    }

    @Test
    fun dynamics() {
        val log = (at / "run/dynamics").createDirectories()
        (log / "header.json").writeText("{}")
        raised<SftmixException.Dynamics> { DataMap(log.text) }
        val plain = at / "plain"
        runBlocking { TrainingJob(settings(plain).copy(recipe = "ntp", maxSteps = 2u)).use { it.run() } }
        assertTrue(raised<SftmixException.NoDynamics> { DataMap(plain.text) }.path.startsWith(plain.text))
    }

    @Test
    fun machine() {
        val e = raised<SftmixException.MemoryLimit> { train { it.copy(memoryLimit = 1000u) } }
        assertTrue(e.limit == 1000uL && e.needed > 1000u)
        // What fails before it runs is seen by who collects, too.
        raised<SftmixException.MemoryLimit> { TrainingJob(settings(at / "y").copy(memoryLimit = 1000u)).use { it.train().toList() } }
        assertEquals("cuda", raised<SftmixException.Device> { Generator(DEMO.text, device = "cuda") }.device)
    }

    @Test
    fun numbers() {
        assertTrue(raised<SftmixException.NonFinite> { train { it.copy(lr = 1e30, clip = 0.0, warmupRatio = 0.0) } }.what.isNotEmpty())
        (at / "run").toFile().deleteRecursively()
        raised<SftmixException.NothingTrained> { train { it.copy(lr = 1e-60, weightDecay = 0.0, warmupRatio = 0.0) } }
    }
}
