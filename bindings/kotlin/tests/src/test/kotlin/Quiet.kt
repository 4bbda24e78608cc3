import java.nio.file.Path
import kotlinx.coroutines.runBlocking
import org.sftmix.SftmixException
import org.sftmix.TrainingJob

/** A run, and one whose listener fails, in a process whose output is looked at. */
fun main(arguments: Array<String>) = runBlocking {
    val out = Path.of(arguments[0])
    TrainingJob(settings(out)).use { it.run() }
    try {
        TrainingJob(settings(out.resolveSibling("again"))) { throw AssertionError("seen") }.use { it.run() }
    } catch (_: SftmixException.Callback) {
    }
}
