import Foundation
import SFTMix
import XCTest

/// Every kind of error that can be provoked, with its fields.
final class ErrorTests: SuiteCase {
    private func job(_ change: @escaping (inout TrainSettings) -> Void) async -> SFTMixError {
        let given = settings(folder + "/x", change)
        return await thrown { try await TrainingJob(given).run() }
    }

    private func write(_ name: String, _ text: String) throws -> String {
        let path = folder + "/" + name
        try Data(text.utf8).write(to: URL(fileURLWithPath: path))
        return path
    }

    func testSettings() async throws {
        guard case .invalidConfig(_, "lr", _) = await job({ $0.lr = -1 }) else { return XCTFail("lr") }
        guard case .invalidConfig(_, "recipe", let reason) = await job({ $0.recipe = "magic" }) else {
            return XCTFail("recipe")
        }
        XCTAssertTrue(reason.contains("sftmix"), reason)
        guard case .invalidConfig = await job({ $0.loraR = 0 }) else { return XCTFail("rank") }
        guard case .invalidConfig(_, "seconds", _) = await thrown({
            try await TrainingJob(settings(self.run)).runSlice(.nan)
        }) else { return XCTFail("seconds") }
    }

    func testData() async throws {
        let broken = try write("broken.jsonl", "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n")
        guard case .dataInvalid(_, broken, 2, _) = await job({ $0.data = TrainData(path: broken) }) else {
            return XCTFail("broken rows")
        }
        let empty = try write("empty.jsonl", "")
        guard case .nothingToTrain = await job({ $0.data = TrainData(path: empty) }) else { return XCTFail("no rows") }
    }

    func testFolders() async throws {
        let absent = folder + "/none"
        guard case .io(_, let path, _) = await thrown({ try Model(absent) }) else { return XCTFail("no model") }
        XCTAssertTrue(path.hasPrefix(folder))
        let (out, _) = try await Finished.shared.run()
        guard case .checkpoint(_, out, _) = await thrown({ try TrainingJob(settings(out)) }) else {
            return XCTFail("a run is there")
        }
        let error = await thrown { try TrainingJob.resume(absent) }
        guard case .checkpoint = error else { return XCTFail("no run") }
        XCTAssertTrue(error.detail.contains("no run here"), error.detail)
    }

    func testTheMachine() async throws {
        guard case .memoryLimit(_, 1000, let needed, _) = await job({ $0.memoryLimit = 1000 }) else {
            return XCTFail("no memory")
        }
        XCTAssertGreaterThan(needed, 1000)
        let given = settings(folder + "/y") { $0.memoryLimit = 1000 }
        guard case .memoryLimit = await thrown({ for try await _ in try TrainingJob(given) {} }) else {
            return XCTFail("a loop ends with what made the job fail")
        }
        guard case .device = await thrown({ try Generator(Model(demo), device: "cuda") }) else { return XCTFail("device") }
        guard case .invalidConfig(_, "threads", _) = await thrown({ try Generator(Model(demo), threads: 0) }) else {
            return XCTFail("threads")
        }
    }

    func testAdapters() async throws {
        let adapter = folder + "/adapter"
        try files.createDirectory(atPath: adapter, withIntermediateDirectories: true)
        _ = try write("adapter/adapter_config.json", "{}")
        guard case .adapter(_, let path, _) = await thrown({ try Generator(Model(demo), adapter: adapter) }) else {
            return XCTFail("adapter")
        }
        XCTAssertTrue(path.hasPrefix(adapter))
    }

    func testModels() async throws {
        let other = folder + "/model"
        try files.createDirectory(atPath: other, withIntermediateDirectories: true)
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            try files.copyItem(atPath: demo + "/" + name, toPath: other + "/" + name)
        }
        let config = try String(contentsOfFile: demo + "/config.json", encoding: .utf8)
        var all = try JSONDecoder().decode([String: JSONValue].self, from: Data(config.utf8))
        all["model_type"] = "mystery"
        _ = try write("model/config.json", String(decoding: try JSONEncoder().encode(all), as: UTF8.self))
        guard case .modelNotSupported = await thrown({ try Model(other) }) else { return XCTFail("not supported") }
        _ = try write("model/config.json", config)
        let weights = try Data(contentsOf: URL(fileURLWithPath: demo + "/model.safetensors"))
        try weights.prefix(1000).write(to: URL(fileURLWithPath: other + "/model.safetensors"))
        guard case .modelFormat = await thrown({ try Model(other) }) else { return XCTFail("damaged") }
        try weights.write(to: URL(fileURLWithPath: other + "/model.safetensors"))
        _ = try write("model/tokenizer.json", "{}")
        guard case .tokenizer = await thrown({ try Generator(Model(other)) }) else { return XCTFail("tokenizer") }
    }

    func testDynamics() async throws {
        try files.createDirectory(atPath: run + "/dynamics", withIntermediateDirectories: true)
        _ = try write("run/dynamics/header.json", "{}")
        guard case .dynamics = await thrown({ try DataMap(self.run + "/dynamics") }) else { return XCTFail("dynamics") }
    }

    func testARunOfPlainTrainingHasNoDynamics() async throws {
        let out = run
        try await TrainingJob(settings(out) { $0.recipe = "ntp"; $0.maxSteps = 2 }).run()
        guard case .noDynamics(_, let path, nil) = await thrown({ try DataMap(out) }) else { return XCTFail("no dynamics") }
        XCTAssertTrue(path.hasPrefix(out))
    }
}
