// Made by scripts/schema.py of src/config; change those.

import SFTMixFFI

extension TrainSettings {
    enum CodingKeys: String, CodingKey, CaseIterable {
        case model
        case data
        case out
        case valid
        case validSplit = "valid_split"
        case recipe
        case mu
        case mixAlpha = "mix_alpha"
        case mixReduction = "mix_reduction"
        case dynamics
        case referenceEpochs = "reference_epochs"
        case referenceCheckpoints = "reference_checkpoints"
        case confidence
        case epochs
        case maxSteps = "max_steps"
        case batchSize = "batch_size"
        case microBatch = "micro_batch"
        case maxLength = "max_length"
        case loraplusLrRatio = "loraplus_lr_ratio"
        case neftuneNoiseAlpha = "neftune_noise_alpha"
        case initAdapter = "init_adapter"
        case forceBase = "force_base"
        case lr
        case schedule
        case warmupRatio = "warmup_ratio"
        case weightDecay = "weight_decay"
        case adamBetas = "adam_betas"
        case adamEps = "adam_eps"
        case clip
        case seed
        case device
        case threads
        case recompute
        case memoryLimit = "memory_limit"
        case residentLimit = "resident_limit"
        case evalEvery = "eval_every"
        case earlyStoppingPatience = "early_stopping_patience"
        case earlyStoppingThreshold = "early_stopping_threshold"
        case keepBest = "keep_best"
        case saveEvery = "save_every"
        case keep
        case cacheDir = "cache_dir"
        case loraR = "lora_r"
        case loraAlpha = "lora_alpha"
        case loraDropout = "lora_dropout"
        case useRslora = "use_rslora"
        case useDora = "use_dora"
        case targetModules = "target_modules"
        case layersToTransform = "layers_to_transform"
        case rankPattern = "rank_pattern"
        case alphaPattern = "alpha_pattern"
        case dataFormat = "data_format"
        case promptField = "prompt_field"
        case responseField = "response_field"
        case textField = "text_field"
        case promptTemplate = "prompt_template"
        case messagesField = "messages_field"
        case chatTemplate = "chat_template"
        case chatTemplateKwargs = "chat_template_kwargs"
        case templateDrops = "template_drops"
        case badRows = "bad_rows"
    }

    /// Settings as `run.json` has them; a name that there is not is an error.
    public init(from decoder: any Decoder) throws {
        try refuseUnknown(CodingKeys.self, in: decoder)
        let at = try decoder.container(keyedBy: CodingKeys.self)
        model = try at.decodeIfPresent(String.self, forKey: .model)
        data = try at.decodeIfPresent(TrainData.self, forKey: .data)
        out = try at.decodeIfPresent(String.self, forKey: .out)
        valid = try at.decodeIfPresent(String.self, forKey: .valid)
        validSplit = try at.decodeIfPresent(Double.self, forKey: .validSplit)
        recipe = try at.decodeIfPresent(String.self, forKey: .recipe)
        mu = try at.decodeIfPresent(Double.self, forKey: .mu)
        mixAlpha = try at.decodeIfPresent(Double.self, forKey: .mixAlpha)
        mixReduction = try at.decodeIfPresent(String.self, forKey: .mixReduction)
        dynamics = try at.decodeIfPresent(String.self, forKey: .dynamics)
        referenceEpochs = try at.decodeIfPresent(UInt64.self, forKey: .referenceEpochs)
        referenceCheckpoints = try at.decodeIfPresent(UInt64.self, forKey: .referenceCheckpoints)
        confidence = try at.decodeIfPresent(String.self, forKey: .confidence)
        epochs = try at.decodeIfPresent(UInt64.self, forKey: .epochs)
        maxSteps = try at.decodeIfPresent(UInt64.self, forKey: .maxSteps)
        batchSize = try at.decodeIfPresent(UInt64.self, forKey: .batchSize)
        microBatch = try at.decodeIfPresent(UInt64.self, forKey: .microBatch)
        maxLength = try at.decodeIfPresent(UInt64.self, forKey: .maxLength)
        loraplusLrRatio = try at.decodeIfPresent(Double.self, forKey: .loraplusLrRatio)
        neftuneNoiseAlpha = try at.decodeIfPresent(Double.self, forKey: .neftuneNoiseAlpha)
        initAdapter = try at.decodeIfPresent(String.self, forKey: .initAdapter)
        forceBase = try at.decodeIfPresent(Bool.self, forKey: .forceBase)
        lr = try at.decodeIfPresent(Double.self, forKey: .lr)
        schedule = try at.decodeIfPresent(String.self, forKey: .schedule)
        warmupRatio = try at.decodeIfPresent(Double.self, forKey: .warmupRatio)
        weightDecay = try at.decodeIfPresent(Double.self, forKey: .weightDecay)
        adamBetas = try at.decodeIfPresent([Double].self, forKey: .adamBetas)
        adamEps = try at.decodeIfPresent(Double.self, forKey: .adamEps)
        clip = try at.decodeIfPresent(Double.self, forKey: .clip)
        seed = try at.decodeIfPresent(UInt64.self, forKey: .seed)
        device = try at.decodeIfPresent(String.self, forKey: .device)
        threads = try at.decodeIfPresent(UInt64.self, forKey: .threads)
        recompute = try at.decodeIfPresent(String.self, forKey: .recompute)
        memoryLimit = try at.decodeIfPresent(UInt64.self, forKey: .memoryLimit)
        residentLimit = try at.decodeIfPresent(UInt64.self, forKey: .residentLimit)
        evalEvery = try at.decodeIfPresent(UInt64.self, forKey: .evalEvery)
        earlyStoppingPatience = try at.decodeIfPresent(UInt64.self, forKey: .earlyStoppingPatience)
        earlyStoppingThreshold = try at.decodeIfPresent(Double.self, forKey: .earlyStoppingThreshold)
        keepBest = try at.decodeIfPresent(Bool.self, forKey: .keepBest)
        saveEvery = try at.decodeIfPresent(UInt64.self, forKey: .saveEvery)
        keep = try at.decodeIfPresent(UInt64.self, forKey: .keep)
        cacheDir = try at.decodeIfPresent(String.self, forKey: .cacheDir)
        loraR = try at.decodeIfPresent(UInt64.self, forKey: .loraR)
        loraAlpha = try at.decodeIfPresent(Double.self, forKey: .loraAlpha)
        loraDropout = try at.decodeIfPresent(Double.self, forKey: .loraDropout)
        useRslora = try at.decodeIfPresent(Bool.self, forKey: .useRslora)
        useDora = try at.decodeIfPresent(Bool.self, forKey: .useDora)
        targetModules = try at.decodeIfPresent(TargetModules.self, forKey: .targetModules)
        layersToTransform = try at.decodeIfPresent([UInt64].self, forKey: .layersToTransform)
        rankPattern = try at.decodeIfPresent([String: UInt64].self, forKey: .rankPattern)
        alphaPattern = try at.decodeIfPresent([String: Double].self, forKey: .alphaPattern)
        dataFormat = try at.decodeIfPresent(String.self, forKey: .dataFormat)
        promptField = try at.decodeIfPresent(String.self, forKey: .promptField)
        responseField = try at.decodeIfPresent(String.self, forKey: .responseField)
        textField = try at.decodeIfPresent(String.self, forKey: .textField)
        promptTemplate = try at.decodeIfPresent(String.self, forKey: .promptTemplate)
        messagesField = try at.decodeIfPresent(String.self, forKey: .messagesField)
        chatTemplate = try at.decodeIfPresent(String.self, forKey: .chatTemplate)
        chatTemplateKwargs = try at.decodeIfPresent([String: JSONValue].self, forKey: .chatTemplateKwargs)
        templateDrops = try at.decodeIfPresent(TargetModules.self, forKey: .templateDrops)
        badRows = try at.decodeIfPresent(String.self, forKey: .badRows)
    }

    /// As they cross to the library.
    func core() throws -> SFTMixFFI.TrainSettings {
        SFTMixFFI.TrainSettings(
            model: model, data: data?.sources, out: out, valid: valid, validSplit: validSplit, recipe: recipe, mu: mu,
            mixAlpha: mixAlpha, mixReduction: mixReduction, dynamics: dynamics, referenceEpochs: referenceEpochs,
            referenceCheckpoints: referenceCheckpoints, confidence: confidence, epochs: epochs, maxSteps: maxSteps,
            batchSize: batchSize, microBatch: microBatch, maxLength: maxLength, loraplusLrRatio: loraplusLrRatio,
            neftuneNoiseAlpha: neftuneNoiseAlpha, initAdapter: initAdapter, forceBase: forceBase, lr: lr, schedule: schedule,
            warmupRatio: warmupRatio, weightDecay: weightDecay, adamBetas: adamBetas, adamEps: adamEps, clip: clip,
            seed: seed, device: device, threads: threads, recompute: recompute, memoryLimit: memoryLimit,
            residentLimit: residentLimit, evalEvery: evalEvery, earlyStoppingPatience: earlyStoppingPatience,
            earlyStoppingThreshold: earlyStoppingThreshold, keepBest: keepBest, saveEvery: saveEvery, keep: keep,
            cacheDir: cacheDir, loraR: loraR, loraAlpha: loraAlpha, loraDropout: loraDropout, useRslora: useRslora,
            useDora: useDora, targetModules: targetModules?.names, layersToTransform: layersToTransform,
            rankPattern: rankPattern, alphaPattern: alphaPattern, dataFormat: dataFormat, promptField: promptField,
            responseField: responseField, textField: textField, promptTemplate: promptTemplate, messagesField: messagesField,
            chatTemplate: chatTemplate, chatTemplateKwargs: try chatTemplateKwargs?.json(),
            templateDrops: targetModules?.names, badRows: badRows
        )
    }
}
