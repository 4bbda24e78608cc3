import Foundation

/// How warm a device is, in the steps of `ProcessInfo.ThermalState`.
public enum Heat: Int, CaseIterable, Comparable, Sendable {
    /// As it should be.
    case nominal
    /// A little warm: what can wait should.
    case fair
    /// Fans run, the system slows down.
    case serious
    /// The device must cool.
    case critical

    public static func < (one: Heat, other: Heat) -> Bool { one.rawValue < other.rawValue }
}

/// What a device is like at a moment.
public struct DeviceConditions: Equatable, Sendable {
    /// How warm it is.
    public var heat: Heat
    /// Whether its user has switched low-power mode on.
    public var lowPower: Bool

    public init(heat: Heat = .nominal, lowPower: Bool = false) {
        self.heat = heat
        self.lowPower = lowPower
    }

    /// Those of now: on Apple's systems as `ProcessInfo` tells; elsewhere nothing is known, and they are the best.
    public static var current: DeviceConditions {
        #if canImport(Darwin)
        let heat: Heat =
            switch ProcessInfo.processInfo.thermalState {
            case .nominal: .nominal
            case .fair: .fair
            case .serious: .serious
            case .critical: .critical
            @unknown default: .serious
            }
        return DeviceConditions(heat: heat, lowPower: ProcessInfo.processInfo.isLowPowerModeEnabled)
        #else
        return DeviceConditions()
        #endif
    }
}

/// What a job may take under which conditions: the share of the time in which it computes, or nothing, where it pauses.
/// Neither changes a bit of the result.
public struct ConditionsPolicy: Equatable, Sendable {
    /// Share of the time by heat, more than 0 and at most 1; under a heat that has none the job pauses.
    public var dutyCycle: [Heat: Double]
    /// The share is multiplied by this in low-power mode; by 0 it pauses.
    public var lowPowerFactor: Double

    /// All the time when cool, less when warm, nothing when critical; half of it in low-power mode.
    public init(
        dutyCycle: [Heat: Double] = [.nominal: 1, .fair: 0.7, .serious: 0.35], lowPowerFactor: Double = 0.5
    ) {
        self.dutyCycle = dutyCycle
        self.lowPowerFactor = lowPowerFactor
    }

    /// The limits under these conditions; `nil` where the job pauses.
    public func limits(for conditions: DeviceConditions) -> Limits? {
        guard let share = dutyCycle[conditions.heat] else { return nil }
        let left = min(1, share * (conditions.lowPower ? lowPowerFactor : 1))
        return left > 0 ? Limits(dutyCycle: left) : nil
    }
}

/// Holds a job to a policy: call ``apply(_:)`` whenever conditions may have changed.
public actor Governor {
    private let job: TrainingJob
    private let policy: ConditionsPolicy
    private var last: DeviceConditions?
    private var paused = false
    /// The slice was ended here, since it was paused when its time was up.
    private var overdue = false

    /// A governor of a job. It undoes its own pauses alone: a job that the user has paused stays so.
    public init(_ job: TrainingJob, policy: ConditionsPolicy = ConditionsPolicy()) {
        self.job = job
        self.policy = policy
    }

    /// Updates the job's limits, or pauses it, where conditions differ from those of the last call.
    public func apply(_ conditions: DeviceConditions = .current) throws {
        guard conditions != last else { return }
        if let limits = policy.limits(for: conditions) {
            try job.update(limits)
            if paused { try job.unpause() }
            paused = false
        } else if try !paused && job.status().state != .paused {
            try job.pause()
            paused = true
        }
        last = conditions
    }

    /// Runs a slice of the job; conditions are looked at every so many seconds, and `report` is told the job's status as often.
    /// Cancelling the task ends the slice behind a checkpoint.
    public func runSlice(
        _ seconds: Double, every interval: Double = 1,
        conditions: @escaping @Sendable () -> DeviceConditions = { .current },
        report: @escaping @Sendable (Status) -> Void = { _ in }
    ) async throws -> Slice {
        let job = job
        // A pause of before would hold the slice, whatever the conditions are now; the end of a slice takes one back by itself.
        if paused { try job.unpause() }
        (last, paused) = (nil, false)
        try apply(conditions())
        // A wish to stop that came as the slice before had ended by itself may stop this one at once.
        let stale = overdue
        overdue = false
        let end = Date(timeIntervalSinceNow: seconds)
        let watch = Task {
            while !Task.isCancelled {
                try await Task.sleep(nanoseconds: UInt64(max(0.01, interval) * 1e9))
                try self.apply(conditions())
                try self.endIfPaused(at: end)
                report(try job.status())
            }
        }
        let slice: Slice
        do {
            slice = try await job.runSlice(seconds)
        } catch {
            await finish(watch)
            if overdue || stale, case SFTMixError.stopped(_, let checkpoint) = error {
                return Slice(report: nil, checkpoint: checkpoint)
            }
            throw error
        }
        await finish(watch)
        report(try job.status())
        return slice
    }

    /// A slice that is paused before its first step does not end by its time: that would make short slices endless.
    private func endIfPaused(at end: Date) throws {
        if try paused && Date() >= end && job.isGoing() {
            overdue = true
            try job.cancel()
        }
    }

    /// Ends what looks at conditions: a pause that came after its slice would hold the next.
    private func finish(_ watch: Task<Void, any Error>) async {
        watch.cancel()
        _ = await watch.result
    }
}
