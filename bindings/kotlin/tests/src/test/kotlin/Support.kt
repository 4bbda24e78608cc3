import java.io.File
import java.nio.file.Files
import java.nio.file.Path
import java.util.concurrent.TimeUnit
import kotlin.io.path.absolutePathString
import kotlin.io.path.div
import kotlin.io.path.readBytes
import kotlin.test.assertEquals
import kotlin.test.assertTrue
import kotlinx.coroutines.runBlocking
import org.sftmix.*

/** The checkout, for the demo's model and the pages that are tested. */
val ROOT: Path = Path.of(System.getProperty("sftmix.root"))
val DEMO: Path = ROOT / "assets/demo"

/** The command line, to compare with. */
val PROGRAM: String = System.getProperty("sftmix.program")

val Path.text: String get() = absolutePathString()

val ROWS: Path = DEMO / "train.jsonl"
val HELD_OUT: Path = DEMO / "valid.jsonl"

/** A quick run with dynamics. */
fun settings(out: Path): TrainSettings = TrainSettings(
    model = DEMO.text, data = files(ROWS.text), out = out.text, epochs = 1u, maxSteps = 8u, batchSize = 4u, maxLength = 64u,
    threads = 2u, saveEvery = 3u,
)

fun adapter(run: Path): List<Byte> = (run / "adapter/adapter_model.safetensors").readBytes().toList()

fun folder(): Path = Files.createTempDirectory("sftmix-kotlin").also { it.toFile().deleteOnExit() }

/** Another process: its exit status and what it said. */
class Ended(val status: Int, val out: String)

fun process(vararg command: String, at: Path = folder(), env: Map<String, String> = emptyMap(), seconds: Long = 300): Ended {
    val log = File.createTempFile("sftmix", ".log")
    val builder = ProcessBuilder(*command).directory(at.toFile()).redirectErrorStream(true).redirectOutput(log)
    builder.environment().putAll(env)
    val process = builder.start()
    if (!process.waitFor(seconds, TimeUnit.SECONDS)) process.destroyForcibly().waitFor()
    return Ended(process.exitValue(), log.readText())
}

/** A main function of these tests' in a process of its own, which sees what a user's project sees. */
fun java(main: String, vararg arguments: String, flags: List<String> = emptyList(), at: Path = folder(), env: Map<String, String> = emptyMap()): Ended =
    process(
        "${System.getProperty("java.home")}/bin/java", "-Dsftmix.root=$ROOT", "-Dsftmix.program=$PROGRAM", *flags.toTypedArray(), "-cp", System.getProperty("java.class.path"), main, *arguments,
        at = at, env = env,
    )

/** A folder in which the programs of the documentation find `demo`, as the pages tell to make it. */
fun besideDemo(): Path = folder().also { at ->
    val made = process(PROGRAM, "demo", "--write", "demo", at = at)
    assertEquals(0, made.status, made.out)
}

/** The adapter that the command line gives for [settings]. */
val byProgram: List<Byte> by lazy {
    val out = folder() / "run"
    val flags = listOf(
        "--model=$DEMO", "--data=$ROWS", "--out=$out", "--epochs=1", "--max-steps=8", "--batch-size=4", "--max-length=64",
        "--threads=2", "--save-every=3",
    )
    val ended = process(PROGRAM, "train", *flags.toTypedArray())
    assertEquals(0, ended.status, ended.out)
    adapter(out)
}

/** A finished run with held-out rows, and its report. */
val finished: Pair<Path, TrainReport> by lazy {
    val out = folder() / "run"
    out to TrainingJob(settings(out).copy(valid = HELD_OUT.text)).use { runBlocking { it.run() } }
}

/** Waits for a state, a minute at most. */
fun until(job: TrainingJob, vararg states: JobState) {
    val end = System.nanoTime() + 60_000_000_000
    while (job.status.state !in states) {
        assertTrue(System.nanoTime() < end, job.status.toString())
        Thread.sleep(5)
    }
}

/** Every event counts as unknown to who does not look for it. */
val Event.step: StepEvent? get() = (this as? Event.Step)?.step
