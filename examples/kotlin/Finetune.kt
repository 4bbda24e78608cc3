import org.sftmix.*

/**
 * A run's whole life: train with SFTMix, watch, pause, cancel and resume, look at the data map, export, generate.
 *
 *     sftmix demo --write demo && mvn -q -f examples/kotlin compile exec:java -Dexec.args="demo run"
 */
suspend fun main(arguments: Array<String>) {
    val (demo, out) = arguments
    val model = Model("$demo/model")
    val settings = TrainSettings(
        data = files("$demo/train.jsonl"), valid = "$demo/valid.jsonl", out = out, epochs = 1u, batchSize = 32u, lr = 1e-3,
        maxSteps = 40u, saveEvery = 10u,
    )

    TrainingJob(settings, model).use { job ->
        job.train().collect { event ->
            val step = (event as? Event.Step)?.step ?: return@collect
            if (step.globalStep % 10u == 0uL) println("step ${step.globalStep} of ${step.totalSteps}: loss ${"%.3f".format(step.loss)}")
            if (step.globalStep == 5uL) {
                job.pause()                   // Behind a checkpoint, within a micro-batch.
                println("paused: ${job.status.state}")
                job.unpause()
            }
            if (step.globalStep == 20uL) job.cancel()
        }
        try {
            job.wait()
        } catch (e: SftmixException) {
            println("ended: ${e.message}")
        }
    }

    // Another process may do this as well: the folder is all that it needs.
    val report = TrainingJob.resume(out, model = model).use { it.run() }
    println("${report.steps} steps, held-out loss ${"%.3f -> %.3f".format(report.baseEvalLoss, report.evalLoss)}")

    DataMap(out).use { map ->
        for (row in map.rows(limit = 10u, withText = true))
            println("row ${row.row}: confidence ${"%.2f".format(row.confidence)}: ${row.response}")
    }

    for (exported in export(out, formats = listOf("peft", "gguf", "mlx"), out = "$out/exports"))
        println("${exported.format} ${exported.path}")

    Generator(model, report.adapter).use { generator ->
        generator.stream("Once upon a time", GenerateSettings(maxNewTokens = 16u)).collect { print(it) }
    }
    println()
    model.close()
}
