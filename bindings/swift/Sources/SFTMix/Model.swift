import Foundation
import SFTMixFFI

/// A model that is open: a Hugging Face folder or a GGUF file. Jobs and generators share its mapped weights.
public final class Model: Sendable {
    let core: SFTMixFFI.Model
    /// What the system was asked to let be read, for as long as the weights are mapped.
    private let scope: SecurityScope?

    init(_ path: String, scope: SecurityScope?) throws {
        core = try mapped { try SFTMixFFI.Model.open(path: path) }
        self.scope = scope
    }

    /// Opens a model folder, a GGUF file, or a model of the local Hugging Face cache (`org/name[@revision]`).
    ///
    /// - Throws: ``SFTMixError`` of what is absent, damaged or not supported.
    public convenience init(_ path: String) throws {
        try self.init(path, scope: nil)
    }

    /// Opens a model folder or a GGUF file. A URL that a user has picked may be read for as long as the model is open: on
    /// Apple's systems its security scope is entered, and left when the last job and generator of the model are gone.
    public convenience init(url: URL) throws {
        try self.init(url.path, scope: SecurityScope(url))
    }

    #if canImport(Darwin)
    /// Opens what a security-scoped bookmark stands for, as a document picker's choice that was kept. Where the bookmark has
    /// become stale, `renewed` is called with one to keep instead.
    public convenience init(bookmark: Data, renewed: (Data) -> Void = { _ in }) throws {
        let (scope, fresh) = try SecurityScope.resolving(bookmark)
        try self.init(scope.url.path, scope: scope)
        if let fresh { renewed(fresh) }
    }
    #endif

    /// The same model with worker threads that are shared: jobs, evaluations and generators that are opened on what is returned
    /// compute on these `threads` (`nil`: the machine's cores), where each would have its own otherwise. A setting
    /// `threads` of another number is an error then.
    ///
    /// - Throws: ``SFTMixError`` where `threads` is not from 1 to 1024.
    public func sharingWorkers(_ threads: UInt64? = nil) throws -> Model {
        Model(try mapped { try core.shareWorkers(threads: threads) }, scope: scope)
    }

    private init(_ core: SFTMixFFI.Model, scope: SecurityScope?) {
        self.core = core
        self.scope = scope
    }

    /// Where it lies.
    public var path: String { core.path() }
}
