// Made by scripts/schema.py of src/config; change those.

import SFTMixFFI

/// Settings of a run, by their names on the command line and in settings files. What is left out has its default; in a run
/// that is taken up, the run's own value. As JSON they have the form of `run.json`.
public struct TrainSettings: Codable, Equatable, Sendable {
    /// Hugging Face model folder (`config.json`, `tokenizer.json`, safetensors), or a GGUF file; or `org/name[@revision]`, a
    /// model of the local Hugging Face cache. A run records where it lies.
    public var model: String?
    /// Training rows: a file of JSONL, a JSON array, CSV, TSV or Parquet (feature `tables`), a folder with `train.jsonl` or
    /// of texts; several with weights.
    public var data: TrainData?
    /// Run folder; must not hold a run.
    public var out: String?
    /// Held-out rows, of the same shape; `nil` takes `valid.jsonl` where `data` is a folder that has one.
    public var valid: String?
    /// Share of the rows of `data` that is held out instead, 0 < s < 1: round(s · rows) of them, which ones by `seed`. Not
    /// with `valid`.
    public var validSplit: Double?
    /// What to compute. One of: sftmix, ntp. Default: "sftmix".
    public var recipe: String?
    /// Weight μ of the Mixup term, ≥ 0. Default: 0.2.
    public var mu: Double?
    /// λ ~ Beta(α, α), α > 0. Default: 0.5.
    public var mixAlpha: Double?
    /// How Mixup terms are averaged. One of: token, pair. Default: "token".
    public var mixReduction: String?
    /// Where the dynamics come from. Default: "sweep".
    public var dynamics: String?
    /// Epochs of the reference run, ≥ 1. Default: 1.
    public var referenceEpochs: UInt64?
    /// Checkpoints of the reference run that are scored, ≥ 1: evenly spaced over its steps, the last at its end. As many as
    /// there are `reference_epochs` lie at the ends of those. The paper does not publish their number and spacing. Default:
    /// 4.
    public var referenceCheckpoints: UInt64?
    /// What confidence is minus the mean of. One of: perplexity, nll. Default: "perplexity".
    public var confidence: String?
    /// Passes over the data, ≥ 1. Default: 3.
    public var epochs: UInt64?
    /// Stop each stage after so many optimizer steps; the schedule runs over these.
    public var maxSteps: UInt64?
    /// Rows per optimizer step; even for SFTMix (half of them confident). Default: 8.
    public var batchSize: UInt64?
    /// Rows whose blocks run together, ≥ 1; `nil` chooses from `batch_size` and `max_length`.
    public var microBatch: UInt64?
    /// Longest row in tokens, ≥ 2. Default: 1024.
    public var maxLength: UInt64?
    /// The learning rate of B (and of DoRA's magnitudes) is `lr` times this, ≥ 1 as a rule (LoRA+). `weight_decay` decays A
    /// at the rate `lr` and B at its own: it is `loraplus_weight_decay` of PEFT's `create_loraplus_optimizer`, which is 0
    /// there unless it is given.
    public var loraplusLrRatio: Double?
    /// Noise on the embeddings in training, uniform in ±α/√(tokens of the row · hidden size) (NEFTune).
    public var neftuneNoiseAlpha: Double?
    /// Start every stage from this PEFT adapter instead of a fresh one. What `lora` says must be what it has, but for
    /// `lora_dropout`.
    public var initAdapter: String?
    /// Take `init_adapter` whatever base its `sftmix.json` names. Default: false.
    public var forceBase: Bool?
    /// Peak learning rate. Default: 0.0002.
    public var lr: Double?
    /// Learning rate after warm-up. One of: cosine, linear, constant. Default: "cosine".
    public var schedule: String?
    /// Share of the steps in which the rate rises from 0, 0 ≤ w ≤ 1. Default: 0.1.
    public var warmupRatio: Double?
    /// Decoupled weight decay of every trained number, at its own learning rate; also with LoRA+. Default: 0.01.
    public var weightDecay: Double?
    /// AdamW's β₁, β₂. Default: [0.9, 0.999].
    public var adamBetas: [Double]?
    /// AdamW's ε. Default: 1e-08.
    public var adamEps: Double?
    /// Largest global gradient norm; 0 switches clipping off. Default: 1.0.
    public var clip: Double?
    /// Seed of everything that is drawn. Default: 0.
    public var seed: UInt64?
    /// Where to compute. A run may be resumed on another device. Default: "auto".
    public var device: String?
    /// Worker threads; `nil` takes the machine's cores.
    public var threads: UInt64?
    /// Keep activations or run blocks twice. One of: auto, on, off. Default: "auto".
    public var recompute: String?
    /// Bytes that the library may hold at most, mapped weights not counted. It decides how rows are cut and what is kept,
    /// never what is computed; `nil` takes what a workstation has to spare.
    public var memoryLimit: UInt64?
    /// Bytes that the process may have resident in all, mapped weights counted: those of blocks that have run are given up
    /// and read again. `nil` leaves mapped weights to the system.
    public var residentLimit: UInt64?
    /// Evaluate on `valid` every so many steps as well as after each epoch.
    public var evalEvery: UInt64?
    /// Stop once so many evaluations in a row have not improved on the best held-out loss. The reference run and the plain
    /// epoch of dynamics `single` have none that count.
    public var earlyStoppingPatience: UInt64?
    /// By how much the held-out loss must fall to count as improved, nats. Default: 0.0.
    public var earlyStoppingThreshold: Double?
    /// Keep the checkpoint of the best held-out loss beyond `keep`, and end with its adapter. Default: false.
    public var keepBest: Bool?
    /// Write a checkpoint every so many steps, ≥ 1. Default: 100.
    public var saveEvery: UInt64?
    /// How many checkpoints stay, ≥ 1. Default: 2.
    public var keep: UInt64?
    /// Where token stores and hashes are kept; `nil` takes `<out>/cache`.
    public var cacheDir: String?
    /// Rank, ≥ 1; `lora_r` in settings. Default: 16.
    public var loraR: UInt64?
    /// The update is scaled by `lora_alpha / r`. Default: 32.0.
    public var loraAlpha: Double?
    /// Dropout on the adapter's input, 0 ≤ p < 1, in training only. Default: 0.0.
    public var loraDropout: Double?
    /// Scale by `lora_alpha / √r` instead. Default: false.
    public var useRslora: Bool?
    /// Learn the length of each row of the adapted weight apart from its direction (DoRA). Default: false.
    public var useDora: Bool?
    /// Which linears. Default: "all-linear".
    public var targetModules: TargetModules?
    /// Blocks whose linears are adapted; `nil` is all.
    public var layersToTransform: [UInt64]?
    /// Ranks that differ from `r`. Default: {}.
    public var rankPattern: [String: UInt64]?
    /// Alphas that differ from `lora_alpha`. Default: {}.
    public var alphaPattern: [String: Double]?
    /// Shape of the rows; `nil` takes it from the first row. One of: text, prompt-completion, alpaca, messages, sharegpt,
    /// columns.
    public var dataFormat: String?
    /// Column of the prompt (with `response_field`).
    public var promptField: String?
    /// Column of the response (with `prompt_field`).
    public var responseField: String?
    /// Column of the text, instead of `text`.
    public var textField: String?
    /// The prompt with `{column}` in place of values, e.g. `Question: {question}\nAnswer: `.
    public var promptTemplate: String?
    /// Column of the turns of a conversation, instead of `messages` or `conversations`.
    public var messagesField: String?
    /// File with the chat template that conversations are written with, instead of the model's own.
    public var chatTemplate: String?
    /// Further variables of the chat template, such as `enable_thinking`.
    public var chatTemplateKwargs: [String: JSONValue]?
    /// What a conversation may have that its template leaves out: keys, as `reasoning_content`, `tools` or `documents`, and
    /// roles whose texts it may leave out. A part of a trained answer is not to be left out. Default: [].
    public var templateDrops: TargetModules?
    /// What becomes of a row that is no example. One of: error, skip. Default: "error".
    public var badRows: String?

    /// Settings of which those that are given differ from the defaults.
    public init(
        model: String? = nil, data: TrainData? = nil, out: String? = nil, valid: String? = nil, validSplit: Double? = nil,
        recipe: String? = nil, mu: Double? = nil, mixAlpha: Double? = nil, mixReduction: String? = nil,
        dynamics: String? = nil, referenceEpochs: UInt64? = nil, referenceCheckpoints: UInt64? = nil,
        confidence: String? = nil, epochs: UInt64? = nil, maxSteps: UInt64? = nil, batchSize: UInt64? = nil,
        microBatch: UInt64? = nil, maxLength: UInt64? = nil, loraplusLrRatio: Double? = nil,
        neftuneNoiseAlpha: Double? = nil, initAdapter: String? = nil, forceBase: Bool? = nil, lr: Double? = nil,
        schedule: String? = nil, warmupRatio: Double? = nil, weightDecay: Double? = nil, adamBetas: [Double]? = nil,
        adamEps: Double? = nil, clip: Double? = nil, seed: UInt64? = nil, device: String? = nil, threads: UInt64? = nil,
        recompute: String? = nil, memoryLimit: UInt64? = nil, residentLimit: UInt64? = nil, evalEvery: UInt64? = nil,
        earlyStoppingPatience: UInt64? = nil, earlyStoppingThreshold: Double? = nil, keepBest: Bool? = nil,
        saveEvery: UInt64? = nil, keep: UInt64? = nil, cacheDir: String? = nil, loraR: UInt64? = nil,
        loraAlpha: Double? = nil, loraDropout: Double? = nil, useRslora: Bool? = nil, useDora: Bool? = nil,
        targetModules: TargetModules? = nil, layersToTransform: [UInt64]? = nil, rankPattern: [String: UInt64]? = nil,
        alphaPattern: [String: Double]? = nil, dataFormat: String? = nil, promptField: String? = nil,
        responseField: String? = nil, textField: String? = nil, promptTemplate: String? = nil, messagesField: String? = nil,
        chatTemplate: String? = nil, chatTemplateKwargs: [String: JSONValue]? = nil, templateDrops: TargetModules? = nil,
        badRows: String? = nil
    ) {
        self.model = model
        self.data = data
        self.out = out
        self.valid = valid
        self.validSplit = validSplit
        self.recipe = recipe
        self.mu = mu
        self.mixAlpha = mixAlpha
        self.mixReduction = mixReduction
        self.dynamics = dynamics
        self.referenceEpochs = referenceEpochs
        self.referenceCheckpoints = referenceCheckpoints
        self.confidence = confidence
        self.epochs = epochs
        self.maxSteps = maxSteps
        self.batchSize = batchSize
        self.microBatch = microBatch
        self.maxLength = maxLength
        self.loraplusLrRatio = loraplusLrRatio
        self.neftuneNoiseAlpha = neftuneNoiseAlpha
        self.initAdapter = initAdapter
        self.forceBase = forceBase
        self.lr = lr
        self.schedule = schedule
        self.warmupRatio = warmupRatio
        self.weightDecay = weightDecay
        self.adamBetas = adamBetas
        self.adamEps = adamEps
        self.clip = clip
        self.seed = seed
        self.device = device
        self.threads = threads
        self.recompute = recompute
        self.memoryLimit = memoryLimit
        self.residentLimit = residentLimit
        self.evalEvery = evalEvery
        self.earlyStoppingPatience = earlyStoppingPatience
        self.earlyStoppingThreshold = earlyStoppingThreshold
        self.keepBest = keepBest
        self.saveEvery = saveEvery
        self.keep = keep
        self.cacheDir = cacheDir
        self.loraR = loraR
        self.loraAlpha = loraAlpha
        self.loraDropout = loraDropout
        self.useRslora = useRslora
        self.useDora = useDora
        self.targetModules = targetModules
        self.layersToTransform = layersToTransform
        self.rankPattern = rankPattern
        self.alphaPattern = alphaPattern
        self.dataFormat = dataFormat
        self.promptField = promptField
        self.responseField = responseField
        self.textField = textField
        self.promptTemplate = promptTemplate
        self.messagesField = messagesField
        self.chatTemplate = chatTemplate
        self.chatTemplateKwargs = chatTemplateKwargs
        self.templateDrops = templateDrops
        self.badRows = badRows
    }

    /// Every setting that has a default, with it.
    public static let defaults = TrainSettings(
        recipe: "sftmix", mu: 0.2, mixAlpha: 0.5, mixReduction: "token", dynamics: "sweep", referenceEpochs: 1,
        referenceCheckpoints: 4, confidence: "perplexity", epochs: 3, batchSize: 8, maxLength: 1024, forceBase: false,
        lr: 0.0002, schedule: "cosine", warmupRatio: 0.1, weightDecay: 0.01, adamBetas: [0.9, 0.999], adamEps: 1e-08,
        clip: 1.0, seed: 0, device: "auto", recompute: "auto", earlyStoppingThreshold: 0.0, keepBest: false, saveEvery: 100,
        keep: 2, loraR: 16, loraAlpha: 32.0, loraDropout: 0.0, useRslora: false, useDora: false, targetModules: "all-linear",
        rankPattern: [:], alphaPattern: [:], templateDrops: [], badRows: "error"
    )
}
