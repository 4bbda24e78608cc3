import SFTMixFFI

/// What each checkpoint of a run's reference training thinks of each example: confidence, variability, correctness, the halves.
/// Rows come in pages: the log is never in memory.
///
///     let least = try DataMap("run").rows(MapQuery(limit: 10, withText: true))
///     for row in least { print(row.row, row.confidence, row.response ?? "") }
public final class DataMap: Sendable {
    private let core: SFTMixFFI.DataMap

    /// Opens the dynamics of a run folder, also of one that goes on, or a dynamics folder.
    public init(_ run: String) throws {
        core = try mapped { try SFTMixFFI.DataMap.open(run: run) }
    }

    /// Distributions, the halves, and how far the two kinds of confidence agree.
    public func summary() throws -> Summary {
        try mapped { try core.summary() }
    }

    /// A page of rows, the least confident first unless told otherwise, with the number of rows that the filters leave.
    public func page(_ query: MapQuery = MapQuery()) throws -> MapPage {
        try mapped { try core.page(query: query) }
    }

    /// The rows of a page.
    public func rows(_ query: MapQuery = MapQuery()) throws -> [MapRow] {
        try page(query).rows
    }

    /// Every row that the filters leave, from the query's offset on, in pages of the query's limit; one page is held at a time.
    public func pages(_ query: MapQuery = MapQuery()) -> Pages {
        Pages(map: self, query: query)
    }

    /// How many rows there are of which this holds.
    public func count(half: String? = nil, filters: [MapFilter] = []) throws -> UInt64 {
        try page(MapQuery(half: half, filters: filters, limit: 1)).total
    }

    /// One example, by its index, under each checkpoint.
    public func history(_ index: UInt32) throws -> [MapPoint] {
        try mapped { try core.history(index: index) }
    }

    /// Pages one behind the other.
    public struct Pages: Sequence, IteratorProtocol {
        let map: DataMap
        var query: MapQuery

        /// The next page, or what kept it from being read; `nil` behind the last.
        public mutating func next() -> Result<MapPage, any Error>? {
            let found = Result { try map.page(query) }
            guard case .success(let page) = found else {
                // There is nothing behind an error.
                defer { query.offset = .max }
                return query.offset == .max ? nil : found
            }
            if page.rows.isEmpty { return nil }
            query.offset += UInt64(page.rows.count)
            return found
        }
    }
}
