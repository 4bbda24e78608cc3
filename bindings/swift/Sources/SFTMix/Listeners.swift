import Foundation
import SFTMixFFI

/// What a closure of the caller has thrown, kept while only its text crosses the library.
final class Cause: @unchecked Sendable {
    private let lock = NSLock()
    private var thrown: (reason: String, error: any Error)?

    /// Calls a closure; an error of it is kept, and goes on as one of the library's.
    func guarding<T>(_ call: () throws -> T) throws -> T {
        do {
            return try call()
        } catch {
            let reason = "\(type(of: error)): \(error)"
            lock.withLock { thrown = (reason, error) }
            throw SftmixError.Callback(detail: "a callback failed: \(reason)", reason: reason)
        }
    }

    /// What was thrown, if this error tells of it.
    func take(_ error: SftmixError) -> (any Error)? {
        guard case .Callback(_, let reason) = error else { return nil }
        return lock.withLock { thrown.flatMap { $0.reason == reason ? $0.error : nil } }
    }
}

/// Calls a closure with each event.
final class EventClosure: EventListener {
    private let call: @Sendable (Event) throws -> Bool
    private let cause: Cause

    init(_ call: @escaping @Sendable (Event) throws -> Bool, _ cause: Cause) {
        self.call = call
        self.cause = cause
    }

    func onEvent(event: Event) throws -> Bool {
        try cause.guarding { try call(event) }
    }
}

/// Calls a closure with each piece of text.
final class TextClosure: TextListener {
    private let call: @Sendable (String) throws -> Bool
    private let cause: Cause

    init(_ call: @escaping @Sendable (String) throws -> Bool, _ cause: Cause) {
        self.call = call
        self.cause = cause
    }

    func onText(piece: String) throws -> Bool {
        try cause.guarding { try call(piece) }
    }
}

/// Gives rows one by one. The library pulls them on one thread at a time; the lock says so to the compiler's reader, and holds
/// for a sequence that may not be used from two.
final class RowPull: RowSource, @unchecked Sendable {
    private let lock = NSLock()
    private let next: () throws -> String?
    private let cause: Cause

    init(_ next: @escaping () throws -> String?, _ cause: Cause) {
        self.next = next
        self.cause = cause
    }

    /// Rows of a sequence: texts are JSON objects already, all else is written as one.
    convenience init<Rows: Sequence>(rows: Rows, _ cause: Cause) where Rows.Element: Encodable {
        var iterator = rows.makeIterator()
        self.init({ try iterator.next().map { row in try row as? String ?? row.json() } }, cause)
    }

    func nextRow() throws -> String? {
        try lock.withLock { try cause.guarding(next) }
    }
}
