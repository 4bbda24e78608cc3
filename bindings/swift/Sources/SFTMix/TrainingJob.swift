import Foundation
import SFTMixFFI

/// A run: start it or run it in slices, steer it from any thread or task, iterate over its events or be called with them. Its
/// folder alone is enough to take it up again (``resume(_:settings:model:onEvent:)``).
///
///     let job = try TrainingJob(TrainSettings(model: "demo", data: "demo/train.jsonl", out: "run", epochs: 1))
///     for try await event in job {
///         if case .step(let step) = event { print(step.globalStep, step.totalSteps, step.loss) }
///     }
///     let report = try await job.wait()
///
/// An object that goes away while its job runs stops it behind a checkpoint and waits for its threads, as ``close()`` does for
/// callers that await. Whatever fails throws an ``SFTMixError``.
public final class TrainingJob: Sendable {
    let core: SFTMixFFI.TrainingJob
    let cause: Cause

    init(core: SFTMixFFI.TrainingJob, cause: Cause) {
        self.core = core
        self.cause = cause
    }

    /// A new run in a folder that holds none.
    ///
    /// - Parameters:
    ///   - settings: `out`, `data`, and `model` unless an open one is given, must be there.
    ///   - model: An open model, in place of the path in the settings.
    ///   - onEvent: Called with each event on a thread of its own: training does not wait for it, and while it is busy the
    ///     newest step takes the place of the one before. `false` stops the job; what it throws ends the job behind a
    ///     checkpoint and is the cause of a ``SFTMixError/callback(detail:reason:cause:)``. One that keeps the job alive should
    ///     hold it weakly.
    public convenience init(
        _ settings: TrainSettings, model: Model? = nil, onEvent: (@Sendable (Event) throws -> Bool)? = nil
    ) throws {
        try self.init(settings, model: model, onEvent: onEvent) { _ in nil }
    }

    /// A new run on rows that are in no file: any sequence of JSON objects as text, or of what is written as a JSON object. It is
    /// read once, on a thread of the library's, and written through to the run folder when the job begins. It is read to its end
    /// however short a slice is; to stop the job ends that at once.
    public convenience init<Rows: Sequence>(
        _ settings: TrainSettings, rows: sending Rows, model: Model? = nil,
        onEvent: (@Sendable (Event) throws -> Bool)? = nil
    ) throws where Rows.Element: Encodable {
        let handed = Handed(rows)
        try self.init(settings, model: model, onEvent: onEvent) { RowPull(rows: handed.value, $0) }
    }

    /// A new run on rows that a function gives one by one, JSON objects as text; `nil` behind the last. Only one thread calls it
    /// at a time, but not the caller's. What it throws is the cause of a ``SFTMixError/callback(detail:reason:cause:)``.
    public convenience init(
        _ settings: TrainSettings, nextRow: @escaping @Sendable () throws -> String?, model: Model? = nil,
        onEvent: (@Sendable (Event) throws -> Bool)? = nil
    ) throws {
        try self.init(settings, model: model, onEvent: onEvent) { RowPull(nextRow, $0) }
    }

    private convenience init(
        _ settings: TrainSettings, model: Model?, onEvent: (@Sendable (Event) throws -> Bool)?,
        rows: (Cause) -> RowPull?
    ) throws {
        let cause = Cause()
        let core = try mapped(cause) {
            try SFTMixFFI.TrainingJob(
                settings: settings.core(), model: model?.core, listener: onEvent.map { EventClosure($0, cause) },
                rows: rows(cause))
        }
        self.init(core: core, cause: cause)
    }

    /// The run in the folder `out`, to be taken up where its newest whole checkpoint stands. Settings are its own. Given anew may
    /// be inputs that have moved, of the same content (`model`, `data`, `valid`, `initAdapter`, `chatTemplate`, `dynamics`), and
    /// settings of the machine (`device`, `memoryLimit`, `residentLimit`, `cacheDir`). The number of threads changes by
    /// ``update(_:)`` alone.
    ///
    /// - Throws: ``SFTMixError/checkpoint(detail:path:reason:)`` where the folder holds no run: a run that was stopped before it
    ///   was prepared has left none, and begins anew with the same settings.
    public static func resume(
        _ out: String, settings: TrainSettings = TrainSettings(), model: Model? = nil,
        onEvent: (@Sendable (Event) throws -> Bool)? = nil
    ) throws -> TrainingJob {
        let cause = Cause()
        let core = try mapped(cause) {
            try SFTMixFFI.TrainingJob.resume(
                out: out, settings: settings.core(), model: model?.core, listener: onEvent.map { EventClosure($0, cause) })
        }
        return TrainingJob(core: core, cause: cause)
    }

    /// Its run folder.
    public var out: String {
        get throws { try mapped { try core.out() } }
    }

    /// Every setting, as `run.json` has them.
    public var settings: TrainSettings {
        get throws {
            let json = try mapped { try core.settingsJson() }
            return try JSONDecoder().decode(TrainSettings.self, from: Data(json.utf8))
        }
    }

    /// Begins it on a thread of its own.
    public func start() throws {
        try mapped { try core.start() }
    }

    /// Begins it and waits for its end. When the task is cancelled, the job stops within a micro-batch behind a checkpoint, and
    /// this throws ``SFTMixError/stopped(detail:checkpoint:)``, without a checkpoint where it was not prepared yet. In a task that
    /// was cancelled before, nothing begins, and this throws `CancellationError`.
    @discardableResult
    public func run() async throws -> Report {
        try await aside(stop: stop) { [self] in try mapped(cause) { try core.run() } }
    }

    /// Trains for at most so many seconds and the micro-batch under way, writes a checkpoint and returns. The next slice, in this
    /// process or another, goes on to the same bytes. Cancelling the task stops it as it does ``run()``, with the same errors.
    ///
    /// Preparing (reading rows, opening and hashing) counts towards the time and may take longer. However short a slice is, the
    /// run gets on: rows that were tokenised stay for the next, and once prepared it does one step at least. While the job is
    /// paused, slices pass without a step.
    public func runSlice(_ seconds: Double) async throws -> Slice {
        try await aside(stop: stop) { [self] in try mapped(cause) { try core.runSlice(seconds: seconds) } }
    }

    /// Waits for the end of what was started and throws what ended it. When the task is cancelled it waits no longer and throws
    /// `CancellationError`; the job goes on.
    @discardableResult
    public func wait() async throws -> Report {
        guard let report = try await wait(until: .distantFuture) else {
            try Task.checkCancellation()
            throw SFTMixError.misuse(detail: "misuse: the job was not begun: there is no end to wait for")
        }
        return report
    }

    /// Waits for so many seconds at most: the report, or `nil` where it still goes on then, or was not begun.
    public func wait(timeout: Double) async throws -> Report? {
        try await wait(until: Date(timeIntervalSinceNow: Swift.max(0, timeout)))
    }

    private func wait(until end: Date) async throws -> Report? {
        let left = Flag()
        return try await withTaskCancellationHandler {
            try await aside { [self] in
                try mapped(cause) {
                    while true {
                        let going = try isGoing()
                        let nap = Swift.min(turn, Swift.max(0, end.timeIntervalSinceNow))
                        if let report = try core.wait(timeout: nap) { return report }
                        if !going || left.isSet || end.timeIntervalSinceNow <= 0 { return nil }
                    }
                }
            }
        } onCancel: {
            left.set()
        }
    }

    /// Asks it to wait: it finishes its micro-batch and writes a checkpoint. Before it runs, or between two slices: it is held at
    /// its start.
    public func pause() throws {
        try mapped { try core.pause() }
    }

    /// Lets it go on after a pause; returns at once, when ``status()`` may still say `paused`.
    public func unpause() throws {
        try mapped { try core.unpause() }
    }

    /// Asks it to stop within a micro-batch: behind a checkpoint, or with `save` false at the newest one that is there. Before it
    /// runs, or between two slices: its next attempt stops.
    public func cancel(save: Bool = true) throws {
        try mapped { try core.cancel(save: save) }
    }

    /// Changes what it may take of the machine, from the next micro-batch on. The limits are this object's: a run that is taken
    /// up has those of its settings.
    public func update(_ limits: Limits) throws {
        try mapped { try core.update(limits: limits) }
    }

    /// What it is at; answers at once.
    public func status() throws -> Status {
        try mapped { try core.status() }
    }

    /// Stops it, behind a checkpoint, and lets its threads and memory go. A job that was closed can do nothing more.
    public func close() async throws {
        try await aside { [core] in try mapped { try core.shutDown() } }
    }

    /// Asks it to stop on behalf of a task that was cancelled. A job that was shut down has nothing to stop.
    var stop: @Sendable () -> Void {
        { [core] in try? core.cancel(save: true) }
    }

    func isGoing() throws -> Bool {
        switch try core.status().state {
        case .idle, .done, .cancelled, .failed: false
        case .preparing, .running, .pausing, .paused, .stopping: true
        }
    }
}

/// Longest wait in the library, in seconds: between two, a task that was cancelled is seen to.
let turn = 0.2

/// What a caller has given away, and no other thread uses: `sending` says so where it is taken.
private final class Handed<Value>: @unchecked Sendable {
    let value: Value
    init(_ value: Value) { self.value = value }
}
