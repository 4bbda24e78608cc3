// What the suite needs a process of its own for.
import Foundation
import SFTMix

func given(_ out: String) throws -> TrainSettings {
    let text = ProcessInfo.processInfo.environment["SFTMIX_SETTINGS"] ?? "{}"
    var settings = try JSONDecoder().decode(TrainSettings.self, from: Data(text.utf8))
    settings.out = out
    return settings
}

func residentAnonymous() throws -> Int {
    let text = try String(contentsOfFile: "/proc/self/status", encoding: .utf8)
    let line = text.split(separator: "\n").first { $0.hasPrefix("RssAnon") }!
    return Int(line.split(whereSeparator: { !$0.isNumber }).first!)! * 1024
}

func cycle(_ out: String) async throws {
    var settings = try given(out)
    let model = try Model(settings.model!)
    settings.model = nil
    let job = try TrainingJob(settings, model: model, onEvent: { _ in true })
    try await job.run()
    try await job.close()
}

let (mode, out) = (CommandLine.arguments[1], CommandLine.arguments[2])
switch mode {
case "cycles":
    for number in 1...200 {
        try await cycle(out + String(number))
        if number == 20 || number == 200 { print(try residentAnonymous()) }
    }
case "killed":
    for try await event in try TrainingJob(given(out)) {
        if case .step(let step) = event, step.globalStep == 5 { kill(getpid(), SIGKILL) }
    }
default:
    fatalError("no such mode: \(mode)")
}
