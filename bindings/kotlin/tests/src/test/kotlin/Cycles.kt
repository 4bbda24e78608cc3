import java.nio.file.Path
import kotlin.io.path.div
import kotlinx.coroutines.runBlocking
import org.sftmix.Model
import org.sftmix.TrainingJob

/** Two hundred models opened, jobs trained and both closed; after some, the bytes that the process holds for itself. */
fun cycles(at: Path): Unit = runBlocking {
    for (i in 1..200) {
        val given = settings(at / "run$i").copy(
            model = null, recipe = "ntp", maxSteps = 1u, warmupRatio = 0.0, maxLength = 16u, cacheDir = (at / "cache").text,
        )
        Model(DEMO.text).use { model -> TrainingJob(given, model) { true }.use { it.run() } }
        if (i % 20 == 0) {
            // What the finalisers of JNA's memory have yet to free is not the library's.
            repeat(3) {
                System.gc()
                Thread.sleep(50)
            }
            val line = Path.of("/proc/self/status").toFile().readLines().first { it.startsWith("RssAnon") }
            println("$i ${line.filter { it.isDigit() }.toLong() * 1024}")
        }
    }
}
