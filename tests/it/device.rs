//! The portable form as a GPU runs it: a run's steps beside the fused form's, a checkpoint that moves
//! between devices, what goes between host and device. On the CPU, or where SFTMIX_TEST_DEVICE says.

use std::path::Path;

use serde_json::{Map, Value};
use sftmix::dynamics::{confidences, DynamicsLog};
use sftmix::internal::data::tokens::Ragged;
use sftmix::internal::device::Form;
use sftmix::internal::model::Adapter;
use sftmix::internal::model::Decoder;
use sftmix::internal::ops::moved::{Moved, Transfer};
use sftmix::internal::ops::{Engine, EngineOptions};
use sftmix::internal::train::group::{Group, GroupRun, MicroBatch};
use sftmix::internal::train::optimizer::{AdamW, AdamWConfig};
use sftmix::Keep;
use sftmix::{Confidence, Control, DeviceSetting, Dynamics, Error, Event, LoraConfig, TrainConfig, TrainingJob};

use crate::support::{json, options, portable, project, within};

/// SFTMix on the demo's rows: one reference step in four, a sweep, ten mixed steps, dropout on.
fn config(device: DeviceSetting, out: &Path) -> TrainConfig {
    let assets = project("assets/demo");
    TrainConfig {
        model: assets.clone(),
        data: assets.join("train.jsonl").into(),
        out: out.to_path_buf(),
        device,
        dynamics: Dynamics::Single,
        epochs: 2,
        max_steps: Some(60),
        max_length: 64,
        batch_size: 16,
        lora: Some(LoraConfig { r: 4, lora_dropout: 0.1, ..Default::default() }),
        lr: 1e-3,
        threads: Some(2),
        ..Default::default()
    }
}

/// Runs to the end, or stops behind `stop` steps.
fn train(job: TrainingJob, stop: Option<u64>) -> Vec<(f64, f64)> {
    let mut losses = Vec::new();
    let end = job.run(|event| {
        if let Event::Step(s) = event {
            losses.push((s.loss, s.mixup_loss.unwrap_or(0.0)));
            if Some(s.global_step) == stop {
                return Control::Stop;
            }
        }
        Control::Continue
    });
    match end {
        Ok(_) => assert_eq!(stop, None),
        Err(Error::Stopped { .. }) => assert!(stop.is_some()),
        Err(e) => panic!("{e}"),
    }
    losses
}

fn resume(out: &Path, device: DeviceSetting) -> TrainingJob {
    let given = Map::from_iter([("device".to_string(), Value::String(device.to_string()))]);
    TrainingJob::resume(out, &given).unwrap()
}

fn adapter(out: &Path) -> Vec<f32> {
    let bytes = std::fs::read(out.join("adapter/adapter_model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let of = |t: &safetensors::tensor::TensorView| -> Vec<f32> {
        t.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let mut named = file.tensors();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    named.iter().flat_map(|(_, t)| of(t)).collect()
}

/// Largest difference, and largest value.
fn apart(a: &[f32], b: &[f32]) -> (f32, f32) {
    assert_eq!(a.len(), b.len());
    let d = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    (d, a.iter().fold(0f32, |m, v| m.max(v.abs())))
}

fn losses_apart(a: &[(f64, f64)], b: &[(f64, f64)]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a.0 - b.0).abs().max((a.1 - b.1).abs())).fold(0.0, f64::max)
}

#[test]
fn sixty_steps_agree_with_the_cpu_and_a_checkpoint_moves_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (cpu, device) = (DeviceSetting::Cpu, portable());
    let new = |device, name: &str| TrainingJob::new(config(device, &at(name))).unwrap();
    let on_cpu = train(new(cpu, "cpu"), None);
    let on_device = train(new(device, "device"), None);
    // Rounding grows along the steps.
    let near = within(&Engine::new(options(Form::Portable)).unwrap(), 2e-6);
    let ten = losses_apart(&on_cpu[..10], &on_device[..10]);
    let all = losses_apart(&on_cpu, &on_device);
    // Ten steps in the plain epoch, ten that mix, on the other device.
    for (name, first, then, stop) in [("there", cpu, device, 10), ("back", device, cpu, 10), ("mixed", cpu, device, 50)]
    {
        let mut losses = train(new(first, name), Some(stop));
        losses.extend(train(resume(&at(name), then), None));
        let d = losses_apart(&on_cpu, &losses);
        assert!(d <= 10.0 * near, "{name}: {d:e}");
        let run: Value = serde_json::from_slice(&std::fs::read(at(name).join("run.json")).unwrap()).unwrap();
        assert_eq!(run["resolved"]["device"], first.to_string());
    }
    let (d, largest) = apart(&adapter(&at("cpu")), &adapter(&at("device")));
    let confident = |name: &str| {
        confidences(&DynamicsLog::open(at(name).join("dynamics")).unwrap(), Confidence::Perplexity, &[0]).unwrap()
    };
    println!("cpu and {device}: losses of ten steps within {ten:.1e}, of sixty within {all:.1e}, adapters {d:.1e} of {largest:.2}");
    assert!(ten <= near && all <= 10.0 * near && f64::from(d / largest) <= 200.0 * near, "{ten:e} {all:e} {d:e}");
    // The split hangs on an order: confidences must agree far better than they differ.
    let (a, b) = (confident("cpu"), confident("device"));
    let worst = a.iter().zip(&b).map(|(a, b)| f64::from((a - b).abs() / a.abs())).fold(0.0, f64::max);
    assert!(worst <= 100.0 * near, "confidences {worst:e} apart");
}

/// A step of a model of this many blocks, and what it moved.
fn moved(layers: usize, rows: usize, lora_dropout: f64) -> [Moved; Transfer::ALL.len()] {
    let dir = tempfile::tempdir().unwrap();
    let golden = project("tests/golden/llama");
    let mut model = json(&golden.join("config.json"));
    // The first blocks of the golden model.
    model["num_hidden_layers"] = layers.into();
    std::fs::write(dir.path().join("config.json"), model.to_string()).unwrap();
    let bytes = std::fs::read(golden.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let block = |name: &str| name.strip_prefix("model.layers.")?.split('.').next()?.parse::<usize>().ok();
    let kept = file.tensors().into_iter().filter(|(name, _)| block(name).is_none_or(|l| l < layers));
    safetensors::serialize_to_file(kept, None, &dir.path().join("model.safetensors")).unwrap();
    let e = Engine::new(EngineOptions { loss_chunk: Some(16), ..options(Form::Portable) }).unwrap();
    let m = Decoder::open(&e, dir.path(), 64).unwrap();
    let lora = LoraConfig { r: 2, lora_dropout, ..Default::default() };
    let mut adapter = Adapter::fresh(&e, &m, &lora, 0).unwrap();
    let mut adam =
        AdamW::new(&e, &adapter, AdamWConfig { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, clip: 1.0 }).unwrap();
    let mut grads = adapter.zero_gradients(&e).unwrap();
    let row = |i: u32| ((0..40).map(|t| (7 * t + i) % 60).collect::<Vec<u32>>(), vec![true; 40]);
    let rows: Vec<_> = (0..rows as u32).map(row).collect();
    let group = Group::plain(vec![MicroBatch::new(&Ragged::from_rows(&rows))], 0.01);
    let before = e.transfers();
    let dropout = Some(sftmix::internal::ops::elementwise::DropoutKey { seed: 0, step: 0 });
    let run = GroupRun { engine: &e, model: &m, adapter: Some(&adapter), keep: Keep::ALL, dropout };
    let r = e.run(|| group.run(&run, Some(&mut grads))).unwrap();
    assert!(r.rows.iter().all(|r| r.nll > 0.0 && r.tokens == 39));
    e.run(|| adam.apply(&e, &mut adapter, &mut grads, 1e-3)).unwrap();
    let after = e.transfers();
    std::array::from_fn(|i| Moved {
        uploads: after[i].uploads - before[i].uploads,
        downloads: after[i].downloads - before[i].downloads,
        bytes: after[i].bytes - before[i].bytes,
    })
}

#[test]
fn a_step_copies_what_is_listed_and_no_more_for_more_blocks() {
    let (two, mut one) = (moved(2, 3, 0.0), moved(1, 3, 0.0));
    // A squared sum for each adapter matrix: A and B of 7 linears a block.
    one[Transfer::Norm as usize].bytes += 7 * 2 * 4;
    assert_eq!(one, two);
    let of = |t: Transfer| two[t as usize];
    for still in [Transfer::Weights, Transfer::Adapter, Transfer::Dropout, Transfer::Output] {
        assert_eq!(of(still), Moved::default(), "{still:?}");
    }
    assert_eq!((of(Transfer::Norm).uploads, of(Transfer::Norm).downloads), (0, 1));
    // Ids, positions, three rows' tiles with their keys, and supervised positions three times.
    assert_eq!((of(Transfer::Rows).uploads, of(Transfer::Rows).downloads), (2 + 3 * 2 + 4, 0));
    // 117 positions in chunks of 16: states, targets and weights of each; figures once.
    assert_eq!((of(Transfer::Loss).uploads, of(Transfer::Loss).downloads), (3 * 8, 1));
    // Seven linears of two blocks, forward and backward: masks for x̃ twice and for u·A where dx is wanted.
    let dropped = moved(2, 3, 0.5)[Transfer::Dropout as usize];
    assert_eq!((dropped.uploads, dropped.downloads), (2 * 7 * 3 - 3, 0));
}

#[test]
fn the_device_of_a_run_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let device = portable();
    // One step: with warm-up its rate would be 0.
    let (dynamics, warmup_ratio) = (Dynamics::Sweep, 0.0);
    let c = TrainConfig { max_steps: Some(1), recipe: sftmix::Recipe::Ntp, ..config(device, dir.path()) };
    let c = TrainConfig { dynamics, warmup_ratio, ..c };
    let mut told = None;
    let job = TrainingJob::new(c).unwrap();
    job.run(|e| {
        if let Event::Prepared(p) = e {
            told = Some((p.device, p.device_instead.clone()));
        }
        Control::Continue
    })
    .unwrap();
    assert_eq!(told, Some((device, None)));
    let e = Engine::new(options(Form::Portable)).unwrap();
    assert!(within(&e, 0.0) <= 1e-4);
}
