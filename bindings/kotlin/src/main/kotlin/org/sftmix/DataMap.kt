package org.sftmix

import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.flowOn

/**
 * What each checkpoint of a run's reference training thinks of each example: confidence, variability, correctness, the
 * halves. Rows come in pages: the log is never in memory. Its calls read files, and block for that long.
 *
 * @param run a run folder, also of a run that goes on, or a dynamics folder.
 */
public class DataMap(run: String) : AutoCloseable {
    private val handle = Handle("map", CoreMap.open(run))

    /** Distributions, the halves, and how far the two kinds of confidence agree. */
    public fun summary(): MapSummary = handle.use { it.summary() }

    /** A page of the examples, filtered and in order, and how many there are over all pages. */
    public fun page(query: MapQuery = MapQuery()): MapPage = handle.use { it.page(query) }

    /**
     * The rows of a page; the least confident first unless told otherwise.
     *
     * @param sortBy row, confidence (SFTMix's: minus the mean perplexity or NLL), mean_probability (cartography's),
     *   variability, correctness, forgetfulness, mean_perplexity, mean_nll or tokens (those that are trained).
     * @param half one half alone: confident, unconfident or neither.
     * @param filters all must hold; bounds are included.
     * @param offset rows before the page.
     * @param limit most rows of the page, 1 to 10 000.
     * @param withText whether rows have prompt and response, for which the data files are read.
     */
    public fun rows(
        sortBy: String = "confidence",
        descending: Boolean = false,
        half: String? = null,
        filters: List<MapFilter> = emptyList(),
        offset: ULong = 0u,
        limit: UInt = 100u,
        withText: Boolean = false,
    ): List<MapRow> = page(MapQuery(sortBy, descending, half, filters, offset, limit, withText)).rows

    /** Every row that a query leaves, from its offset on, page by page of its limit. Files are read aside from the collector. */
    public fun pages(query: MapQuery = MapQuery()): Flow<MapPage> = flow {
        var offset = query.offset
        while (true) {
            val page = page(query.copy(offset = offset))
            if (page.rows.isEmpty()) break
            emit(page)
            offset += page.rows.size.toULong()
        }
    }.flowOn(Dispatchers.IO)

    /** How many rows there are of which this holds. */
    public fun count(half: String? = null, filters: List<MapFilter> = emptyList()): ULong =
        page(MapQuery(half = half, filters = filters, limit = 1u)).total

    /** One example, by its index, under each checkpoint. */
    public fun history(index: UInt): List<MapPoint> = handle.use { it.history(index) }

    /** Lets it go. */
    override fun close(): Unit = handle.close()
}
