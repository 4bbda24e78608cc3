import Foundation
import SFTMix
import XCTest

/// Text with adapters, streams, and what ends them.
final class TextTests: SuiteCase {
    private let twelve = GenerateSettings(maxNewTokens: 12)

    func testTextWithAdapters() async throws {
        let report = try await Finished.shared.run().report
        let generator = try Generator(Model(demo), threads: 2)
        let base = try await generator.generate("Once upon", settings: twelve)
        XCTAssertLessThanOrEqual(base.newTokens, 12)
        let pieces = Box("")
        let again = try await generator.generate("Once upon", settings: twelve) { piece in
            pieces.change { $0 += piece }
            return true
        }
        XCTAssertEqual([pieces.value, again.text], [base.text, base.text])
        try generator.addAdapter("mine", path: report.adapter)
        XCTAssertEqual(try generator.adapters, ["mine"])
        XCTAssertNil(try generator.adapter)
        try generator.useAdapter("mine")
        XCTAssertEqual(try generator.adapter, "mine")
        _ = try await generator.generate("Once upon", settings: GenerateSettings(maxNewTokens: 4))
        let opened = try Generator(Model(demo), adapter: report.adapter, threads: 2)
        XCTAssertEqual(try opened.adapter, "default")
        let tuned = try await opened.generate("Question: What", settings: twelve)
        let named = try await generator.generate("Question: What", settings: twelve)
        XCTAssertEqual(tuned.text, named.text)
        guard case .invalidConfig = await thrown({ try generator.useAdapter("other") }) else { return XCTFail("no error") }
        XCTAssertGreaterThanOrEqual(try generator.context, 64)
        try generator.forget()
    }

    func testAListenerEndsTheText() async throws {
        let generator = try Generator(Model(demo), threads: 2)
        let stopped = try await generator.generate("Once upon", settings: GenerateSettings(maxNewTokens: 50)) { _ in false }
        XCTAssertEqual(stopped.newTokens, 1)
        let error = await thrown {
            try await generator.generate("Once upon") { _ in throw Boom(text: "closed") }
        }
        guard case .callback(_, _, let cause) = error else { return XCTFail("\(error)") }
        XCTAssertEqual(cause as? Boom, Boom(text: "closed"))
    }

    func testAChatNeedsATemplate() async throws {
        let generator = try Generator(Model(demo), threads: 1)
        let error = await thrown { try await generator.chat([Message(role: "user", content: "hi")]) }
        guard case .chatTemplate = error else { return XCTFail("\(error)") }
    }

    func testAChatGoesByTheModelsTemplate() async throws {
        let copy = folder + "/model"
        try files.copyItem(atPath: demo, toPath: copy)
        let template = "{% for m in messages %}{{ m.content }}{{ m.mood }}{% endfor %}"
        try Data(template.utf8).write(to: URL(fileURLWithPath: copy + "/chat_template.jinja"))
        let generator = try Generator(Model(url: URL(fileURLWithPath: copy)), threads: 1)
        let said = try await generator.chat(
            [Message(role: "user", content: "Once", more: ["mood": " upon"])], tools: [["name": "f"]], settings: twelve)
        let same = try await generator.chat([Message(role: "user", content: "Once upon")], settings: twelve)
        let other = try await generator.chat([Message(role: "user", content: "Once")], settings: twelve)
        XCTAssertEqual([said.text, "\(said.promptTokens)"], [same.text, "\(same.promptTokens)"])
        XCTAssertNotEqual(said.promptTokens, other.promptTokens)
    }

    func testAStreamGivesTheText() async throws {
        let generator = try Generator(Model(demo), threads: 2)
        let base = try await generator.generate("Once upon", settings: twelve)
        var text = ""
        for try await piece in generator.stream("Once upon", settings: twelve) { text += piece }
        XCTAssertEqual(text, base.text)
        let bad = GenerateSettings(maxNewTokens: 0)
        let error = await thrown { for try await _ in generator.stream("Once upon", settings: bad) {} }
        guard case .invalidConfig(_, let field, _) = error else { return XCTFail("\(error)") }
        XCTAssertEqual(field, "max_new_tokens")
    }

    func testToLeaveAStreamEndsItsText() async throws {
        let generator = try Generator(Model(demo), threads: 2)
        let long = GenerateSettings(maxNewTokens: 400, temperature: 5)
        for try await piece in generator.stream("Once upon", settings: long) {
            XCTAssertFalse(piece.isEmpty)
            break
        }
        // The next text takes its turn behind the one before: it would come late.
        let begun = Date()
        _ = try await generator.generate("Once upon", settings: GenerateSettings(maxNewTokens: 1))
        let short = Date().timeIntervalSince(begun)
        let whole = Date()
        _ = try await generator.generate("Once upon", settings: long)
        XCTAssertLessThan(short, Date().timeIntervalSince(whole) / 2)
    }

    func testCancellingTheTaskOfAStreamEndsItsText() async throws {
        let generator = try Generator(Model(demo), threads: 2)
        let seen = Box(0)
        let task = Task {
            let long = GenerateSettings(maxNewTokens: 400, temperature: 5)
            for try await _ in generator.stream("Once upon", settings: long) { seen.change { $0 += 1 } }
        }
        while seen.value < 3 { try await Task.sleep(nanoseconds: 1_000_000) }
        task.cancel()
        try await task.value
        let after = try await generator.generate("Once upon", settings: GenerateSettings(maxNewTokens: 1))
        XCTAssertEqual(after.newTokens, 1)
        XCTAssertLessThan(seen.value, 300)
    }

    func testCancellingATaskEndsItsOwnTextAlone() async throws {
        let generator = try Generator(Model(demo), threads: 2)
        let seen = Box(0)
        let long = GenerateSettings(maxNewTokens: 100, temperature: 5)
        let first = Task {
            try await generator.generate("Once upon", settings: long) { _ in
                seen.change { $0 += 1 }
                return true
            }
        }
        while seen.value < 1 { try await Task.sleep(nanoseconds: 1_000_000) }
        let second = Task { try await generator.generate("Once upon", settings: long) }
        try await Task.sleep(nanoseconds: 5_000_000)
        second.cancel()
        do {
            _ = try await second.value
            XCTFail("it was not cancelled")
        } catch is CancellationError {}
        let whole = try await first.value
        XCTAssertTrue(whole.stopped || whole.newTokens == 100, "\(whole)")
    }

    func testCancelReturnsWhatThereIs() async throws {
        let generator = try Generator(Model(demo), threads: 2)
        let said = try await generator.generate("Once upon", settings: GenerateSettings(maxNewTokens: 400, temperature: 5)) {
            _ in
            generator.cancel()
            return true
        }
        XCTAssertEqual(said.newTokens, 1)
    }

    func testASlowReaderHoldsTheTextUp() async throws {
        let generator = try Generator(Model(demo), threads: 2)
        let long = GenerateSettings(maxNewTokens: 200, temperature: 5, seed: 3)
        let whole = try await generator.generate("Once upon", settings: long)
        var text = ""
        for try await piece in generator.stream("Once upon", settings: long) {
            if text.isEmpty { try await Task.sleep(nanoseconds: 300_000_000) }
            text += piece
        }
        XCTAssertEqual(text, whole.text)
    }
}
