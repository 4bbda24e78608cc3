import Foundation

/// Does blocking work on a thread of its own: those that Swift's tasks run on are few and must not wait.
func aside<T: Sendable>(_ work: @escaping @Sendable () throws -> T) async throws -> T {
    try await withCheckedThrowingContinuation { continuation in
        let thread = Thread { continuation.resume(with: Result(catching: work)) }
        thread.name = "sftmix"
        // A thread of Foundation has 512 KB on Apple's systems, Rust's own have 2 MB.
        thread.stackSize = 8 << 20
        thread.start()
    }
}

/// As ``aside(_:)``; when the task is cancelled, `stop` is called, and again until the work is done: a wish to stop that came
/// before the work had begun is forgotten when it begins.
func aside<T: Sendable>(
    stop: @escaping @Sendable () -> Void, _ work: @escaping @Sendable () throws -> T
) async throws -> T {
    try Task.checkCancellation()
    let done = Flag()
    return try await withTaskCancellationHandler {
        try await aside {
            defer { done.set() }
            return try work()
        }
    } onCancel: {
        stop()
        Thread.detachNewThread {
            while !done.wait(0.05) { stop() }
        }
    }
}

/// A flag that is set once.
final class Flag: @unchecked Sendable {
    private let condition = NSCondition()
    private var raised = false

    var isSet: Bool {
        condition.withLock { raised }
    }

    func set() {
        condition.withLock {
            raised = true
            condition.broadcast()
        }
    }

    /// Waits for so many seconds at most; whether it is set then.
    func wait(_ seconds: Double) -> Bool {
        let until = Date(timeIntervalSinceNow: seconds)
        return condition.withLock {
            while !raised && condition.wait(until: until) {}
            return raised
        }
    }
}
