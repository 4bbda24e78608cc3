import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertTrue

/** What two hundred cycles of open, train and close leave behind. */
class MemoryTest {
    @Test
    fun `memory does not grow over two hundred cycles`() {
        // A heap that is whole from the start, and code that is compiled no further: what grows is then the library's.
        val flags = listOf("-Xms64m", "-Xmx64m", "-XX:+AlwaysPreTouch", "-XX:+UseSerialGC", "-Xint")
        // glibc keeps a heap for each of up to sixteen threads, which fill over dozens of cycles; two fill at once.
        val ended = java("ChildrenKt", "cycles", folder().text, flags = flags, env = mapOf("MALLOC_ARENA_MAX" to "2"))
        assertEquals(0, ended.status, ended.out)
        val held = ended.out.lines().filter { it.isNotBlank() }.associate { line -> line.split(" ").let { it[0] to it[1].toLong() } }
        println("RssAnon by cycles: $held")
        assertTrue(held.getValue("200") <= held.getValue("20") + 2_000_000, held.toString())
    }
}
