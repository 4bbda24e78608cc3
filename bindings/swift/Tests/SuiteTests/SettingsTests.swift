import Foundation
import SFTMix
import XCTest

/// Settings as JSON, and their defaults.
final class SettingsTests: SuiteCase {
    private func json(_ settings: TrainSettings) throws -> [String: JSONValue] {
        try JSONDecoder().decode([String: JSONValue].self, from: try JSONEncoder().encode(settings))
    }

    private func read(_ text: String) throws -> TrainSettings {
        try JSONDecoder().decode(TrainSettings.self, from: Data(text.utf8))
    }

    func testNamesAreThoseOfSettingsFiles() throws {
        XCTAssertEqual(
            try json(TrainSettings(data: "rows.jsonl", batchSize: 4, loraplusLrRatio: 16, targetModules: "all-linear")),
            ["data": "rows.jsonl", "batch_size": 4, "loraplus_lr_ratio": 16, "target_modules": "all-linear"])
        XCTAssertEqual(
            try json(TrainSettings(data: ["a", DataSource(path: "b", weight: 0.5)], targetModules: ["q_proj", "v_proj"])),
            ["data": ["a", ["path": "b", "weight": 0.5]], "target_modules": ["q_proj", "v_proj"]])
        XCTAssertEqual(try json(TrainSettings()), [:])
        XCTAssertEqual(try json(TrainSettings(chatTemplateKwargs: ["enable_thinking": false])),
            ["chat_template_kwargs": ["enable_thinking": false]])
    }

    func testAPathThatIsNoLiteral() throws {
        let (folder, path) = ("/rows", "/rows/a.jsonl")
        XCTAssertEqual(TrainSettings(data: "\(folder)/a.jsonl").data?.sources, [DataSource(path: path)])
        XCTAssertEqual(TrainSettings(data: TrainData(path)), TrainSettings(data: "/rows/a.jsonl"))
        XCTAssertEqual(TrainSettings(data: ["\(folder)/a.jsonl"]), TrainSettings(data: TrainData(path: path)))
        XCTAssertEqual(TrainData("\(folder)/a.jsonl"), TrainData(path))
        var settings = TrainSettings()
        settings.data = "\(path)"
        XCTAssertEqual(settings, TrainSettings(data: TrainData([DataSource(path: path)])))
    }

    func testTheyAreReadAsTheyWereWritten() throws {
        let all = TrainSettings(
            model: "m", data: ["a", DataSource(path: "b", weight: 2)], out: "o", adamBetas: [0.8, 0.9], useDora: true,
            targetModules: "q_proj, v_proj", layersToTransform: [0, 2], rankPattern: ["q_proj": 4],
            chatTemplateKwargs: ["n": 1, "x": [1.5, nil, true, "é"]])
        XCTAssertEqual(try JSONDecoder().decode(TrainSettings.self, from: try JSONEncoder().encode(all)), all)
        XCTAssertEqual(all.targetModules?.names, ["q_proj", "v_proj"])
        XCTAssertEqual(try read(#"{"lr": 1e-3, "target_modules": "q_proj"}"#), TrainSettings(lr: 1e-3, targetModules: ["q_proj"]))
    }

    func testASlipIsNamed() throws {
        XCTAssertThrowsError(try read(#"{"batchsize": 4}"#)) {
            XCTAssertTrue("\($0)".contains("batchsize"), "\($0)")
        }
        XCTAssertThrowsError(try read(#"{"batch_size": "four"}"#))
    }

    func testDefaultsAreTheLibrarys() async throws {
        let job = try TrainingJob(TrainSettings(model: demo, data: TrainData(path: demo + "/train.jsonl"), out: run))
        let (found, defaults) = (try json(try job.settings), try json(.defaults))
        XCTAssertGreaterThan(defaults.count, 30)
        // A run that is told nothing of its adapter leaves those settings to it: with `initAdapter` they are that one's.
        let adapters: Set = ["lora_r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_modules", "rank_pattern",
            "alpha_pattern"]
        for (name, value) in defaults where !adapters.contains(name) { XCTAssertEqual(found[name], value, name) }
        let told = try json(try TrainingJob(settings(folder + "/told") { $0.loraR = 16 }).settings)
        for name in adapters { XCTAssertEqual(told[name], defaults[name], name) }
        // And as run.json has them.
        try job.start()
        try await until(job) { _ in files.fileExists(atPath: self.run + "/run.json") }
        try await job.close()
    }

    func testEverySettingCrosses() throws {
        let job = try TrainingJob(settings(run) {
            $0.loraR = 3
            $0.targetModules = "q_proj,v_proj"
            $0.adamBetas = [0.8, 0.95]
            $0.rankPattern = ["q_proj": 2]
            $0.chatTemplateKwargs = ["enable_thinking": false]
            $0.useRslora = true
        })
        let all = try job.settings
        XCTAssertEqual(all.loraR, 3)
        XCTAssertEqual(all.targetModules, ["q_proj", "v_proj"])
        XCTAssertEqual(all.adamBetas, [0.8, 0.95])
        XCTAssertEqual(all.rankPattern, ["q_proj": 2])
        XCTAssertEqual(all.chatTemplateKwargs, ["enable_thinking": false])
        XCTAssertEqual(all.useRslora, true)
    }
}
