import Foundation
import SFTMixFFI

/// A message of a conversation.
public struct Message: Equatable, Sendable {
    /// `system`, `user`, `assistant`, or what else the model's template knows.
    public var role: String
    /// Its text.
    public var content: String
    /// Further keys that the template reads (`tool_calls`, `reasoning_content`, …), or a `content` that is no text.
    public var more: [String: JSONValue]

    public init(role: String, content: String, more: [String: JSONValue] = [:]) {
        self.role = role
        self.content = content
        self.more = more
    }

    func core() throws -> SFTMixFFI.Message {
        SFTMixFFI.Message(role: role, content: content, moreJson: more.isEmpty ? nil : try more.json())
    }
}

/// A resident model that generates, with one of its adapters or without. Calls from several tasks take their turns.
///
///     let generator = try Generator(Model("demo"), adapter: "run/adapter")
///     for try await piece in generator.stream("Once upon a time") { print(piece, terminator: "") }
public final class Generator: Sendable {
    private let core: SFTMixFFI.Generator
    private let model: Model

    /// Takes a model into use, with a PEFT adapter folder, which is named `default`, where one is given. `device` is auto, cpu,
    /// cuda, cuda:N or metal; without `threads` the machine's cores are taken.
    public init(_ model: Model, adapter: String? = nil, device: String = "auto", threads: UInt64? = nil) throws {
        core = try mapped {
            try SFTMixFFI.Generator.open(model: model.core, adapter: adapter, device: device, threads: threads)
        }
        self.model = model
    }

    /// Reads a PEFT adapter folder, to be used by this name; one of the same name goes.
    public func addAdapter(_ name: String, path: String) throws {
        try mapped { try core.addAdapter(name: name, path: path) }
    }

    /// Generates with the adapter of this name from now on, or with none.
    public func useAdapter(_ name: String?) throws {
        try mapped { try core.useAdapter(name: name) }
    }

    /// The names of the adapters, in the order in which they were added.
    public var adapters: [String] {
        get throws { try mapped { try core.adapters() } }
    }

    /// The name of the adapter in use.
    public var adapter: String? {
        get throws { try mapped { try core.adapter() } }
    }

    /// The most tokens that prompt and text may have together.
    public var context: UInt64 {
        get throws { try mapped { try core.context() } }
    }

    /// Continues a prompt. `onText` is called with each piece on the thread that generates; `false` ends the text, and what it
    /// throws is the cause of a ``SFTMixError/callback(detail:reason:cause:)``. When the task is cancelled the text ends at the
    /// next piece, and this throws `CancellationError`.
    public func generate(
        _ prompt: String, settings: GenerateSettings = GenerateSettings(),
        onText: (@Sendable (String) throws -> Bool)? = nil
    ) async throws -> Generation {
        try await making(onText) { [core] in try core.generate(prompt: prompt, settings: settings, listener: $0) }
    }

    /// The reply that follows messages, by the model's own chat template. What the last reply has left in the cache is built
    /// upon. `tools` are schemas of functions; `onText` and cancelling are as in ``generate(_:settings:onText:)``.
    public func chat(
        _ messages: [Message], tools: [JSONValue]? = nil, settings: GenerateSettings = GenerateSettings(),
        onText: (@Sendable (String) throws -> Bool)? = nil
    ) async throws -> Generation {
        let (told, toolsJson) = (try messages.map { try $0.core() }, try tools?.json())
        return try await making(onText) { [core] in
            try core.chat(messages: told, settings: settings, toolsJson: toolsJson, listener: $0)
        }
    }

    /// The pieces of ``generate(_:settings:onText:)`` as they come; the text begins when the first is asked for. At most 64 are
    /// held: then the text waits for its reader. To leave the loop, or to cancel the task, ends the text; in a task that was
    /// cancelled the loop ends without an error, as at the end of a text: `Task.isCancelled` tells.
    public func stream(
        _ prompt: String, settings: GenerateSettings = GenerateSettings()
    ) -> AsyncThrowingStream<String, any Error> {
        let pieces = Pieces { [core] put in
            let cause = Cause()
            _ = try mapped(cause) {
                try core.generate(prompt: prompt, settings: settings, listener: TextClosure(put, cause))
            }
        }
        let reader = PieceReader(pieces)
        return AsyncThrowingStream { try await reader.next() }
    }

    /// Ends the text that is being generated: what there is of it is returned there.
    public func cancel() {
        core.cancel()
    }

    /// Frees what a chat has left in the cache.
    public func forget() throws {
        try mapped { try core.forget() }
    }

    /// A text that ends with the task. Not by the library's `cancel`, which ends whichever text is being generated: with several
    /// tasks that may be another's.
    private func making(
        _ onText: (@Sendable (String) throws -> Bool)?,
        _ make: @escaping @Sendable (any TextListener) throws -> Generation
    ) async throws -> Generation {
        try Task.checkCancellation()
        let (left, cause) = (Flag(), Cause())
        let listener = TextClosure({ try !left.isSet && (onText?($0) ?? true) }, cause)
        let made = try await withTaskCancellationHandler {
            try await aside { try mapped(cause) { try make(listener) } }
        } onCancel: {
            left.set()
        }
        if left.isSet { throw CancellationError() }
        return made
    }
}
