import Foundation
import SFTMix
import XCTest

/// Jobs: the same bytes as the command line's, events, pause, slices, limits.
final class JobTests: SuiteCase {
    func testTheAdapterIsTheCommandLines() async throws {
        let report = try await TrainingJob(settings(run)).run()
        XCTAssertEqual(try adapter(run), byProgram)
        XCTAssertEqual(report.adapter, run + "/adapter")
        XCTAssertGreaterThan(report.steps, 8)
    }

    func testEventsHaveTheWordsOfMetrics() async throws {
        let job = try TrainingJob(settings(run) { $0.valid = demo + "/valid.jsonl" })
        var (kinds, steps, evaluated) = (Set<String>(), [StepEvent](), [EvaluatedEvent]())
        for try await event in job {
            kinds.insert(event.kind)
            if case .step(let step) = event { steps.append(step) }
            if case .evaluated(let found) = event { evaluated.append(found) }
        }
        let report = try await job.wait()
        XCTAssertTrue(kinds.isSuperset(of: ["prepared", "step", "evaluated", "split", "checkpoint", "sweep"]), "\(kinds)")
        XCTAssertEqual(steps.map(\.globalStep), Array(1...report.steps))
        let lines = try String(contentsOfFile: run + "/metrics.jsonl", encoding: .utf8).split(separator: "\n").map {
            try JSONDecoder().decode([String: JSONValue].self, from: Data($0.utf8))
        }
        XCTAssertEqual(lines.count, steps.count + evaluated.count)
        let written = lines.filter { $0["event"] == "step" }
        for (line, step) in zip(written, steps) {
            XCTAssertEqual(number(line["loss"]), step.loss)
            XCTAssertEqual(number(line["grad_norm"]), step.gradNorm)
            XCTAssertEqual(line["stage"], .string(step.stage))
        }
        XCTAssertEqual(report.evalLoss, evaluated.last?.evalLoss)
    }

    private func number(_ value: JSONValue?) -> Double? {
        switch value {
        case .number(let found): found
        case .integer(let found): Double(found)
        default: nil
        }
    }

    func testAnEventComesUntilTheNextIsAskedFor() async throws {
        let job = try TrainingJob(settings(run))
        try job.start()
        var steps: [UInt64] = []
        for try await event in job.events() {
            guard case .step(let step) = event else { continue }
            if step.globalStep == 5 { break }  // Not dealt with: the next reader gets it.
            steps.append(step.globalStep)
        }
        let report = try await job.wait()
        for try await event in job.events() {
            if case .step(let step) = event { steps.append(step.globalStep) }
        }
        XCTAssertEqual(steps, Array(1...report.steps))
    }

    func testEventsArePulledAndAcknowledgedByHand() async throws {
        let job = try TrainingJob(settings(run))
        try job.start()
        let first = try await job.nextEvent()!
        let again = try await job.nextEvent(timeout: 1)!
        XCTAssertEqual(first.number, again.number)
        XCTAssertEqual(first.event, again.event)
        try job.acknowledge(first.number)
        let second = try await job.nextEvent()!
        XCTAssertGreaterThan(second.number, first.number)
        guard case .misuse = await thrown({ try job.acknowledge(1_000_000) }) else { return XCTFail("no misuse") }
        try await job.close()
    }

    func testEventsEndWhenNoneComes() async throws {
        let job = try TrainingJob(settings(run))
        try job.update(Limits(dutyCycle: 0.01))
        try job.start()
        try await until(job) { $0.state == .running && $0.globalStep >= 1 }
        let begun = Date()
        for try await _ in job.events(timeout: 0.3) {}
        XCTAssertLessThan(Date().timeIntervalSince(begun), 20)
        try job.cancel()
        _ = await thrown { try await job.wait() }
    }

    func testPauseWaitsBehindACheckpoint() async throws {
        let job = try TrainingJob(settings(run))
        try job.start()
        try await until(job) { $0.globalStep >= 2 }
        try job.pause()
        try await until(job) { $0.state == .paused }
        let at = try job.status()
        XCTAssertTrue(files.fileExists(atPath: try XCTUnwrap(at.checkpoint)))
        try await Task.sleep(nanoseconds: 100_000_000)
        XCTAssertEqual(try job.status().globalStep, at.globalStep)
        try job.unpause()
        try await job.wait()
        XCTAssertEqual(try job.status().state, .done)
        XCTAssertEqual(try adapter(run), byProgram)
    }

    func testSlicesGoOnToTheSameBytes() async throws {
        let job = try TrainingJob(settings(run))
        try job.update(Limits(dutyCycle: 0.4))
        var slices = 1
        while true {
            let slice = try await job.runSlice(0.3)
            if slice.report != nil { break }
            slices += 1
            if slices > 300 { return XCTFail("it does not get on: \(try job.status())") }
        }
        XCTAssertGreaterThan(slices, 1)
        XCTAssertEqual(try adapter(run), byProgram)
    }

    func testLimits() async throws {
        let job = try TrainingJob(settings(run))
        guard case .invalidConfig(_, "duty_cycle", _) = await thrown({ try job.update(Limits(dutyCycle: 2)) }) else {
            return XCTFail("another error")
        }
        var (needs, accepted): (UInt64?, [UInt64?]) = (nil, [])
        for try await event in job {
            if case .step(let step) = event, step.globalStep == 2 {
                guard case .memoryLimit(_, 1000, let needed, let savings) = await thrown({
                    try job.update(Limits(memoryLimit: 1000))
                }) else { return XCTFail("another error") }
                XCTAssertGreaterThan(needed, 1000)
                XCTAssertTrue(savings.allSatisfy { $0.bytes > 0 })
                try job.update(Limits(dutyCycle: 0.8, memoryLimit: needed))
                needs = needed
            }
            if case .limits(let limits, let refused) = event {
                XCTAssertNil(refused)
                accepted.append(limits.memoryLimit)
            }
        }
        try await job.wait()
        XCTAssertEqual(accepted, [needs])
        XCTAssertEqual(try adapter(run), byProgram)
        let other = try TrainingJob(settings(folder + "/threads"))
        try other.update(Limits(threads: 1))
        try await other.run()
        XCTAssertEqual(try other.status().limits.threads, 1)
    }

    func testTwoJobsAtOnceOnOneModel() async throws {
        let model = try Model(demo)
        let outs = [folder + "/a", folder + "/b"]
        try await withThrowingTaskGroup(of: Void.self) { group in
            for out in outs {
                group.addTask {
                    let job = try TrainingJob(settings(out) { $0.model = nil }, model: model)
                    try await job.run()
                    try await job.close()
                }
            }
            try await group.waitForAll()
        }
        XCTAssertEqual(try outs.map(adapter), [byProgram, byProgram])
    }

    func testJobsShareWorkerThreads() async throws {
        let model = try Model(demo).sharingWorkers(2)
        let outs = [folder + "/a", folder + "/b"]
        try await withThrowingTaskGroup(of: Void.self) { group in
            for out in outs {
                group.addTask {
                    let job = try TrainingJob(settings(out) { ($0.model, $0.threads) = (nil, nil) }, model: model)
                    try await job.run()
                    try await job.close()
                }
            }
            try await group.waitForAll()
        }
        XCTAssertEqual(try outs.map(adapter), [byProgram, byProgram])
        let three = await thrown {
            try await TrainingJob(settings(self.folder + "/c") { ($0.model, $0.threads) = (nil, 3) }, model: model).run()
        }
        XCTAssertTrue(three.detail.contains("expected 2 or none, found 3"), three.detail)
        XCTAssertThrowsError(try model.sharingWorkers(0))
    }

    func testMisuseIsNamed() async throws {
        let job = try TrainingJob(settings(run))
        guard case .misuse = await thrown({ try await job.wait() }) else { return XCTFail("it was not begun") }
        try job.start()
        let again = await thrown { try job.start() }
        XCTAssertTrue(again.detail.contains("running"), again.detail)
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<8 { group.addTask { _ = try? job.status() } }
        }
        try await job.close()
        try await job.close()
        for use in [{ _ = try job.status() }, { try job.pause() }, { try job.start() }, { _ = try job.out }] {
            let error = await thrown { try use() }
            guard case .misuse = error else { return XCTFail("\(error)") }
            XCTAssertTrue(error.detail.contains("shut down"), error.detail)
        }
        guard case .misuse = await thrown({ for try await _ in job.events() {} }) else { return XCTFail("no misuse") }
    }

    func testSettingsAreThoseOfTheRun() async throws {
        let job = try TrainingJob(settings(run) { $0.lr = 0.001; $0.maxSteps = 2 })
        let all = try job.settings
        XCTAssertEqual([all.lr, all.mu], [0.001, TrainSettings.defaults.mu])
        XCTAssertEqual(all.data?.sources.map(\.path), [demo + "/train.jsonl"])
        XCTAssertEqual(try job.out, run)
        try await job.run()
        XCTAssertEqual(try TrainingJob.resume(run).settings.lr, 0.001)
    }
}
