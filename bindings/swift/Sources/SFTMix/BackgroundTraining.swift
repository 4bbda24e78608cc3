#if canImport(BackgroundTasks)
import BackgroundTasks
import Foundation

/// Trains in the background of an iOS app: a slice when the system grants time, a checkpoint, and the next request, until the run
/// is finished. Heat and low-power mode slow it down or pause it (``ConditionsPolicy``).
///
/// The identifier stands in the app's Info.plist under `BGTaskSchedulerPermittedIdentifiers`, with `processing` among its
/// `UIBackgroundModes`. Register before the app has finished launching, schedule when there is something to train:
///
///     let training = BackgroundTraining(identifier: "org.example.train") {
///         do { return try .resume(folder) } catch SFTMixError.checkpoint { return try TrainingJob(settings) }
///     }
///     training.register()
///     try training.schedule()
public final class BackgroundTraining: Sendable {
    /// How a grant of time went.
    public enum Outcome: Sendable {
        /// The run has its adapter; nothing was scheduled.
        case finished(Report)
        /// Time ran out; the next slice goes on from the checkpoint, and was asked for. Without a checkpoint none was written in
        /// this grant: where the run was not prepared yet, its folder holds none to be taken up.
        case goesOn(checkpoint: String?)
        /// The run failed; nothing was scheduled.
        case failed(any Error)
    }

    private let identifier: String
    private let sliceSeconds: Double
    private let requiresExternalPower: Bool
    private let policy: ConditionsPolicy
    private let job: @Sendable () throws -> TrainingJob
    private let ended: @Sendable (Outcome) -> Void

    /// - Parameters:
    ///   - identifier: Of the task, as in the Info.plist.
    ///   - sliceSeconds: Longest time between two checkpoints: what a kill without warning can cost.
    ///   - requiresExternalPower: Whether to wait for a charger. Without one the system also ends tasks that compute too much.
    ///   - policy: What the job may take when the device is warm or saves power.
    ///   - ended: Told how each grant of time went.
    ///   - job: Takes the job up from its folder, or makes it where there is none yet; called when time is granted.
    public init(
        identifier: String, sliceSeconds: Double = 60, requiresExternalPower: Bool = true,
        policy: ConditionsPolicy = ConditionsPolicy(), ended: @escaping @Sendable (Outcome) -> Void = { _ in },
        job: @escaping @Sendable () throws -> TrainingJob
    ) {
        self.identifier = identifier
        self.sliceSeconds = sliceSeconds
        self.requiresExternalPower = requiresExternalPower
        self.policy = policy
        self.ended = ended
        self.job = job
    }

    /// Tells the system what to call; once, before the app has finished launching. `false` where the identifier is not permitted.
    @discardableResult
    public func register() -> Bool {
        BGTaskScheduler.shared.register(forTaskWithIdentifier: identifier, using: nil) { [self] task in handle(task) }
    }

    /// Asks for time, at the earliest so many seconds from now; the system chooses when.
    public func schedule(after seconds: Double = 0) throws {
        let request = BGProcessingTaskRequest(identifier: identifier)
        request.requiresExternalPower = requiresExternalPower
        request.requiresNetworkConnectivity = false
        request.earliestBeginDate = seconds > 0 ? Date(timeIntervalSinceNow: seconds) : nil
        try BGTaskScheduler.shared.submit(request)
    }

    /// Takes the request back; a slice under way goes on.
    public func unschedule() {
        BGTaskScheduler.shared.cancel(taskRequestWithIdentifier: identifier)
    }

    #if compiler(>=6.2) && !targetEnvironment(macCatalyst)
    /// Goes on in the background with what the user has begun in the foreground, with its progress in the system's interface,
    /// where the user can end it. Call it from the user's action; the identifier is one of its own, registered as this one is.
    @available(iOS 26.0, *)
    public func continueInBackground(title: String, subtitle: String) throws {
        let request = BGContinuedProcessingTaskRequest(identifier: identifier, title: title, subtitle: subtitle)
        request.strategy = .fail
        try BGTaskScheduler.shared.submit(request)
    }
    #endif

    private func handle(_ task: BGTask) {
        let granted = Granted(task)
        let work = Task { [self] in
            let outcome = await train(granted)
            var whole = true
            switch outcome {
            case .finished: break
            case .goesOn: if !granted.isContinued { do { try schedule() } catch { whole = false } }
            case .failed: whole = false
            }
            ended(outcome)
            granted.complete(whole)
        }
        // The task ends the slice within a micro-batch, behind a checkpoint.
        task.expirationHandler = { work.cancel() }
    }

    private func train(_ granted: Granted) async -> Outcome {
        do {
            let job = try job()
            let governor = Governor(job, policy: policy)
            var checkpoint: String?
            while !Task.isCancelled {
                let slice = try await governor.runSlice(sliceSeconds, report: { granted.show($0) })
                if let report = slice.report {
                    try await job.close()
                    return .finished(report)
                }
                checkpoint = slice.checkpoint
            }
            try await job.close()
            return .goesOn(checkpoint: checkpoint)
        } catch SFTMixError.stopped(_, let checkpoint) {
            return .goesOn(checkpoint: checkpoint)
        } catch is CancellationError {
            return .goesOn(checkpoint: nil)
        } catch {
            return .failed(error)
        }
    }
}

/// Time that the system has granted. Its methods may be called on any thread, though the framework does not say so to Swift.
private final class Granted: @unchecked Sendable {
    private let task: BGTask
    init(_ task: BGTask) { self.task = task }

    func complete(_ success: Bool) { task.setTaskCompleted(success: success) }

    #if compiler(>=6.2) && !targetEnvironment(macCatalyst)
    var isContinued: Bool {
        if #available(iOS 26.0, *) { return task is BGContinuedProcessingTask }
        return false
    }

    /// A task that shows no progress is taken for stuck and ended.
    func show(_ status: Status) {
        guard #available(iOS 26.0, *), let task = task as? BGContinuedProcessingTask else { return }
        task.progress.totalUnitCount = Int64(max(status.totalSteps, 1))
        task.progress.completedUnitCount = Int64(status.globalStep)
    }
    #else
    var isContinued: Bool { false }
    func show(_ status: Status) {}
    #endif
}
#endif
