import Foundation

/// Pieces of text between the thread that makes them and the task that reads them.
final class Pieces: @unchecked Sendable {
    private static let most = 64
    private let condition = NSCondition()
    private let make: @Sendable (@escaping @Sendable (String) -> Bool) throws -> Void
    private var held: [String] = []
    private var begun = false
    /// How it ended, once it has.
    private var end: Result<Void, any Error>?
    /// Its reader has gone.
    private var left = false
    /// The reader that waits for a piece.
    private var waiting: CheckedContinuation<String?, any Error>?

    init(_ make: @escaping @Sendable (@escaping @Sendable (String) -> Bool) throws -> Void) {
        self.make = make
    }

    /// The next piece; `nil` behind the last, and when the reader has left.
    func next() async throws -> String? {
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                condition.lock()
                if !begun && !left {
                    begun = true
                    begin()
                }
                waiting = continuation
                serve()
            }
        } onCancel: {
            leave()
        }
    }

    /// The reader asks for no more: the text ends at its next piece.
    func leave() {
        condition.lock()
        left = true
        held = []
        condition.broadcast()
        serve()
    }

    /// Gives the reader what there is for it. Called with the lock, which is open afterwards: a continuation that is resumed may
    /// come back in.
    private func serve() {
        let reader = waiting
        var found: Result<String?, any Error>?
        if left {
            found = .success(nil)
        } else if !held.isEmpty {
            found = .success(held.removeFirst())
            condition.broadcast()
        } else if let end {
            found = end.map { nil }
            // An error is told once.
            self.end = .success(())
        }
        if reader != nil && found != nil { waiting = nil }
        condition.unlock()
        if let reader, let found { reader.resume(with: found) }
    }

    /// Takes a piece in, when there is room; whether more are wanted.
    private func put(_ piece: String) -> Bool {
        condition.lock()
        while held.count >= Self.most && !left { condition.wait() }
        let wanted = !left
        if wanted { held.append(piece) }
        give()
        return wanted
    }

    private func finish(_ result: Result<Void, any Error>) {
        condition.lock()
        end = result
        give()
    }

    /// As ``serve()``, for the side that makes: where nobody waits, what there is stays.
    private func give() {
        if waiting == nil {
            condition.unlock()
        } else {
            serve()
        }
    }

    private func begin() {
        let thread = Thread { [self] in
            finish(Result { try make { [self] in put($0) } })
        }
        thread.name = "sftmix-stream"
        thread.stackSize = 8 << 20
        thread.start()
    }
}

/// The reader's end: when its stream is dropped, the text ends.
final class PieceReader: Sendable {
    private let pieces: Pieces
    init(_ pieces: Pieces) { self.pieces = pieces }
    deinit { pieces.leave() }

    func next() async throws -> String? {
        try await pieces.next()
    }
}
