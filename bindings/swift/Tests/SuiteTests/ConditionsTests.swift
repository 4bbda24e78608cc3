import Foundation
import SFTMix
import XCTest

/// Heat and low power: the policy, and jobs that are held to it.
final class ConditionsTests: SuiteCase {
    func testThePolicy() {
        let policy = ConditionsPolicy()
        XCTAssertEqual(policy.limits(for: DeviceConditions()), Limits(dutyCycle: 1))
        XCTAssertEqual(policy.limits(for: DeviceConditions(heat: .fair)), Limits(dutyCycle: 0.7))
        XCTAssertEqual(policy.limits(for: DeviceConditions(heat: .serious, lowPower: true)), Limits(dutyCycle: 0.175))
        XCTAssertNil(policy.limits(for: DeviceConditions(heat: .critical)))
        let sparing = ConditionsPolicy(dutyCycle: [.nominal: 3], lowPowerFactor: 0)
        XCTAssertEqual(sparing.limits(for: DeviceConditions()), Limits(dutyCycle: 1))
        XCTAssertNil(sparing.limits(for: DeviceConditions(lowPower: true)))
        XCTAssertEqual(Heat.allCases.sorted().last, .critical)
    }

    func testAJobIsSlowedPausedAndLetGoOn() async throws {
        let job = try TrainingJob(settings(run))
        let policy = ConditionsPolicy(dutyCycle: [.nominal: 1, .fair: 0.9, .serious: 0.8], lowPowerFactor: 0.75)
        let governor = Governor(job, policy: policy)
        try await governor.apply(DeviceConditions(heat: .fair))
        try job.start()
        try await until(job) { $0.globalStep >= 1 }
        XCTAssertEqual(try job.status().limits.dutyCycle, 0.9)
        try await governor.apply(DeviceConditions(heat: .critical))
        try await until(job) { $0.state == .paused }
        try await governor.apply(DeviceConditions(heat: .serious, lowPower: true))
        try await job.wait()
        XCTAssertEqual(try job.status().limits.dutyCycle, 0.8 * 0.75)
        XCTAssertEqual(try adapter(run), byProgram)
    }

    func testAPauseOfTheUsersStays() async throws {
        let job = try TrainingJob(settings(run))
        let governor = Governor(job)
        try job.start()
        try await until(job) { $0.globalStep >= 1 }
        try job.pause()
        try await until(job) { $0.state == .paused }
        try await governor.apply(DeviceConditions(heat: .critical))
        try await governor.apply(DeviceConditions())
        XCTAssertEqual(try job.status().state, .paused)
        try await job.close()
    }

    func testSlicesUnderChangingConditions() async throws {
        let job = try TrainingJob(settings(run))
        let governor = Governor(job, policy: ConditionsPolicy(dutyCycle: [.nominal: 0.9, .fair: 0.6]))
        let (looked, told) = (Box(0), Box<[UInt64]>([]))
        var (slices, report): (Int, Report?) = (0, nil)
        while report == nil {
            report = try await governor.runSlice(
                0.5, every: 0.05,
                conditions: {
                    looked.change { $0 += 1 }
                    return DeviceConditions(heat: [.nominal, .fair, .critical][looked.value % 3])
                },
                report: { status in told.change { $0.append(status.globalStep) } }
            ).report
            slices += 1
            if slices > 100 { return XCTFail("it does not get on: \(try job.status())") }
        }
        XCTAssertGreaterThan(looked.value, slices)
        XCTAssertEqual(told.value.last, report?.steps)
        XCTAssertEqual(told.value, told.value.sorted())
        XCTAssertEqual(try adapter(run), byProgram)
    }

    func testASliceThatIsPausedEndsWithItsTime() async throws {
        let job = try TrainingJob(settings(run))
        let governor = Governor(job)
        // Once from the beginning, once before the first step of a slice.
        _ = try await governor.runSlice(0.2, every: 0.05, conditions: { DeviceConditions(heat: .critical) })
        while try job.status().globalStep < 9 { _ = try await job.runSlice(0.05) }
        let begun = Date()
        let slice = try await governor.runSlice(0.5, every: 0.05, conditions: { DeviceConditions(heat: .critical) })
        XCTAssertNil(slice.report)
        XCTAssertLessThan(Date().timeIntervalSince(begun), 20)
        let next = try await governor.runSlice(600, every: 0.05, conditions: { DeviceConditions() })
        XCTAssertNotNil(next.report)
        XCTAssertEqual(try adapter(run), byProgram)
    }
}
