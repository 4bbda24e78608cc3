import Foundation
import SFTMixFFI

extension TrainingJob: AsyncSequence {
    public typealias Element = Event

    /// Gives the events of a job, one by one.
    public struct AsyncIterator: AsyncIteratorProtocol {
        fileprivate let reader: EventReader

        /// The next event; `nil` when the job has ended.
        public mutating func next() async throws -> Event? {
            try await reader.next()
        }
    }

    /// Begins the job, unless it was begun, and gives its events; throws what made it fail. A job that was stopped just ends
    /// here: ``wait()`` tells. When the task that iterates is cancelled, the job stops behind a checkpoint before the loop ends;
    /// where it was cancelled before, nothing begins and the loop ends. To leave the loop stops nothing.
    public func makeAsyncIterator() -> AsyncIterator {
        // Not a stream's: that asks for nothing more when its task was cancelled between two events.
        AsyncIterator(reader: EventReader(self, timeout: nil, whole: true))
    }

    /// Its events from the first that was not dealt with; an event counts as dealt with when the next is asked for, and comes
    /// again until then, also after a crash of the process. One event is held at a time: the job does not wait, and what was not
    /// read yet is in the run folder: steps and evaluations all, of `sweep` and `checkpoint` the newest. Ends with the job, or
    /// where none came for `timeout` seconds, or when the task is cancelled, which leaves the job as it is. Of a job that was not
    /// begun it ends at once.
    ///
    /// A job has one place up to which events were dealt with: of two readers at once each gets a part. One reads, and passes on.
    public func events(timeout: Double? = nil) -> AsyncThrowingStream<Event, any Error> {
        let reader = EventReader(self, timeout: timeout, whole: false)
        return AsyncThrowingStream { try await reader.next() }
    }

    /// The next event that was not acknowledged, the same one until it is: for callers that acknowledge by hand. Waits as long
    /// as the job runs, or for `timeout` seconds; `nil` where none came.
    public func nextEvent(timeout: Double? = nil) async throws -> (number: UInt64, event: Event)? {
        let found = try await EventReader(self, timeout: timeout, whole: false).pull()
        return found.map { ($0.number, $0.event) }
    }

    /// Says that an event was dealt with: it does not come again, also not after a crash.
    public func acknowledge(_ number: UInt64) throws {
        try mapped { try core.acknowledge(number: number) }
    }
}

/// Where a reader of events stands.
fileprivate actor EventReader {
    private let job: TrainingJob
    private let timeout: Double?
    /// Whether the reader begins the job, ends it with its task, and throws what made it fail.
    private let whole: Bool
    private var begun = false
    private var taken: UInt64?

    init(_ job: TrainingJob, timeout: Double?, whole: Bool) {
        self.job = job
        self.timeout = timeout
        self.whole = whole
    }

    func next() async throws -> Event? {
        if try !begun && whole && !Task.isCancelled && job.status().state == .idle { try job.start() }
        begun = true
        if let number = taken {
            taken = nil
            try job.acknowledge(number)
        }
        if let found = try await pull() {
            taken = found.number
            return found.event
        }
        if try whole && job.status().state == .failed { _ = try await job.wait(timeout: 0) }
        return nil
    }

    func pull() async throws -> NumberedEvent? {
        let (job, whole, left) = (job, whole, Flag())
        let end = timeout.map { Date(timeIntervalSinceNow: max(0, $0)) }
        return try await withTaskCancellationHandler {
            try await aside {
                try mapped(job.cause) {
                    while true {
                        let going = try job.isGoing()
                        if left.isSet {
                            // The loop ends when the checkpoint is written.
                            if whole && going {
                                job.stop()
                                Thread.sleep(forTimeInterval: turn / 20)
                                continue
                            }
                            return nil
                        }
                        let nap = min(turn, max(0, end?.timeIntervalSinceNow ?? turn))
                        if let found = try job.core.nextEvent(timeout: nap) { return found }
                        if !going || (end.map { $0.timeIntervalSinceNow <= 0 } ?? false) { return nil }
                    }
                }
            }
        } onCancel: {
            left.set()
        }
    }
}
