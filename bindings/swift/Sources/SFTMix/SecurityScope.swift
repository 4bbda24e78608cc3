import Foundation

/// Leave to read, and to write, what lies behind a URL that a user has picked; it ends with the object. Hold one for the data
/// and the run folder of a job, where those lie outside the app's own container; ``Model/init(url:)`` holds its own.
///
/// On systems without a sandbox it does nothing.
public final class SecurityScope: Sendable {
    /// What may be used.
    public let url: URL
    private let entered: Bool

    /// Enters the scope of a URL. One that has none, such as a file of the app's own, may be used all the same.
    public init(_ url: URL) {
        self.url = url
        #if canImport(Darwin)
        entered = url.startAccessingSecurityScopedResource()
        #else
        entered = false
        #endif
    }

    deinit {
        #if canImport(Darwin)
        if entered { url.stopAccessingSecurityScopedResource() }
        #endif
    }

    #if canImport(Darwin)
    #if os(macOS) || targetEnvironment(macCatalyst)
    private static let resolution: URL.BookmarkResolutionOptions = [.withSecurityScope]
    private static let creation: URL.BookmarkCreationOptions = [.withSecurityScope]
    #else
    // On iOS every bookmark of a picked URL carries its scope.
    private static let resolution: URL.BookmarkResolutionOptions = []
    private static let creation: URL.BookmarkCreationOptions = []
    #endif

    /// A bookmark to keep, by which the URL may be used after the app was ended.
    public func bookmark() throws -> Data {
        try url.bookmarkData(options: Self.creation, includingResourceValuesForKeys: nil, relativeTo: nil)
    }

    /// Enters the scope of what a bookmark stands for; with it a new bookmark, where the old one has become stale.
    public static func resolving(_ bookmark: Data) throws -> (scope: SecurityScope, renewed: Data?) {
        var stale = false
        let url = try URL(
            resolvingBookmarkData: bookmark, options: resolution, relativeTo: nil, bookmarkDataIsStale: &stale)
        let scope = SecurityScope(url)
        return (scope, stale ? try scope.bookmark() : nil)
    }
    #endif
}
