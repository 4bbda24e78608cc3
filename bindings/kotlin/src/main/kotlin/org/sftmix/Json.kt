package org.sftmix

/** As much JSON as rows and settings need, so that the package brings no library for it. */
internal object Json {
    /** A value of maps, lists, arrays, texts, numbers, truth values and nulls as JSON. */
    fun text(value: Any?): String = StringBuilder().also { write(it, value) }.toString()

    private fun write(out: StringBuilder, value: Any?) {
        when (value) {
            null, is Boolean, is Byte, is Short, is Int, is Long, is UInt, is ULong -> out.append(value)
            is java.math.BigInteger, is java.math.BigDecimal -> out.append(value)
            is Float -> number(out, value.toDouble(), value.toString())
            is Double -> number(out, value, value.toString())
            is CharSequence -> quoted(out, value)
            is Char, is Enum<*> -> quoted(out, value.toString())
            is Map<*, *> -> list(out, '{', value.entries, '}') { (key, item) ->
                quoted(out, key.toString())
                out.append(':')
                write(out, item)
            }
            is Iterable<*> -> list(out, '[', value, ']') { write(out, it) }
            is Array<*> -> list(out, '[', value.asIterable(), ']') { write(out, it) }
            else -> throw IllegalArgumentException("JSON has no ${value::class.simpleName}")
        }
    }

    private fun number(out: StringBuilder, value: Double, text: String) {
        require(value.isFinite()) { "JSON has no $text" }
        out.append(text)
    }

    private inline fun <T> list(out: StringBuilder, open: Char, items: Iterable<T>, close: Char, each: (T) -> Unit) {
        out.append(open)
        items.forEachIndexed { i, item ->
            if (i > 0) out.append(',')
            each(item)
        }
        out.append(close)
    }

    private fun quoted(out: StringBuilder, text: CharSequence) {
        out.append('"')
        for (c in text) {
            when {
                c == '"' || c == '\\' -> out.append('\\').append(c)
                c == '\n' -> out.append("\\n")
                c < ' ' -> out.append("\\u%04x".format(c.code))
                else -> out.append(c)
            }
        }
        out.append('"')
    }

    /** What JSON says: maps, lists, texts, `Long` and `Double`, truth values and nulls. */
    fun value(text: String): Any? = Reading(text).run {
        value().also { require(rest().isEmpty()) { "JSON ends before ${rest()}" } }
    }

    private class Reading(private val text: String) {
        private var at = 0

        fun rest(): String = text.substring(at).trim()

        fun value(): Any? = when (next()) {
            '{' -> buildMap {
                items('}') {
                    val key = string()
                    expect(':')
                    put(key, value())
                }
            }
            '[' -> buildList { items(']') { add(value()) } }
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }

        private fun next(): Char {
            while (at < text.length && text[at].isWhitespace()) at++
            require(at < text.length) { "JSON ends early" }
            return text[at]
        }

        private fun expect(c: Char) {
            require(next() == c) { "JSON has ${text[at]} where $c was expected" }
            at++
        }

        private inline fun items(close: Char, one: () -> Unit) {
            at++
            while (next() != close) {
                one()
                if (next() == ',') at++
            }
            at++
        }

        private fun <T> word(name: String, value: T): T {
            require(text.startsWith(name, at)) { "JSON has no ${text.substring(at).take(10)}" }
            at += name.length
            return value
        }

        private fun number(): Number {
            val from = at
            while (at < text.length && (text[at].isDigit() || text[at] in "+-.eE")) at++
            val told = text.substring(from, at)
            require(told.isNotEmpty()) { "JSON has no ${text[at]}" }
            return told.toLongOrNull() ?: told.toDouble()
        }

        private fun string(): String = buildString {
            expect('"')
            while (text[at] != '"') {
                val c = text[at++]
                if (c != '\\') {
                    append(c)
                    continue
                }
                when (val escaped = text[at++]) {
                    'n' -> append('\n')
                    't' -> append('\t')
                    'r' -> append('\r')
                    'b' -> append('\b')
                    'f' -> append('\u000c')
                    'u' -> append(text.substring(at, at + 4).toInt(16).toChar()).also { at += 4 }
                    else -> append(escaped)
                }
            }
            at++
        }
    }
}
