import kotlin.io.path.div
import kotlin.io.path.exists
import kotlin.io.path.readLines
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertTrue

/** The programs of the documentation, which test.sh has put beside these tests. */
class PagesTest {
    @Test
    fun `the example runs`() {
        assertTrue((ROOT / "examples/kotlin/Finetune.kt").readLines().size <= 60)
        val at = besideDemo()
        val ended = java("finetune.FinetuneKt", "demo", "run", at = at)
        assertEquals(0, ended.status, ended.out)
        for (line in listOf("step 10 of", "paused: PAUS", "ended: ", "held-out loss", "confidence", "gguf ")) assertContains(ended.out, line)
        assertTrue((at / "run/exports").exists())
    }

    private fun page(name: String) {
        val at = besideDemo()
        val ended = java("${name.lowercase()}.${name}Kt", at = at)
        assertEquals(0, ended.status, ended.out)
        assertTrue((at / "run/adapter").exists())
    }

    @Test
    fun `the first program of the README runs`() = page("ReadmeProgram")

    @Test
    fun `the blocks of the README run`() = page("ReadmeBlocks")

    @Test
    fun `the blocks of docs api md run`() = page("ApiBlocks")
}
