"""A run's whole life: train with SFTMix, watch, pause, cancel and resume, look at the data map, export, generate.

    sftmix demo --write demo && python finetune.py demo run
"""
import pathlib
import sys

import sftmix

demo, out = (pathlib.Path(p) for p in sys.argv[1:3])
model = sftmix.Model(demo / "model")

job = sftmix.TrainingJob(model=model, data=demo / "train.jsonl", valid=demo / "valid.jsonl", out=out, epochs=1,
                         batch_size=32, lr=1e-3, max_steps=40, save_every=10)
with job:
    for event in job:
        if event.kind == "step" and event.global_step % 10 == 0:
            print(f"step {event.global_step} of {event.total_steps}: loss {event.loss:.3f}")
        if event.kind == "step" and event.global_step == 5:
            job.pause()                       # Behind a checkpoint, within a micro-batch.
            print("paused:", job.status().state)
            job.unpause()
        if event.kind == "step" and event.global_step == 20:
            job.cancel()
try:
    job.wait()
except sftmix.Error as e:
    print("ended:", e)

# Another process may do this as well: the folder is all that it needs.
with sftmix.TrainingJob.resume(out) as job:
    report = job.run()
print(f"{report.steps} steps, held-out loss {report.base_eval_loss:.3f} -> {report.eval_loss:.3f}")

rows = sftmix.DataMap(out).rows(limit=10, with_text=True)
for row, confidence, response in zip(rows["row"], rows["confidence"], rows["response"]):
    print(f"row {row}: confidence {confidence:.2f}: {response!r}")

for exported in sftmix.export(out, formats=["peft", "gguf", "mlx"], out=out / "exports"):
    print(exported.format, exported.path)

generator = sftmix.Generator(model, report.adapter)
for piece in generator.stream("Once upon a time", max_new_tokens=16):
    print(piece, end="", flush=True)
print()
