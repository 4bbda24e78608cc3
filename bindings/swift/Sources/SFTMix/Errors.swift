import Foundation
import SFTMixFFI

/// What went wrong. `detail` is the whole message, as the command line prints it; the other fields name what is at fault.
public enum SFTMixError: Error, Sendable {
    /// A file could not be read or written.
    case io(detail: String, path: String, reason: String)
    /// A setting is out of range, contradicts another, has no effect, or contradicts the run that is resumed.
    case invalidConfig(detail: String, field: String, reason: String)
    /// The model's architecture, or a fact in its config.json, is not supported.
    case modelNotSupported(detail: String, path: String, reason: String)
    /// A file of the model folder is damaged, or a tensor is absent or of another shape.
    case modelFormat(detail: String, path: String, tensor: String, reason: String)
    /// The tokenizer could not be read or used.
    case tokenizer(detail: String, path: String, reason: String)
    /// A chat template cannot be used, or refuses a conversation.
    case chatTemplate(detail: String, path: String, reason: String)
    /// A row of the data cannot be used; rows are counted from 1.
    case dataInvalid(detail: String, path: String, row: UInt64, reason: String)
    /// No example is left to train on.
    case nothingToTrain(detail: String, reason: String)
    /// A stage ended with every trained number as it began.
    case nothingTrained(detail: String, reason: String)
    /// An adapter folder is damaged or does not fit the model.
    case adapter(detail: String, path: String, reason: String)
    /// An adapter was trained on another base model than the one that it is put on.
    case baseMismatch(detail: String, adapter: String, what: String, trainedOn: String, expected: String, base: String, found: String)
    /// What was written, read again, is not what it was made from.
    case exportMismatch(detail: String, path: String, what: String, difference: Double, bound: Double)
    /// A dynamics log is damaged or does not fit the data.
    case dynamics(detail: String, path: String, reason: String)
    /// A folder holds no dynamics log; `taken_from` is the earlier run that the run took its dynamics from.
    case noDynamics(detail: String, path: String, takenFrom: String?)
    /// A model of this name is not in the local cache; the message says the command that downloads it.
    case modelNotFound(detail: String, name: String, cache: String, reason: String)
    /// A model could not be downloaded. What was fetched of it stays.
    case download(detail: String, url: String, reason: String)
    /// A run folder or checkpoint is damaged or in the way.
    case checkpoint(detail: String, path: String, reason: String)
    /// A loss or gradient stopped being a finite number. The last checkpoint is kept.
    case nonFinite(detail: String, what: String)
    /// It was stopped; a run can be taken up from the checkpoint.
    case stopped(detail: String, checkpoint: String?)
    /// The device that was asked for is not in this build, is absent, or does not work.
    case device(detail: String, device: String, reason: String)
    /// The device has too little memory left.
    case deviceMemory(detail: String)
    /// What was asked for needs more memory than was granted, however it is run; bytes, and what would need less.
    case memoryLimit(detail: String, limit: UInt64, needed: UInt64, savings: [Saving])
    /// A tensor operation failed.
    case tensor(detail: String)
    /// A caller broke what an operation asks for: a job that runs was begun again, an object was used in a forked process.
    case misuse(detail: String)
    /// A thread could not be started, or panicked.
    case threads(detail: String)
    /// A listener or a source of rows failed; `cause` is what it has thrown.
    case callback(detail: String, reason: String, cause: (any Error)?)
    /// An error that this version of the binding does not know.
    case other(detail: String)

    /// The whole message.
    public var detail: String {
        switch self {
        case .io(let detail, _, _), .invalidConfig(let detail, _, _), .modelNotSupported(let detail, _, _),
            .modelFormat(let detail, _, _, _), .tokenizer(let detail, _, _), .chatTemplate(let detail, _, _),
            .dataInvalid(let detail, _, _, _), .nothingToTrain(let detail, _), .nothingTrained(let detail, _),
            .adapter(let detail, _, _), .baseMismatch(let detail, _, _, _, _, _, _),
            .exportMismatch(let detail, _, _, _, _), .dynamics(let detail, _, _), .noDynamics(let detail, _, _),
            .modelNotFound(let detail, _, _, _), .download(let detail, _, _), .checkpoint(let detail, _, _),
            .nonFinite(let detail, _), .stopped(let detail, _), .device(let detail, _, _), .deviceMemory(let detail),
            .memoryLimit(let detail, _, _, _), .tensor(let detail), .misuse(let detail), .threads(let detail),
            .callback(let detail, _, _), .other(let detail):
            return detail
        }
    }

    init(_ error: SftmixError, cause: (any Error)? = nil) {
        switch error {
        case let .Io(detail, path, reason):
            self = .io(detail: detail, path: path, reason: reason)
        case let .InvalidConfig(detail, field, reason):
            self = .invalidConfig(detail: detail, field: field, reason: reason)
        case let .ModelNotSupported(detail, path, reason):
            self = .modelNotSupported(detail: detail, path: path, reason: reason)
        case let .ModelFormat(detail, path, tensor, reason):
            self = .modelFormat(detail: detail, path: path, tensor: tensor, reason: reason)
        case let .Tokenizer(detail, path, reason):
            self = .tokenizer(detail: detail, path: path, reason: reason)
        case let .ChatTemplate(detail, path, reason):
            self = .chatTemplate(detail: detail, path: path, reason: reason)
        case let .DataInvalid(detail, path, row, reason):
            self = .dataInvalid(detail: detail, path: path, row: row, reason: reason)
        case let .NothingToTrain(detail, reason):
            self = .nothingToTrain(detail: detail, reason: reason)
        case let .NothingTrained(detail, reason):
            self = .nothingTrained(detail: detail, reason: reason)
        case let .Adapter(detail, path, reason):
            self = .adapter(detail: detail, path: path, reason: reason)
        case let .BaseMismatch(detail, adapter, what, trainedOn, expected, base, found):
            self = .baseMismatch(detail: detail, adapter: adapter, what: what, trainedOn: trainedOn, expected: expected, base: base, found: found)
        case let .ExportMismatch(detail, path, what, difference, bound):
            self = .exportMismatch(detail: detail, path: path, what: what, difference: difference, bound: bound)
        case let .Dynamics(detail, path, reason):
            self = .dynamics(detail: detail, path: path, reason: reason)
        case let .NoDynamics(detail, path, takenFrom):
            self = .noDynamics(detail: detail, path: path, takenFrom: takenFrom)
        case let .ModelNotFound(detail, name, cache, reason):
            self = .modelNotFound(detail: detail, name: name, cache: cache, reason: reason)
        case let .Download(detail, url, reason):
            self = .download(detail: detail, url: url, reason: reason)
        case let .Checkpoint(detail, path, reason):
            self = .checkpoint(detail: detail, path: path, reason: reason)
        case let .NonFinite(detail, what):
            self = .nonFinite(detail: detail, what: what)
        case let .Stopped(detail, checkpoint):
            self = .stopped(detail: detail, checkpoint: checkpoint)
        case let .Device(detail, device, reason):
            self = .device(detail: detail, device: device, reason: reason)
        case let .DeviceMemory(detail):
            self = .deviceMemory(detail: detail)
        case let .MemoryLimit(detail, limit, needed, savings):
            self = .memoryLimit(detail: detail, limit: limit, needed: needed, savings: savings)
        case let .Tensor(detail):
            self = .tensor(detail: detail)
        case let .Misuse(detail):
            self = .misuse(detail: detail)
        case let .Threads(detail):
            self = .threads(detail: detail)
        case let .Callback(detail, reason):
            self = .callback(detail: detail, reason: reason, cause: cause)
        case let .Other(detail):
            self = .other(detail: detail)
        }
    }
}

extension SFTMixError: LocalizedError, CustomStringConvertible {
    /// The whole message.
    public var description: String { detail }
    /// The whole message.
    public var errorDescription: String? { detail }
}

/// Does what calls the library, so that its errors are those of this module.
func mapped<T>(_ cause: Cause? = nil, _ work: () throws -> T) throws -> T {
    do {
        return try work()
    } catch let error as SftmixError {
        throw SFTMixError(error, cause: cause?.take(error))
    } catch let error as SFTMixError {
        throw error
    } catch {
        // A panic of the library, which its own door turns into an error of no kind.
        throw SFTMixError.other(detail: (error as? any LocalizedError)?.errorDescription ?? String(describing: error))
    }
}
