import Foundation
import SFTMix
import XCTest

/// Stopping, by hand and by cancelling a task, and going on to the same bytes.
final class StopTests: SuiteCase {
    private func checkpoints() throws -> [String] {
        try files.contentsOfDirectory(atPath: run).filter { $0.hasPrefix("checkpoint-") }
    }

    private func goesOn() async throws {
        XCTAssertFalse(try checkpoints().isEmpty)
        XCTAssertFalse(files.fileExists(atPath: run + "/adapter"))
        try await TrainingJob.resume(run).run()
        XCTAssertEqual(try adapter(run), byProgram)
    }

    func testCancelTakesEffectWithinAMicroBatch() async throws {
        let job = try TrainingJob(settings(run))
        for try await event in job {
            guard case .step(let step) = event, step.globalStep == 4 else { continue }
            try job.cancel()
            let begun = Date()
            guard case .stopped(_, let checkpoint?) = await thrown({ try await job.wait() }) else {
                return XCTFail("no checkpoint")
            }
            XCTAssertLessThan(Date().timeIntervalSince(begun), 5)
            XCTAssertTrue(files.fileExists(atPath: checkpoint))
            break
        }
        try await job.close()
        try await goesOn()
    }

    func testCancelWithoutACheckpoint() async throws {
        let job = try TrainingJob(settings(run))
        for try await event in job {
            if case .step(let step) = event, step.globalStep == 5 { try job.cancel(save: false) }
        }
        guard case .stopped = await thrown({ try await job.wait() }) else { return XCTFail("it was not stopped") }
        XCTAssertFalse(files.fileExists(atPath: run + "/checkpoint-5"))
        // The same object goes on.
        try await job.run()
        XCTAssertEqual(try adapter(run), byProgram)
    }

    func testCancellingTheTaskOfARunWritesACheckpoint() async throws {
        let job = try TrainingJob(settings(run))
        let task = Task { try await job.run() }
        try await until(job) { $0.globalStep >= 4 }
        task.cancel()
        guard case .stopped(_, let checkpoint?) = await thrown({ try await task.value }) else {
            return XCTFail("no checkpoint")
        }
        XCTAssertTrue(files.fileExists(atPath: checkpoint))
        try await job.close()
        try await goesOn()
    }

    func testATaskThatWasCancelledBeforeBeginsNothing() async throws {
        let job = try TrainingJob(settings(run))
        let task = Task {
            while !Task.isCancelled { await Task.yield() }
            try await job.run()
        }
        task.cancel()
        do {
            try await task.value
            XCTFail("it ran")
        } catch is CancellationError {}
        XCTAssertEqual(try job.status().state, .idle)
    }

    func testCancellingTheTaskOfALoopWritesACheckpointBeforeItEnds() async throws {
        let job = try TrainingJob(settings(run))
        let task = Task { for try await _ in job {} }
        try await until(job) { $0.globalStep >= 4 }
        task.cancel()
        try await task.value
        XCTAssertEqual(try job.status().state, .cancelled)
        try await job.close()
        try await goesOn()
    }

    func testCancellingTheTaskOfAReaderLeavesTheJob() async throws {
        let job = try TrainingJob(settings(run))
        try job.start()
        let task = Task { for try await _ in job.events() {} }
        try await until(job) { $0.globalStep >= 2 }
        task.cancel()
        try await task.value
        XCTAssertNotEqual(try job.status().state, .cancelled)
        try await job.wait()
        XCTAssertEqual(try adapter(run), byProgram)
    }

    func testCancellingTheTaskOfASliceWritesACheckpoint() async throws {
        let job = try TrainingJob(settings(run))
        // Not the first: a wish to stop of before a later attempt is forgotten when that begins.
        while try job.status().globalStep < 2 { _ = try await job.runSlice(0.1) }
        let task = Task { try await job.runSlice(600) }
        try await until(job) { $0.state == .running || $0.state == .preparing }
        task.cancel()
        let begun = Date()
        guard case .stopped = await thrown({ try await task.value }) else { return XCTFail("it was not stopped") }
        XCTAssertLessThan(Date().timeIntervalSince(begun), 5)
        try await job.close()
        try await goesOn()
    }

    func testWaitingEndsWithItsTaskAndTheJobGoesOn() async throws {
        let job = try TrainingJob(settings(run))
        try job.start()
        let task = Task { try await job.wait() }
        try await Task.sleep(nanoseconds: 50_000_000)
        task.cancel()
        do {
            _ = try await task.value
        } catch is CancellationError {}
        try await job.wait()
        XCTAssertEqual(try adapter(run), byProgram)
    }

    func testAJobThatGoesAwayStopsBehindACheckpoint() async throws {
        func begin() async throws {
            let job = try TrainingJob(settings(run))
            try job.start()
            try await until(job) { $0.globalStep >= 2 }
        }
        try await begin()
        try await goesOn()
    }

    func testAKilledProcessIsTakenUp() async throws {
        let given = String(decoding: try JSONEncoder().encode(settings(run)), as: UTF8.self)
        let ended = try process(
            told["SFTMIX_BIN"]! + "/helper", ["killed", run], environment: ["SFTMIX_SETTINGS": given])
        XCTAssertEqual(ended.code, 9, ended.err)
        let job = try TrainingJob.resume(run)
        var steps: [UInt64] = []
        for try await event in job {
            if case .step(let step) = event { steps.append(step.globalStep) }
        }
        let report = try await job.wait()
        XCTAssertEqual(try adapter(run), byProgram)
        // Step 5 was not dealt with, and what was done again comes again.
        XCTAssertEqual(steps.last, report.steps)
        XCTAssertLessThanOrEqual(try XCTUnwrap(steps.first), 5)
    }
}
