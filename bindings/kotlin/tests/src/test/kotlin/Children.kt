import java.nio.file.Path

/** What runs in a process of its own: its name, and a folder. */
fun main(arguments: Array<String>) {
    val at = Path.of(arguments[1])
    when (arguments[0]) {
        "killed" -> killed(at)
        "quiet" -> quiet(at)
        "cycles" -> cycles(at)
    }
}
