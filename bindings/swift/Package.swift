// swift-tools-version: 6.0
import PackageDescription

// The library lies beside this file: on Apple's systems as an XCFramework of static libraries (xcframework.sh), on Linux as a
// folder of the same contents (build.sh). A release names the XCFramework by url and checksum instead.
#if os(Linux)
let artefact = Context.packageDirectory + "/SFTMixCore.artefact"
let library: Target = .systemLibrary(name: "SFTMixCore", path: "SFTMixCore.artefact")
// SwiftPM takes such flags from a package that is depended upon by path, as this one is on Linux, and not by version.
let linking: [LinkerSetting] = [
    .unsafeFlags(["-L", artefact + "/lib", "-Xlinker", "-rpath", "-Xlinker", artefact + "/lib"])
]
let resources: [Resource] = []
let left = ["PrivacyInfo.xcprivacy"]
#else
let library: Target = .binaryTarget(name: "SFTMixCore", path: "SFTMixCore.xcframework")
let linking: [LinkerSetting] = [.linkedLibrary("c++")]
let resources: [Resource] = [.copy("PrivacyInfo.xcprivacy")]
let left: [String] = []
#endif

let package = Package(
    name: "SFTMix",
    platforms: [.macOS(.v13), .iOS(.v16)],
    products: [.library(name: "SFTMix", targets: ["SFTMix"])],
    targets: [
        library,
        // Made by build.sh of the library itself.
        .target(name: "SFTMixFFI", dependencies: ["SFTMixCore"], linkerSettings: linking),
        .target(name: "SFTMix", dependencies: ["SFTMixFFI"], exclude: left, resources: resources),
    ],
    swiftLanguageModes: [.v6]
)
