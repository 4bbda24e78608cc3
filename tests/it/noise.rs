//! On which side of the embeddings' factor NEFTune's noise lies: transformers hooks the embedding module.

use sftmix::internal::data::tokens::Ragged;
use sftmix::internal::device::Form;
use sftmix::internal::model::Adapter;
use sftmix::internal::model::Decoder;
use sftmix::internal::ops::elementwise::DropoutKey;
use sftmix::internal::train::group::{Group, GroupRun, MicroBatch};
use sftmix::Keep;

use crate::golden::golden_dir;
use crate::support::{engine, golden_rows, json, max_diff, tensors, within};
use crate::variants::named;

#[test]
fn noise_on_the_other_side_of_the_factor_is_far_off() {
    // A family's factor, and whether its noise is multiplied with it.
    let families = [
        ("granite", 12.0, true),
        ("gemma", 32f64.sqrt(), false),
        ("gemma2", 32f64.sqrt(), false),
        ("gemma3_text", 32f64.sqrt(), false),
    ];
    for (name, factor, behind) in families {
        let dir = golden_dir().join(format!("lora_variants/neftune_{name}"));
        let (g, js) = (tensors(&dir.join("golden.safetensors")), json(&dir.join("golden.json")));
        let base = golden_dir().join(name);
        let rows = golden_rows(&tensors(&base.join("golden.safetensors")));
        let total: usize = rows.iter().map(|(_, t)| t.iter().filter(|&&t| t).count()).sum();
        let mut ragged = Ragged::from_rows(&rows);
        ragged.examples = (0..rows.len() as u32).collect();
        let grads = g.iter().filter(|(name, _)| name.starts_with("grad."));
        let largest = grads.flat_map(|(_, (_, values))| values).fold(0f64, |m, v| m.max(v.abs()));
        let group = Group::plain(vec![MicroBatch::new(&ragged)], 1.0 / total as f64);
        for form in [Form::Fused, Form::Portable] {
            let e = engine(form, 128, 4);
            let mut m = Decoder::open(&e, &base, 64).unwrap();
            assert_eq!((m.config.embedding_scale, m.config.scaled_behind_embedding), (factor, behind), "{name}");
            let mut adapter = Adapter::load(&e, &m, &dir.join("adapter")).unwrap();
            adapter.neftune_noise_alpha = js["neftune_noise_alpha"].as_f64();
            // How far the first step's loss and gradients are from transformers'.
            let off = |m: &Decoder, keep: Keep| {
                let mut grads = adapter.zero_gradients(&e).unwrap();
                let dropout = Some(DropoutKey { seed: js["seed"].as_u64().unwrap(), step: 0 });
                let run = GroupRun { engine: &e, model: m, adapter: Some(&adapter), keep, dropout };
                let r = e.run(|| group.run(&run, Some(&mut grads))).unwrap();
                let loss = r.rows.iter().map(|r| r.nll).sum::<f64>() / total as f64;
                let grad =
                    |(name, _, grad): (String, Vec<f32>, Vec<f32>)| max_diff(&grad, &g[&format!("grad.{name}")].1);
                let want = js["losses_steps"][0].as_f64().unwrap();
                ((loss - want).abs(), named(&adapter, &grads).into_iter().map(grad).fold(0.0, f64::max))
            };
            for keep in [Keep::ALL, Keep::INPUTS] {
                let right = off(&m, keep);
                assert!(right.0 < within(&e, 5e-6) && right.1 < 1e-4 * largest, "{name} {form:?}: {right:?}");
                m.config.scaled_behind_embedding = !behind;
                let wrong = off(&m, keep);
                m.config.scaled_behind_embedding = behind;
                let text = |(loss, grad): (f64, f64)| format!("loss {loss:.1e}, gradients {grad:.1e}");
                println!(
                    "{name} {form:?} {keep:?}: {} of {largest:.1e}; on the other side {}",
                    text(right),
                    text(wrong)
                );
                assert!(wrong.0 > 1e-3 && wrong.1 > 0.1 * largest, "{name} {form:?}: {wrong:?} of {largest}");
            }
        }
    }
}
