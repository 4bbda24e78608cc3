// What the package uses of Apple's interfaces, declared as the system declares it, so that the code behind `canImport` is compiled
// where there is no Mac. Nothing here ever runs.
import Foundation

open class BGTask: NSObject {
    open var identifier: String { fatalError() }
    open var expirationHandler: (() -> Void)?
    open func setTaskCompleted(success: Bool) {}
}

public final class BGProcessingTask: BGTask {}

public final class BGContinuedProcessingTask: BGTask {
    public var progress: Progress { fatalError() }
}

open class BGTaskRequest: NSObject {
    open var earliestBeginDate: Date?
}

open class BGProcessingTaskRequest: BGTaskRequest {
    public init(identifier: String) {}
    open var requiresNetworkConnectivity = false
    open var requiresExternalPower = false
}

open class BGContinuedProcessingTaskRequest: BGTaskRequest {
    public enum SubmissionStrategy { case fail, queue }
    public init(identifier: String, title: String, subtitle: String) {}
    open var strategy = SubmissionStrategy.queue
}

open class BGTaskScheduler: NSObject {
    public class var shared: BGTaskScheduler { fatalError() }
    open func register(
        forTaskWithIdentifier identifier: String, using queue: DispatchQueue?, launchHandler: @escaping (BGTask) -> Void
    ) -> Bool { fatalError() }
    open func submit(_ request: BGTaskRequest) throws {}
    open func cancel(taskRequestWithIdentifier identifier: String) {}
}

extension ProcessInfo {
    public enum ThermalState: Int { case nominal, fair, serious, critical }
    public var thermalState: ThermalState { fatalError() }
    public var isLowPowerModeEnabled: Bool { fatalError() }
}

extension URL {
    public struct BookmarkCreationOptions: OptionSet, Sendable {
        public let rawValue: UInt
        public init(rawValue: UInt) { self.rawValue = rawValue }
        public static let withSecurityScope = BookmarkCreationOptions(rawValue: 1)
    }
    public struct BookmarkResolutionOptions: OptionSet, Sendable {
        public let rawValue: UInt
        public init(rawValue: UInt) { self.rawValue = rawValue }
        public static let withSecurityScope = BookmarkResolutionOptions(rawValue: 1)
    }
    public init(
        resolvingBookmarkData data: Data, options: BookmarkResolutionOptions = [], relativeTo url: URL? = nil,
        bookmarkDataIsStale: inout Bool
    ) throws { fatalError() }
    public func bookmarkData(
        options: BookmarkCreationOptions = [], includingResourceValuesForKeys keys: Set<URLResourceKey>? = nil,
        relativeTo url: URL? = nil
    ) throws -> Data { fatalError() }
    public func startAccessingSecurityScopedResource() -> Bool { fatalError() }
    public func stopAccessingSecurityScopedResource() {}
}
