import java.util.zip.ZipFile
import kotlin.io.path.readText
import kotlin.reflect.KClass
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertTrue
import org.sftmix.*

/** The public surface against the Rust one: the same records, errors, functions, defaults and documentation. */
class SurfaceTest {
    private fun rust(file: String) = ROOT.resolve("bindings/uniffi/src/$file.rs").readText()

    private fun camel(name: String) = name.split('_').let { words -> words.first() + words.drop(1).joinToString("") { it.replaceFirstChar(Char::uppercase) } }

    /** The jar of sources, which test.sh has beside the jar: what an editor shows. */
    private val sources: String by lazy {
        val jar = java.io.File(System.getProperty("sftmix.sources"))
        ZipFile(jar).use { zip ->
            zip.entries().asSequence().filter { it.name.endsWith(".kt") }.joinToString("\n") { zip.getInputStream(it).reader().readText() }
        }
    }

    /** Comments of either language as one text. */
    private fun plain(text: String) = text.replace(Regex("""\s*\n\s*(///|\*)\s*"""), " ").replace(Regex("\\s+"), " ").trim()

    private val told: String by lazy { plain(sources) }

    private fun properties(kind: KClass<*>): Set<String> =
        kind.java.declaredFields.filterNot { java.lang.reflect.Modifier.isStatic(it.modifiers) }.map { it.name }.toSet()

    @Test
    fun `every setting is there, with its documentation and default`() {
        val entry = Regex("""((?:\s*///[^\n]*\n)+)\s*#\[uniffi\(default = None\)\]\s*#\[serde[^\n]*\n\s*pub (\w+): Option""")
        val settings = entry.findAll(rust("settings")).toList()
        assertTrue(settings.size > 50, "${settings.size}")
        assertEquals(settings.map { camel(it.groupValues[2]) }.toSet(), properties(TrainSettings::class))
        for (setting in settings) assertContains(told, plain("\n" + setting.groupValues[1].trim()).removePrefix("/// "))
        assertEquals(TrainSettings(), TrainSettings(null))
        val schema = ROOT.resolve("bindings/schema.json").readText()
        val names = Regex(""""name": "(\w+)"""").findAll(schema).map { camel(it.groupValues[1]) }.toSet()
        assertEquals(names, properties(TrainSettings::class))
    }

    @Test
    fun `every error is there, with its fields`() {
        val body = rust("error").substringAfter("\nerrors! {").substringBefore("\n}\n")
        val kinds = Regex("""///([^\n]*)\n\s*(\w+) \{([^}]*)\}""").findAll(body).toList()
        assertEquals(27, kinds.size)
        assertEquals(kinds.map { it.groupValues[2] }.toSet(), SftmixException::class.sealedSubclasses())
        for (kind in kinds) {
            val found = Class.forName("org.sftmix.SftmixException$${kind.groupValues[2]}").kotlin
            val fields = Regex("""(\w+):""").findAll(kind.groupValues[3]).map { camel(it.groupValues[1]) }.toSet() + "detail"
            assertEquals(fields, properties(found), kind.groupValues[2])
            assertContains(told, kind.groupValues[1].trim())
        }
    }

    private fun KClass<*>.sealedSubclasses(): Set<String> =
        java.declaredClasses.filter { SftmixException::class.java.isAssignableFrom(it) }.map { it.simpleName }.toSet()

    @Test
    fun `every record has its fields, and every field its words`() {
        val files = listOf("records", "map", "tasks", "generate").joinToString("\n") { rust(it) }
        val twins = Regex("""///[^\n]*\n\s*(\w+) of sftmix::[\w:]+ \{(.*?)\n    \}""", RegexOption.DOT_MATCHES_ALL)
        val structs = Regex("""uniffi::Record\)\]\npub struct (\w+) \{(.*?)\n\}""", RegexOption.DOT_MATCHES_ALL)
        val records = (twins.findAll(files) + structs.findAll(files)).toList()
        assertTrue(records.size > 25, "${records.size}")
        for (record in records) {
            val found = Class.forName("org.sftmix.${record.groupValues[1]}").kotlin
            val fields = Regex("""///([^\n]*)\n(?:\s*///[^\n]*\n|\s*#[^\n]*\n)*\s*(?:pub )?(\w+):""").findAll(record.groupValues[2]).toList()
            assertEquals(fields.map { camel(it.groupValues[2]) }.toSet(), properties(found), record.groupValues[1])
            for (field in fields) assertContains(told, field.groupValues[1].trim())
        }
        assertEquals(GenerateSettings(128u, 0.0, null, null, null, 1.0, emptyList(), 0u), GenerateSettings())
        assertEquals(MapQuery("confidence", false, null, emptyList(), 0u, 100u, false), MapQuery())
        assertEquals(1.0, DataSource("a").weight)
    }

    /** Functions of Rust's that have another name here, or none since a suspended one does the same. */
    private val names = mapOf(
        "settings_json" to "getSettings", "out" to "getOut", "status" to "getStatus", "path" to "getPath", "adapters" to "getAdapters",
        "adapter" to "getAdapter", "context" to "getContext", "next_event" to "events", "acknowledge" to "events", "shut_down" to "close",
        "export_adapter" to "export", "set_log_listener" to "logTo", "open" to null, "new" to null, "drop" to null,
    )

    private fun functions(source: String) = Regex("""\n    pub (?:async )?fn (\w+)""").findAll(source).map { it.groupValues[1].removeSuffix("_async") }.toSet()

    @Test
    fun `every function is there`() {
        fun check(kind: KClass<*>, wanted: Set<String>) {
            // A function whose arguments are of value classes has a suffix to its name.
            val found = (kind.java.methods.map { it.name } + kind.java.declaredClasses.flatMap { c -> c.methods.map { it.name } }).map { it.substringBefore('-') }
            for (name in wanted) names.getOrDefault(name, camel(name))?.let { assertContains(found, it, "$kind") }
        }
        fun exported(file: String, kind: String) = rust(file).substringAfter("#[uniffi::export]\nimpl $kind {").substringBefore("\n}\n")
        val jobs = functions("\n" + exported("job", "TrainingJob"))
        assertTrue(jobs.size > 12, "$jobs")
        check(TrainingJob::class, jobs)
        check(Model::class, functions("\n" + exported("job", "Model")))
        check(Generator::class, functions("\n" + exported("generate", "Generator")))
        check(DataMap::class, functions("\n" + exported("map", "DataMap")))
        val tops = Regex("""#\[uniffi::export[^\n]*\]\npub (?:async )?fn (\w+)""").findAll(rust("tasks") + rust("lib") + rust("logging"))
        val found = listOf("TasksKt", "ModelKt").flatMap { file -> Class.forName("org.sftmix.$file").methods.map { it.name } }
        for (name in tops.map { it.groupValues[1].removeSuffix("_async") }.toSet()) assertContains(found, names[name] ?: camel(name))
        assertEquals(Regex("""(?m)^version = "([^"]+)"""").find(ROOT.resolve("Cargo.toml").readText())!!.groupValues[1], version())
    }

    @Test
    fun `what is written by hand has words too`() {
        // Of public declarations in this project's own files; generated ones are checked above.
        val own = ROOT.resolve("bindings/kotlin/src/main/kotlin/org/sftmix").toFile().listFiles()!!.sortedBy { it.name }
        assertEquals(8, own.size)
        for (file in own) {
            val lines = file.readLines()
            lines.forEachIndexed { i, line ->
                if (!line.trimStart().startsWith("public ") || "companion object" in line) return@forEachIndexed
                val before = lines.take(i).last { !it.trimStart().startsWith("@") }.trim()
                assertTrue(before.endsWith("*/"), "${file.name}: $line")
            }
        }
    }
}
