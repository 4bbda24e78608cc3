import kotlin.io.path.readText
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals

/** Of the Android package: what can be looked at without Android. */
class AndroidTest {
    private val android = ROOT.resolve("bindings/kotlin/android")

    @Test
    fun `libraries that are aligned are told from those that are not`() {
        val ended = process(android.resolve("check-pages.sh").text, "--self-test")
        assertEquals(0, ended.status, ended.out)
        assertContains(ended.out, "16 kB: ")
        assertContains(ended.out, "aligned to 0x1000: ")
    }

    @Test
    fun `both ways to generate name the same things`() {
        fun names(page: String) = page.substringAfter("kotlin.rename]").lines().filter { "=" in it }.sorted()
        val jvm = names(ROOT.resolve("bindings/kotlin/uniffi.toml").readText())
        assertEquals(11, jvm.size)
        assertEquals(jvm, names(android.resolve("uniffi.toml").readText()))
    }
}
