import SFTMixFFI

/// A file of rows and how often an epoch has a row of it.
public typealias DataSource = SFTMixFFI.DataSource

/// Something that happened in a job; its figures have the names of `metrics.jsonl`.
public typealias Event = SFTMixFFI.Event
/// What a job found when it opened its inputs.
public typealias Prepared = SFTMixFFI.Prepared
/// How rows became examples.
public typealias RowCounts = SFTMixFFI.RowCounts
/// One optimizer step.
public typealias StepEvent = SFTMixFFI.StepEvent
/// The held-out rows under the weights as they are.
public typealias EvaluatedEvent = SFTMixFFI.EvaluatedEvent
/// What a job may take of the machine: worker threads, the share of the time in which it computes, bytes that it may hold.
/// What is left out stays as it is.
public typealias Limits = SFTMixFFI.Limits

/// What a finished run says.
public typealias Report = SFTMixFFI.TrainReport
/// How a slice ended: `report` when the run is finished, else `checkpoint`.
public typealias Slice = SFTMixFFI.Slice
/// A job at a glance.
public typealias Status = SFTMixFFI.JobStatus
/// What a job is at.
public typealias JobState = SFTMixFFI.JobState

/// What a run will take.
public typealias Plan = SFTMixFFI.RunPlan
/// Bytes by what they are for.
public typealias PlannedMemory = SFTMixFFI.PlannedMemory
/// A change of the settings that would need less memory.
public typealias Saving = SFTMixFFI.Saving
/// Figures of a set of rows.
public typealias Evaluation = SFTMixFFI.Evaluation
/// What was found in a file of rows.
public typealias InspectedFile = SFTMixFFI.InspectedFile
/// Rows that were left out for one reason.
public typealias SkippedRows = SFTMixFFI.SkippedRows
/// A row as it is trained on.
public typealias ShownRow = SFTMixFFI.ShownRow
/// A token of a row.
public typealias ShownToken = SFTMixFFI.ShownToken
/// An adapter in a format of another runtime.
public typealias Exported = SFTMixFFI.Exported
/// A model with the adapter in its weights.
public typealias Merged = SFTMixFFI.Merged

/// Which rows of a data map, in what order, how many.
public typealias MapQuery = SFTMixFFI.MapQuery
/// Rows whose measure lies between two bounds, those included.
public typealias MapFilter = SFTMixFFI.MapFilter
/// A page of rows.
public typealias MapPage = SFTMixFFI.MapPage
/// An example with its measures.
public typealias MapRow = SFTMixFFI.MapRow
/// An example under one checkpoint.
public typealias MapPoint = SFTMixFFI.MapPoint
/// What a data map says as a whole.
public typealias Summary = SFTMixFFI.MapSummary
/// Mean and quartiles.
public typealias MapDistribution = SFTMixFFI.MapDistribution
/// Means over one half.
public typealias HalfSummary = SFTMixFFI.HalfSummary

/// How text is generated.
public typealias GenerateSettings = SFTMixFFI.GenerateSettings
/// What was generated: `text` and figures.
public typealias Generation = SFTMixFFI.Generation

extension Event {
    /// What happened, in the word of `metrics.jsonl`: `prepared`, `step`, `evaluated`, `stopped_early`, `sweep`, `split`,
    /// `checkpoint` or `limits`; `other` for what this version of the package does not know.
    public var kind: String {
        switch self {
        case .prepared: "prepared"
        case .step: "step"
        case .evaluated: "evaluated"
        case .stoppedEarly: "stopped_early"
        case .sweep: "sweep"
        case .split: "split"
        case .checkpoint: "checkpoint"
        case .limits: "limits"
        case .other: "other"
        }
    }
}

/// The version of the library.
public func version() -> String { SFTMixFFI.version() }

/// Sends what the library logs, down to `level` (error, warn, info or debug), to a function; without one it is dropped, as at
/// the start. The function is called on the thread that logs.
///
/// - Throws: ``SFTMixError/invalidConfig(detail:field:reason:)`` for a level that there is not.
public func logTo(
    level: String = "warn", _ listener: (@Sendable (_ level: String, _ message: String) -> Void)?
) throws {
    try mapped { try setLogListener(listener: listener.map(Log.init), level: level) }
}

private final class Log: LogListener {
    let call: @Sendable (String, String) -> Void
    init(_ call: @escaping @Sendable (String, String) -> Void) { self.call = call }
    func onLog(level: String, message: String) { call(level, message) }
}
