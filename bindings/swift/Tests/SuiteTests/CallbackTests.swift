import Foundation
import SFTMix
import XCTest

/// Rows that are handed over, listeners, and what they throw.
final class CallbackTests: SuiteCase {
    private struct Row: Codable {
        let prompt: String
        let completion: String
    }

    private func lines() throws -> [String] {
        try String(contentsOfFile: demo + "/train.jsonl", encoding: .utf8).split(separator: "\n").map(String.init)
    }

    private func bare(_ out: String) -> TrainSettings {
        settings(out) { $0.data = nil }
    }

    func testRowsOfTextsGiveTheFilesBytes() async throws {
        let lines = try lines()
        let report = try await TrainingJob(bare(run), rows: lines).run()
        XCTAssertEqual(report.examples, UInt64(lines.count))
        XCTAssertEqual(try adapter(run), byProgram)
    }

    func testRowsOfAnySequenceOfValues() async throws {
        let rows = try lines().map { try JSONDecoder().decode(Row.self, from: Data($0.utf8)) }
        var next = 0
        let pulled = AnyIterator<Row> {
            defer { next += 1 }
            return next < rows.count ? rows[next] : nil
        }
        let report = try await TrainingJob(bare(run), rows: IteratorSequence(pulled)).run()
        XCTAssertEqual(report.examples, UInt64(rows.count))
        let maps = (2..<40).lazy.map { ["instruction": "Count to \($0)", "output": String(repeating: "1 ", count: $0)] }
        var wide = bare(folder + "/maps")
        wide.maxLength = 256
        let counted = try await TrainingJob(wide, rows: maps).run()
        XCTAssertEqual(counted.examples, 38)
    }

    func testASourceOfRowsThatThrowsIsTheCause() async throws {
        let given = Box(0)
        let job = try TrainingJob(
            bare(run),
            nextRow: {
                given.change { $0 += 1 }
                if given.value > 1 { throw Boom(text: "the database is gone") }
                return #"{"text": "a b c"}"#
            })
        guard case .callback(_, let reason, let cause) = await thrown({ try await job.run() }) else {
            return XCTFail("another error")
        }
        XCTAssertTrue(reason.contains("the database is gone"), reason)
        XCTAssertEqual(cause as? Boom, Boom(text: "the database is gone"))
        XCTAssertFalse(files.fileExists(atPath: run))
    }

    func testARowThatIsNoObjectIsNamed() async throws {
        let error = await thrown { try await TrainingJob(self.bare(self.run), rows: [#"{"text": "a"}"#, "[1]"]).run() }
        guard case .dataInvalid(_, _, 2, _) = error else { return XCTFail("\(error)") }
    }

    func testAListenerThatThrowsEndsTheJobBehindACheckpoint() async throws {
        let job = try TrainingJob(settings(run)) { event in
            if case .step = event { throw Boom(text: "screen") }
            return true
        }
        guard case .callback(_, _, let cause) = await thrown({ try await job.run() }) else {
            return XCTFail("another error")
        }
        XCTAssertEqual(cause as? Boom, Boom(text: "screen"))
        XCTAssertEqual(try job.status().state, .failed)
        try await job.close()
        try await TrainingJob.resume(run).run()
        XCTAssertEqual(try adapter(run), byProgram)
    }

    func testAListenerThatThrowsIsTheCauseForWhoWaitsAndWhoIterates() async throws {
        let fails: @Sendable (Event) throws -> Bool = { event in
            if case .step = event { throw Boom(text: "screen") }
            return true
        }
        let waited = try TrainingJob(settings(folder + "/waited"), onEvent: fails)
        try waited.start()
        guard case .callback(_, _, is Boom) = await thrown({ try await waited.wait() }) else { return XCTFail("waited") }
        let iterated = try TrainingJob(settings(folder + "/iterated"), onEvent: fails)
        let error = await thrown { for try await _ in iterated {} }
        guard case .callback(_, _, is Boom) = error else { return XCTFail("iterated") }
    }

    func testAListenerMayCallBackInAndBeSlow() async throws {
        let holder = Box<TrainingJob?>(nil)
        let seen = Box<[String]>([])
        let job = try TrainingJob(settings(run)) { event in
            _ = try holder.value?.status()
            try holder.value?.update(Limits(dutyCycle: 1))
            seen.change { $0.append(event.kind) }
            Thread.sleep(forTimeInterval: 0.05)
            return true
        }
        holder.change { $0 = job }
        try await job.run()
        holder.change { $0 = nil }
        XCTAssertEqual(seen.value.first, "prepared")
        XCTAssertTrue(seen.value.contains("step"))
    }

    func testAListenerThatWaitsForItsOwnJobIsToldSo() async throws {
        let holder = Box<TrainingJob?>(nil)
        let job = try TrainingJob(settings(run)) { event in
            if case .step = event { try holder.value?.start() }
            return true
        }
        holder.change { $0 = job }
        guard case .callback(_, _, let cause as SFTMixError) = await thrown({ try await job.run() }),
            case .misuse = cause
        else { return XCTFail("no misuse") }
        holder.change { $0 = nil }
    }

    func testAListenerStopsTheJob() async throws {
        let job = try TrainingJob(settings(run)) { $0.kind != "step" }
        guard case .stopped = await thrown({ try await job.run() }) else { return XCTFail("it was not stopped") }
    }

    func testWhatIsLoggedGoesWhereItIsTold() async throws {
        let seen = Box<[String]>([])
        try logTo(level: "info") { level, message in seen.change { $0.append(level + ": " + message) } }
        try await TrainingJob(settings(run) { $0.maxLength = 100_000 }).run()
        try logTo(nil)
        XCTAssertTrue(seen.value.contains { $0.hasPrefix("warn: ") && $0.contains("100000") }, "\(seen.value)")
        let before = seen.value.count
        try await TrainingJob(settings(folder + "/again") { $0.maxLength = 100_000 }).run()
        XCTAssertEqual(seen.value.count, before)
        guard case .invalidConfig(_, "level", _) = await thrown({ try logTo(level: "loud", nil) }) else {
            return XCTFail("another error")
        }
    }
}
