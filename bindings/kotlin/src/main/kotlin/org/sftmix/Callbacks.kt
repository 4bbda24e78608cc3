package org.sftmix

/** Calls a function with each event. */
internal class Hearing(private val failure: Failure, private val call: (Event) -> Boolean) : EventListener {
    override fun onEvent(event: Event): Boolean = failure.of { call(event) }
}

/** Rows of a sequence, one by one. */
internal class Rows(private val failure: Failure, rows: Sequence<Any>) : RowSource {
    // Asked for with the first row, on the thread that reads: what it throws is the job's error.
    private val iterator by lazy(LazyThreadSafetyMode.NONE) { rows.iterator() }

    override fun nextRow(): String? = failure.of {
        if (!iterator.hasNext()) return@of null
        when (val row = iterator.next()) {
            is String -> row
            is Map<*, *> -> Json.text(row)
            else -> throw IllegalArgumentException("expected rows that are maps or JSON text, found ${row::class.simpleName}")
        }
    }
}
