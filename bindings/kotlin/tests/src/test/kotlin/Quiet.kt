import java.nio.file.Path
import kotlinx.coroutines.runBlocking
import org.sftmix.SftmixException
import org.sftmix.TrainingJob

/** A run, and one whose listener fails, in a process whose output is looked at. */
fun quiet(at: Path): Unit = runBlocking {
    TrainingJob(settings(at)).use { it.run() }
    try {
        TrainingJob(settings(at.resolveSibling("again"))) { throw AssertionError("seen") }.use { it.run() }
    } catch (_: SftmixException.Callback) {
    }
}
