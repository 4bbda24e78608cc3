// swift-tools-version: 6.0
import PackageDescription

// A package as a user has it: it depends on the built one by path. test.sh puts the two side by side in a fresh folder, with the
// example and the programs of the documents.
let uses: [Target.Dependency] = [.product(name: "SFTMix", package: "SFTMix")]
let package = Package(
    name: "Consumer",
    platforms: [.macOS(.v13)],
    dependencies: [.package(path: "../SFTMix")],
    targets: [
        .executableTarget(name: "helper", dependencies: uses),
        .executableTarget(name: "finetune", dependencies: uses),
        .executableTarget(name: "readme", dependencies: uses),
        .executableTarget(name: "api", dependencies: uses),
        .testTarget(name: "SuiteTests", dependencies: uses, path: "SuiteTests"),
    ],
    swiftLanguageModes: [.v6]
)
