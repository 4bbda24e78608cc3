// A run's whole life: train with SFTMix, watch, pause, cancel and resume, look at the data map, export, generate.
//
//     sftmix demo --write demo && swift run --package-path examples/swift finetune demo run
import Foundation
import SFTMix

let (demo, out) = (CommandLine.arguments[1], CommandLine.arguments[2])
let model = try Model(demo + "/model")

let settings = TrainSettings(
    data: TrainData(path: demo + "/train.jsonl"), out: out, valid: demo + "/valid.jsonl", epochs: 1, maxSteps: 40,
    batchSize: 32, lr: 1e-3, saveEvery: 10)
let job = try TrainingJob(settings, model: model)
for try await event in job {
    guard case .step(let step) = event else { continue }
    if step.globalStep % 10 == 0 {
        print("step \(step.globalStep) of \(step.totalSteps): loss \(String(format: "%.3f", step.loss))")
    }
    if step.globalStep == 5 {
        try job.pause()  // Behind a checkpoint, within a micro-batch.
        print("paused:", try job.status().state)
        try job.unpause()
    }
    if step.globalStep == 20 { try job.cancel() }
}
do {
    try await job.wait()
} catch let error as SFTMixError {
    print("ended:", error)
}
try await job.close()

// Another process may do this as well: the folder is all that it needs.
let report = try await TrainingJob.resume(out).run()
print("\(report.steps) steps, held-out loss", report.baseEvalLoss ?? 0, "->", report.evalLoss ?? 0)

for row in try DataMap(out).rows(MapQuery(limit: 10, withText: true)) {
    print("row \(row.row): confidence \(String(format: "%.2f", row.confidence)): \(row.response ?? "")")
}

for exported in try await export(out, formats: ["peft", "gguf", "mlx"], out: out + "/exports") {
    print(exported.format, exported.path)
}

let generator = try Generator(model, adapter: report.adapter)
for try await piece in generator.stream("Once upon a time", settings: GenerateSettings(maxNewTokens: 16)) {
    print(piece, terminator: "")
}
print()
