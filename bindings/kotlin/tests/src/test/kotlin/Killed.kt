import java.nio.file.Path
import kotlinx.coroutines.runBlocking
import org.sftmix.TrainingJob

/** Ends like a phone that kills an app: without a word. */
fun killed(at: Path): Unit = runBlocking {
    TrainingJob(settings(at)).train().collect { event ->
        if (event.step?.globalStep == 5uL) {
            ProcessBuilder("kill", "-9", "${ProcessHandle.current().pid()}").start().waitFor()
            Thread.sleep(60_000)
        }
    }
}
