import Foundation
import SFTMixFFI

/// Data files with weights: a path, or a list of paths, or of files with weights.
///
///     let one: TrainData = "rows.jsonl"
///     let two: TrainData = [DataSource(path: "a.jsonl"), DataSource(path: "b.jsonl", weight: 0.5)]
///
/// A path that is no literal: `TrainData(path)`, or `"\(folder)/rows.jsonl"`.
public struct TrainData: Codable, Equatable, Sendable, ExpressibleByStringInterpolation, ExpressibleByArrayLiteral {
    /// The files.
    public var sources: [DataSource]

    /// Several files with weights.
    public init(_ sources: [DataSource]) { self.sources = sources }
    /// One file or folder.
    public init(path: String) { sources = [DataSource(path: path)] }
    /// One file or folder.
    public init(_ path: String) { self.init(path: path) }
    public init(stringLiteral path: String) { self.init(path: path) }
    public init(arrayLiteral sources: DataSource...) { self.init(sources) }

    private struct Weighted: Codable {
        let path: String
        let weight: Double
    }

    /// As settings files have it: a path, or a list of paths and of `{path, weight}`.
    public init(from decoder: any Decoder) throws {
        if let path = try? decoder.singleValueContainer().decode(String.self) {
            self.init(path.isEmpty ? [] : [DataSource(path: path)])
            return
        }
        var list = try decoder.unkeyedContainer()
        self.init([])
        while !list.isAtEnd {
            if let path = try? list.decode(String.self) {
                sources.append(DataSource(path: path))
            } else {
                let found = try list.decode(Weighted.self)
                sources.append(DataSource(path: found.path, weight: found.weight))
            }
        }
    }

    public func encode(to encoder: any Encoder) throws {
        if sources.isEmpty || sources.count == 1 && sources[0].weight == 1 {
            var one = encoder.singleValueContainer()
            try one.encode(sources.first?.path ?? "")
            return
        }
        var list = encoder.unkeyedContainer()
        for source in sources {
            if source.weight == 1 {
                try list.encode(source.path)
            } else {
                try list.encode(Weighted(path: source.path, weight: source.weight))
            }
        }
    }
}

extension DataSource: ExpressibleByStringInterpolation {
    /// A file that an epoch has once.
    public init(stringLiteral path: String) { self.init(path: path) }
}

/// Which linears are adapted: `"all-linear"`, names separated by commas, or a list of names.
public struct TargetModules: Codable, Equatable, Sendable, ExpressibleByStringLiteral, ExpressibleByArrayLiteral {
    /// Ends of module paths; `all-linear` alone is every linear of every block.
    public var names: [String]

    /// Those whose module path ends in one of these names.
    public init(_ names: [String]) { self.names = names }
    public init(stringLiteral text: String) {
        names = text.split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }.filter { !$0.isEmpty }
    }
    public init(arrayLiteral names: String...) { self.init(names) }

    public init(from decoder: any Decoder) throws {
        let value = try decoder.singleValueContainer()
        if let text = try? value.decode(String.self) {
            self.init(stringLiteral: text)
        } else {
            self.init(try value.decode([String].self))
        }
    }

    public func encode(to encoder: any Encoder) throws {
        var value = encoder.singleValueContainer()
        if names == ["all-linear"] {
            try value.encode("all-linear")
        } else {
            try value.encode(names)
        }
    }
}

/// A value as JSON has it, for what a chat template reads.
public enum JSONValue: Codable, Equatable, Sendable {
    case null
    case bool(Bool)
    case integer(Int64)
    case number(Double)
    case string(String)
    case array([JSONValue])
    case object([String: JSONValue])

    public init(from decoder: any Decoder) throws {
        let value = try decoder.singleValueContainer()
        if value.decodeNil() {
            self = .null
        } else if let found = try? value.decode(Bool.self) {
            self = .bool(found)
        } else if let found = try? value.decode(Int64.self) {
            self = .integer(found)
        } else if let found = try? value.decode(Double.self) {
            self = .number(found)
        } else if let found = try? value.decode(String.self) {
            self = .string(found)
        } else if let found = try? value.decode([JSONValue].self) {
            self = .array(found)
        } else {
            self = .object(try value.decode([String: JSONValue].self))
        }
    }

    public func encode(to encoder: any Encoder) throws {
        var value = encoder.singleValueContainer()
        switch self {
        case .null: try value.encodeNil()
        case .bool(let found): try value.encode(found)
        case .integer(let found): try value.encode(found)
        case .number(let found): try value.encode(found)
        case .string(let found): try value.encode(found)
        case .array(let found): try value.encode(found)
        case .object(let found): try value.encode(found)
        }
    }
}

extension JSONValue: ExpressibleByStringLiteral, ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral,
    ExpressibleByBooleanLiteral, ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral, ExpressibleByNilLiteral
{
    public init(stringLiteral value: String) { self = .string(value) }
    public init(integerLiteral value: Int64) { self = .integer(value) }
    public init(floatLiteral value: Double) { self = .number(value) }
    public init(booleanLiteral value: Bool) { self = .bool(value) }
    public init(arrayLiteral values: JSONValue...) { self = .array(values) }
    public init(dictionaryLiteral pairs: (String, JSONValue)...) {
        self = .object(Dictionary(pairs, uniquingKeysWith: { _, last in last }))
    }
    public init(nilLiteral: ()) { self = .null }
}

extension Encodable {
    /// As one line of JSON.
    func json() throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(self), as: UTF8.self)
    }
}

private struct AnyKey: CodingKey {
    let stringValue: String
    var intValue: Int? { nil }
    init?(stringValue: String) { self.stringValue = stringValue }
    init?(intValue: Int) { nil }
}

/// Throws where the object has a key that none of these is.
func refuseUnknown<Key: CodingKey>(_ keys: Key.Type, in decoder: any Decoder) throws {
    let all = try decoder.container(keyedBy: AnyKey.self)
    if let slip = all.allKeys.first(where: { Key(stringValue: $0.stringValue) == nil }) {
        let reason = "there is no setting \(slip.stringValue)"
        throw DecodingError.dataCorrupted(.init(codingPath: decoder.codingPath + [slip], debugDescription: reason))
    }
}
