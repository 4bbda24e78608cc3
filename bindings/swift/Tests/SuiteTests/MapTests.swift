import Foundation
import SFTMix
import XCTest

/// The data map, plans, evaluation, inspection, export and merge.
final class MapTests: SuiteCase {
    func testTheDataMap() async throws {
        let (out, report) = try await Finished.shared.run()
        let map = try DataMap(out)
        let summary = try map.summary()
        XCTAssertEqual(summary.examples, report.examples)
        let page = try map.rows(MapQuery(limit: 10, withText: true))
        XCTAssertEqual(page.count, 10)
        XCTAssertEqual(page.map(\.confidence), page.map(\.confidence).sorted())
        XCTAssertTrue(page.allSatisfy { $0.response?.isEmpty == false })
        let rest = try map.rows(MapQuery(offset: 10, limit: 10))
        XCTAssertTrue(Set(page.map(\.index)).isDisjoint(with: rest.map(\.index)))
        XCTAssertNil(rest.first?.response)
        XCTAssertEqual(try map.count(), report.examples)
        let halves = try ["confident", "unconfident", "neither"].map { try map.count(half: $0) }
        XCTAssertEqual(halves.reduce(0, +), report.examples)
        XCTAssertEqual(halves[0], halves[1])
        let query = MapQuery(
            sortBy: "tokens", descending: true, filters: [MapFilter(key: "tokens", max: 12)], limit: 5)
        let short = try map.rows(query)
        XCTAssertTrue(!short.isEmpty && short.allSatisfy { $0.tokens <= 12 })
        XCTAssertEqual(short.map(\.tokens), short.map(\.tokens).sorted(by: >))
        XCTAssertEqual(try map.count(filters: query.filters), try map.page(query).total)
        XCTAssertFalse(try map.history(page[0].index).isEmpty)
        guard case .invalidConfig(_, "sort_by", _) = await thrown({ try map.rows(MapQuery(sortBy: "beauty")) }) else {
            return XCTFail("another error")
        }
        _ = await thrown { try DataMap(out + "/adapter") }
    }

    func testPagesGiveEveryRowOnce() async throws {
        let (out, report) = try await Finished.shared.run()
        let map = try DataMap(out)
        var (indices, pages) = ([UInt32](), 0)
        for page in map.pages(MapQuery(limit: 100)) {
            indices += try page.get().rows.map(\.index)
            pages += 1
        }
        XCTAssertEqual(indices.count, Int(report.examples))
        XCTAssertEqual(Set(indices).count, indices.count)
        XCTAssertEqual(pages, (indices.count + 99) / 100)
        var failing = map.pages(MapQuery(sortBy: "beauty")).makeIterator()
        XCTAssertThrowsError(try XCTUnwrap(failing.next()).get())
        XCTAssertNil(failing.next())
    }

    func testPlanEvaluateInspect() async throws {
        let (_, report) = try await Finished.shared.run()
        let given = TrainSettings(model: demo, data: TrainData(path: demo + "/train.jsonl"), maxLength: 64, cacheDir: folder)
        let plan = try await plan(given)
        XCTAssertTrue(plan.fits && plan.predictedPeakBytes > 0)
        XCTAssertEqual(plan.examples, report.examples)
        var tight = given
        tight.memoryLimit = 1000
        let refused = try await SFTMix.plan(tight)
        XCTAssertTrue(!refused.fits && refused.predictedPeakBytes > 1000)
        let model = try Model(demo)
        var valid = given
        valid.data = TrainData(path: demo + "/valid.jsonl")
        let base = try await evaluate(valid)
        valid.model = nil
        let tuned = try await evaluate(valid, model: model, adapter: report.adapter)
        XCTAssertEqual(base.nll, try XCTUnwrap(report.baseEvalLoss), accuracy: 1e-9)
        XCTAssertEqual(tuned.nll, try XCTUnwrap(report.evalLoss), accuracy: 1e-6)
        let found = try await inspect(given, rows: 2)
        XCTAssertEqual(found.map(\.shown.count), [2])
        let tokens = found[0].shown[0].windows[0]
        XCTAssertTrue(tokens.contains { $0.trained } && !tokens.map(\.text).joined().isEmpty)
        let one = try await inspect(given, model: model, row: 7)
        XCTAssertEqual(one[0].shown.map(\.row), [7])
    }

    func testExportAndMerge() async throws {
        let (out, report) = try await Finished.shared.run()
        let found = try await export(out, formats: ["peft", "gguf", "mlx"], out: folder + "/exports")
        XCTAssertEqual(found.map(\.format), ["peft", "gguf", "mlx"])
        XCTAssertTrue(found.allSatisfy { files.fileExists(atPath: $0.path) })
        let named = try await export(
            out: folder + "/named", model: demo, adapter: report.adapter, data: demo + "/valid.jsonl")
        XCTAssertEqual(named.map(\.format), ["peft"])
        let merged = try await merge(out, out: folder + "/merged")
        XCTAssertGreaterThan(merged.linears, 0)
        XCTAssertTrue(files.fileExists(atPath: folder + "/merged/config.json"))
        let said = try await Generator(Model(folder + "/merged"), threads: 1)
            .generate("a", settings: GenerateSettings(maxNewTokens: 2))
        XCTAssertLessThanOrEqual(said.newTokens, 2)
        let error = await thrown { try await export(out, formats: ["onnx"], out: self.folder + "/none") }
        guard case .invalidConfig(_, "formats", _) = error else { return XCTFail("\(error)") }
    }
}
