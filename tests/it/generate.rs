//! Generation: the cache against the full pass, greedy text against a f64 reference, limits and stops.

use std::path::{Path, PathBuf};

use sftmix::internal::device::Form;
use sftmix::internal::model::Adapter;
use sftmix::internal::model::Decoder;
use sftmix::internal::ops::{head_loss, Engine, Layout};
use sftmix::Control;
use sftmix::Error;
use sftmix::Keep;
use sftmix::{GenerateConfig, Generation, Generator};

use crate::support::{engine, golden_rows, json, options, project, shared, tensors};

const FORMS: [Form; 2] = [Form::Fused, Form::Portable];

fn stories() -> Option<PathBuf> {
    shared("models/stories260K")
}

fn generator(form: Form, model: &Path, adapter: Option<&Path>) -> Generator {
    Generator::open_on(Engine::new(options(form)).unwrap(), model, adapter).unwrap()
}

fn text(g: &mut Generator, prompt: &str, config: &GenerateConfig) -> Generation {
    let mut streamed = String::new();
    let out = g
        .generate(prompt, config, &mut |piece| {
            streamed.push_str(piece);
            Control::Continue
        })
        .unwrap();
    assert_eq!(out.text, streamed);
    out
}

/// Logits of every position by the full pass.
fn full(e: &Engine, m: &Decoder, adapter: Option<&Adapter>, ids: &[u32]) -> Vec<f32> {
    e.run(|| {
        let layout = Layout::new(vec![0, ids.len() as u32], vec![0]);
        let mut pass = m.forward(e, adapter, ids, layout, Keep::Nothing, None)?;
        let h = m.states(e, &mut pass, (0..ids.len() as u32).collect())?;
        head_loss::logits(e, m.head(), &h)
    })
    .unwrap()
}

/// Largest difference between the logits after a prompt of `prompt` ids, then each id alone, and `want`.
fn cached(e: &Engine, m: &Decoder, adapter: Option<&Adapter>, ids: &[u32], prompt: usize, want: &[f32]) -> f32 {
    let v = m.config.vocab_size;
    let mut worst = 0f32;
    let mut cache = m.cache(e, ids.len()).unwrap();
    let mut at = 0;
    while at < ids.len() {
        let n = if at == 0 { prompt } else { 1 };
        let logits = e
            .run(|| {
                let state = m.extend(e, adapter, &mut cache, &ids[at..at + n])?;
                head_loss::logits(e, m.head(), &state)
            })
            .unwrap();
        at += n;
        assert_eq!((cache.tokens(), logits.len()), (at, v));
        for (a, b) in logits.iter().zip(&want[(at - 1) * v..at * v]) {
            worst = worst.max((a - b).abs());
        }
    }
    assert!(e.run(|| m.extend(e, adapter, &mut cache, &ids[..1])).is_err(), "the cache is full");
    worst
}

#[test]
fn the_cache_gives_the_logits_of_the_full_pass() {
    let mut families = 0;
    for entry in std::fs::read_dir(project("tests/golden")).unwrap() {
        let dir = entry.unwrap().path();
        let family = dir.file_name().unwrap().to_str().unwrap().to_string();
        // LongRoPE changes what the cache holds: below.
        if !dir.join("config.json").exists() || family == "phi3_longrope" {
            continue;
        }
        families += 1;
        let rows = golden_rows(&tensors(&dir.join("golden.safetensors")));
        // The golden rows, and one long enough for every window, tile and position of the scaled rotation.
        let long: Vec<u32> = (0..90).map(|i| (i * 37 + 11) % 64).collect();
        let rows: Vec<Vec<u32>> = rows.into_iter().map(|(ids, _)| ids).chain([long]).collect();
        let (golden, mut worst) = (rows.len() - 1, [0f32; 2]);
        for form in FORMS {
            let e = engine(form, 128, 4);
            let m = Decoder::open(&e, &dir, 96).unwrap();
            let adapter = Adapter::load(&e, &m, &dir.join("adapter")).unwrap();
            for (r, ids) in rows.iter().enumerate() {
                for adapter in [None, Some(&adapter)] {
                    let want = full(&e, &m, adapter, ids);
                    for prompt in [1, 2, ids.len() / 2, ids.len()] {
                        let d = cached(&e, &m, adapter, ids, prompt, &want);
                        // Logits of random ids are larger than those of the golden rows.
                        let largest = want.iter().fold(1f32, |m, v| m.max(v.abs()));
                        let bound = if r < golden { 1e-5 } else { 1e-5 * largest };
                        assert!(d <= bound, "{family} {form:?} prompt {prompt} of {}: {d:e} of {largest}", ids.len());
                        let worst = &mut worst[(r == golden) as usize];
                        *worst = worst.max(d);
                    }
                }
            }
        }
        println!("{family}: within {:.1e}, the long row within {:.1e}", worst[0], worst[1]);
    }
    assert!(families >= 15, "{families} families");
}

/// LongRoPE has other frequencies for rows longer than 12 tokens here, for all of their keys.
#[test]
fn a_row_that_outgrows_its_frequencies_runs_again_from_its_start() {
    let dir = project("tests/golden/phi3_longrope");
    let ids: Vec<u32> = (0..20).map(|i| (i * 37 + 11) % 64).collect();
    for form in FORMS {
        let e = engine(form, 128, 4);
        let m = Decoder::open(&e, &dir, 32).unwrap();
        let v = m.config.vocab_size;
        let last = |n: usize| full(&e, &m, None, &ids[..n])[(n - 1) * v..].to_vec();
        let extend = |cache: &mut _, ids: &[u32]| {
            e.run(|| {
                let state = m.extend(&e, None, cache, ids)?;
                head_loss::logits(&e, m.head(), &state)
            })
        };
        let mut cache = m.cache(&e, 24).unwrap();
        for n in 9..=20 {
            let held = if n == 9 { 0 } else { n - 1 };
            if n == 13 {
                assert!(!m.goes_on(&cache, n));
                assert!(matches!(extend(&mut cache, &ids[held..n]), Err(Error::Misuse(_))));
                cache.truncate(0);
                extend(&mut cache, &ids[..n]).unwrap();
                cache.truncate(12);
                assert!(m.goes_on(&cache, n) && !m.goes_on(&cache, 12));
                cache.truncate(0);
            }
            assert!(m.goes_on(&cache, n));
            let from = cache.tokens();
            let found = extend(&mut cache, &ids[from..n]).unwrap();
            let apart = found.iter().zip(last(n)).fold(0f32, |w, (a, b)| w.max((a - b).abs()));
            assert!(apart <= 1e-5, "{form:?}, {n} tokens: {apart:e}");
        }
    }
}

/// The same by the generator: what it says after each token is what a full pass says.
#[test]
fn text_goes_on_over_the_change_of_frequencies() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(project("tests/golden/phi3_longrope").join(file), dir.path().join(file)).unwrap();
    }
    std::fs::write(dir.path().join("tokenizer.json"), crate::support::letters(&[]).to_string()).unwrap();
    let mut g = generator(Form::Fused, dir.path(), None);
    let e = engine(Form::Fused, 128, 4);
    let m = Decoder::open(&e, dir.path(), 40).unwrap();
    let v = m.config.vocab_size;
    for prompt in [4, 11, 12, 13, 16] {
        let ids: Vec<u32> = (0..prompt).map(|i| (i * 5 + 7) % 29).collect();
        let config = GenerateConfig { max_new_tokens: 14, ..Default::default() };
        let new = g.generate_ids(&ids, &config, &mut |_| Control::Continue).unwrap();
        let mut all = ids.clone();
        for id in &new {
            let logits = &full(&e, &m, None, &all)[(all.len() - 1) * v..];
            let best = (0..v).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
            assert_eq!(*id as usize, best, "after {} of {prompt} tokens", all.len());
            all.push(*id);
        }
        assert!(all.len() > 12, "{new:?}");
    }
}

/// Writes the adapter with every B zero.
fn zeroed(adapter: &Path, to: &Path) {
    let read = |file: &str| std::fs::read(adapter.join(file)).unwrap();
    std::fs::write(to.join("adapter_config.json"), read("adapter_config.json")).unwrap();
    let mut bytes = read("adapter_model.safetensors");
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let start = bytes.as_ptr() as usize;
    let parts: Vec<(usize, usize)> = file
        .tensors()
        .iter()
        .filter(|(name, _)| name.contains("lora_B"))
        .map(|(_, t)| (t.data().as_ptr() as usize - start, t.data().len()))
        .collect();
    assert!(!parts.is_empty());
    for (at, len) in parts {
        bytes[at..at + len].fill(0);
    }
    std::fs::write(to.join("adapter_model.safetensors"), bytes).unwrap();
}

#[test]
fn greedy_text_is_the_references() {
    let Some(dir) = stories() else { return };
    let golden = &json(&dir.join("golden.json"))["greedy"];
    let ids = |key: &str| -> Vec<u32> {
        golden[key].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
    };
    let prompt = golden["prompt"].as_str().unwrap();
    let config = GenerateConfig { max_new_tokens: 64, ..Default::default() };
    for form in FORMS {
        // An adapter whose B is zero changes nothing.
        let mut g = generator(form, &dir, None);
        let zero = tempfile::tempdir().unwrap();
        zeroed(&dir.join("golden_lora"), zero.path());
        // Through no adapter, one, another, and none again on the same base.
        let trained = dir.join("golden_lora");
        let mut other = None;
        for adapter in [None, Some(zero.path()), Some(trained.as_path()), None] {
            g.set_adapter(adapter).unwrap();
            let mut seen = Vec::new();
            let new = g
                .generate_ids(&ids("prompt_ids"), &config, &mut |id| {
                    seen.push(id);
                    Control::Continue
                })
                .unwrap();
            let out = text(&mut g, prompt, &config);
            if adapter == Some(trained.as_path()) {
                other = Some(new);
                continue;
            }
            assert_eq!(new, ids("new_ids"), "{form:?} {adapter:?}");
            assert_eq!(seen, new);
            assert_eq!(format!("{prompt}{}", out.text), golden["text"].as_str().unwrap());
            assert_eq!((out.prompt_tokens, out.new_tokens, out.stopped), (5, 64, false));
        }
        assert_ne!(other.unwrap(), ids("new_ids"), "the trained adapter is in use");
    }
}

#[test]
fn the_cache_agrees_on_a_trained_adapter() {
    let Some(dir) = stories() else { return };
    let trajectory = json(&dir.join("golden_lora/trajectory.json"));
    let row = &trajectory["batch"][0];
    let all: Vec<u32> = row["ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
    let prompt = row["prompt_len"].as_u64().unwrap() as usize;
    let e = engine(Form::Fused, 128, 128);
    let m = Decoder::open(&e, &dir, 128).unwrap();
    let adapter = Adapter::load(&e, &m, &dir.join("golden_lora")).unwrap();
    let want = full(&e, &m, Some(&adapter), &all);
    let d = cached(&e, &m, Some(&adapter), &all, prompt, &want);
    let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(d <= 2e-6 * largest, "{d:e} of {largest}");
}

#[test]
fn an_end_token_ends_the_text_and_is_not_in_it() {
    let Some(dir) = stories() else { return };
    let mut g = generator(Form::Fused, &dir, None);
    let out = text(&mut g, "The end.", &GenerateConfig { max_new_tokens: 500, ..Default::default() });
    assert!(out.stopped, "{out:?}");
    assert!(out.new_tokens < 500 && !out.text.contains("<s>") && !out.text.contains("</s>"), "{out:?}");
}

#[test]
fn a_seed_repeats_its_text() {
    let Some(dir) = stories() else { return };
    let mut g = generator(Form::Fused, &dir, None);
    for top_p in [None, Some(0.9)] {
        let config = |seed| GenerateConfig { max_new_tokens: 40, temperature: 1.0, top_p, seed, ..Default::default() };
        let first = text(&mut g, "Once", &config(7)).text;
        assert_eq!(first, text(&mut g, "Once", &config(7)).text);
        assert_ne!(first, text(&mut g, "Once", &config(8)).text);
    }
    let greedy = GenerateConfig { max_new_tokens: 40, ..Default::default() };
    let narrow = GenerateConfig { temperature: 1.0, top_p: Some(1e-6), ..greedy.clone() };
    assert_eq!(text(&mut g, "Once", &greedy).text, text(&mut g, "Once", &narrow).text);
}

#[test]
fn the_context_is_a_limit() {
    let Some(dir) = stories() else { return };
    let mut g = generator(Form::Fused, &dir, None);
    let context = g.context();
    let config = GenerateConfig { max_new_tokens: 64, ..Default::default() };
    let ids = |n: usize| -> Vec<u32> { std::iter::once(1).chain((0..n as u32 - 1).map(|i| 261 + i % 200)).collect() };
    let mut on_token = |_| Control::Continue;
    for n in [context, context + 1, 3 * context] {
        match g.generate_ids(&ids(n), &config, &mut on_token) {
            Err(Error::InvalidConfig { field, reason }) => {
                assert_eq!(field, "prompt");
                assert!(reason.contains(&n.to_string()) && reason.contains(&context.to_string()), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(g.generate_ids(&ids(context - 3), &config, &mut on_token).unwrap().len() <= 3);
    let long = "Lily went to the park. ".repeat(200);
    assert!(matches!(g.generate(&long, &config, &mut |_| Control::Continue), Err(Error::InvalidConfig { .. })));
}

#[test]
fn refuses_settings_and_prompts_that_mean_nothing() {
    let Some(dir) = stories() else { return };
    let mut g = generator(Form::Fused, &dir, None);
    let d = GenerateConfig::default;
    for (config, ids, name) in [
        (GenerateConfig { max_new_tokens: 0, ..d() }, vec![1], "max_new_tokens"),
        (GenerateConfig { temperature: f64::NAN, ..d() }, vec![1], "temperature"),
        (GenerateConfig { temperature: -1.0, ..d() }, vec![1], "temperature"),
        (GenerateConfig { top_p: Some(0.0), ..d() }, vec![1], "top_p"),
        (GenerateConfig { top_p: Some(1.5), ..d() }, vec![1], "top_p"),
        (d(), vec![], "prompt"),
        (d(), vec![1, 512], "data"),
    ] {
        match g.generate_ids(&ids, &config, &mut |_| Control::Continue) {
            Err(Error::InvalidConfig { field, .. }) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(g.set_adapter(Some(project("tests/golden/llama/adapter").as_path())).is_err());
    assert_eq!(text(&mut g, "Once", &d()).new_tokens, 128, "the generator is usable after errors");
}

#[test]
fn a_caller_can_stop() {
    let Some(dir) = stories() else { return };
    for form in FORMS {
        let mut g = generator(form, &dir, None);
        let config = GenerateConfig::default();
        let whole = text(&mut g, "Once upon a time", &config);
        let mut calls = 0;
        let out = g
            .generate("Once upon a time", &config, &mut |_| {
                calls += 1;
                if calls == 5 {
                    Control::Stop
                } else {
                    Control::Continue
                }
            })
            .unwrap();
        assert_eq!((out.new_tokens, calls, out.stopped), (5, 5, false));
        assert_eq!(out.text, ", there was a little");
        assert!(whole.text.starts_with(&out.text));
    }
}
