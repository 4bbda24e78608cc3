// swift-tools-version: 6.0
import PackageDescription

let package = Package(
    name: "finetune",
    platforms: [.macOS(.v13)],
    // Made by bindings/swift/build.sh.
    dependencies: [.package(path: "../../target/swift/SFTMix")],
    targets: [.executableTarget(name: "finetune", dependencies: [.product(name: "SFTMix", package: "SFTMix")])],
    swiftLanguageModes: [.v6]
)
