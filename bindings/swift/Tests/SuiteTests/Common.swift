// What the tests share: the demo's model and rows, and the command line to compare with.
import Foundation
import SFTMix
import XCTest

let told = ProcessInfo.processInfo.environment
let demo = told["SFTMIX_DEMO"]!
let scratch = told["TMPDIR"]!
let files = FileManager.default

func settings(_ out: String, _ change: (inout TrainSettings) -> Void = { _ in }) -> TrainSettings {
    var all = TrainSettings(
        model: demo, data: TrainData(path: demo + "/train.jsonl"), out: out, epochs: 1, maxSteps: 8, batchSize: 4,
        maxLength: 64, threads: 2, saveEvery: 3)
    change(&all)
    return all
}

func adapter(_ run: String) throws -> Data {
    try Data(contentsOf: URL(fileURLWithPath: run + "/adapter/adapter_model.safetensors"))
}

@discardableResult
func process(_ program: String, _ arguments: [String], environment: [String: String] = [:], folder: String? = nil) throws
    -> (code: Int32, out: String, err: String)
{
    let (process, out, err) = (Process(), Pipe(), Pipe())
    process.executableURL = URL(fileURLWithPath: program)
    process.arguments = arguments
    process.environment = told.merging(environment) { _, new in new }
    if let folder { process.currentDirectoryURL = URL(fileURLWithPath: folder) }
    (process.standardOutput, process.standardError) = (out, err)
    try process.run()
    // Programs here say little: no pipe fills while the other is read.
    let texts = [out, err].map { String(decoding: $0.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self) }
    process.waitUntilExit()
    return (process.terminationStatus, texts[0], texts[1])
}

/// The adapter that the command line gives for the settings.
let byProgram: Data = {
    let out = scratch + "/by-program-\(UUID())"
    let flags = [
        "--model=\(demo)", "--data=\(demo)/train.jsonl", "--out=\(out)", "--epochs=1", "--max-steps=8", "--batch-size=4",
        "--max-length=64", "--threads=2", "--save-every=3",
    ]
    let ended = try! process(told["SFTMIX_PROGRAM"]!, ["train"] + flags)
    precondition(ended.code == 0, ended.err)
    return try! adapter(out)
}()

/// A finished run with held-out rows.
actor Finished {
    static let shared = Finished()
    private var made: (out: String, report: Report)?

    func run() async throws -> (out: String, report: Report) {
        if let made { return made }
        let out = scratch + "/finished-\(UUID())"
        let job = try TrainingJob(settings(out) { $0.valid = demo + "/valid.jsonl" })
        let report = try await job.run()
        made = (out, report)
        return (out, report)
    }
}

/// A test with a folder of its own.
class SuiteCase: XCTestCase {
    var folder = ""

    override func setUpWithError() throws {
        folder = scratch + "/suite-\(UUID())"
        try files.createDirectory(atPath: folder, withIntermediateDirectories: true)
    }

    override func tearDownWithError() throws {
        try files.removeItem(atPath: folder)
    }

    var run: String { folder + "/run" }
}

/// The error of the library that this throws.
func thrown<Value>(_ work: () async throws -> Value, file: StaticString = #filePath, line: UInt = #line) async -> SFTMixError {
    do {
        _ = try await work()
        XCTFail("nothing was thrown", file: file, line: line)
    } catch let error as SFTMixError {
        XCTAssertFalse(error.detail.isEmpty, file: file, line: line)
        XCTAssertEqual(String(describing: error), error.detail, file: file, line: line)
        XCTAssertEqual(error.localizedDescription, error.detail, file: file, line: line)
        return error
    } catch {
        XCTFail("not the library's: \(error)", file: file, line: line)
    }
    return .other(detail: "none")
}

func until(_ job: TrainingJob, _ reached: (Status) -> Bool) async throws {
    let end = Date(timeIntervalSinceNow: 60)
    while !reached(try job.status()) {
        if Date() > end { throw SFTMixError.other(detail: "waited in vain: \(try job.status())") }
        try await Task.sleep(nanoseconds: 2_000_000)
    }
}

/// A value that closures on other threads change.
final class Box<Value>: @unchecked Sendable {
    private let lock = NSLock()
    private var held: Value
    init(_ value: Value) { held = value }
    var value: Value { lock.withLock { held } }
    func change(_ work: (inout Value) -> Void) { lock.withLock { work(&held) } }
}

struct Boom: Error, Equatable { let text: String }
