//! What happens when a file is damaged between its writing and its check.

use super::halves::{pair_up, Factor};
use super::*;

fn golden(family: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(family)
}

#[test]
fn a_failed_check_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (golden("llama"), dir.path().join("out"));
    let config = ExportConfig {
        source: AdapterSource {
            adapter: Some(model.join("adapter")),
            model: Some(model),
            threads: Some(1),
            cache_dir: Some(dir.path().join("cache")),
            ..Default::default()
        },
        formats: vec![Format::Peft, Format::Gguf, Format::Mlx],
        out: Some(out.clone()),
    };
    for bad in config.formats.clone() {
        let mut written = Vec::new();
        let result = export_with(None, &config, &mut |format, dir| {
            written.push(dir.to_path_buf());
            if format == bad {
                let path = dir.join(match format {
                    Format::Peft => "adapter_model.safetensors",
                    Format::Gguf => "adapter.gguf",
                    Format::Mlx => "adapters.safetensors",
                });
                let mut bytes = std::fs::read(&path).map_err(Error::io(&path))?;
                // The last number of the last tensor.
                let at = bytes.len() - 4;
                bytes[at..].copy_from_slice(&3f32.to_le_bytes());
                std::fs::write(&path, bytes).map_err(Error::io(&path))?;
            }
            Ok(())
        });
        match result {
            Err(Error::ExportMismatch { path, what, difference, bound }) => {
                assert_eq!(path, out.join(bad.as_str()));
                assert!(what.contains(bad.as_str()) && difference > bound, "{what} {difference} {bound}");
            }
            other => panic!("{bad:?}: {other:?}"),
        }
        assert!(written.len() == 3 && written.iter().all(|d| !d.exists()) && !out.exists(), "{bad:?}");
    }
    export(&config).unwrap();
}

#[test]
fn halves_need_each_other() {
    let half =
        |is_a, shape: (usize, usize)| Factor { module: "m".into(), is_a, shape, data: vec![1.0; shape.0 * shape.1] };
    let of = |halves| pair_up(Path::new("x"), halves, None, |r| 8.0 / r as f64);
    let good = of(vec![half(true, (2, 3)), half(false, (4, 2))]).unwrap();
    assert_eq!((good.scales["m"], good.modules["m"].in_features, good.modules["m"].out_features), (4.0, 3, 4));
    for (halves, says) in [
        (vec![half(true, (2, 3))], "has no lora_b"),
        (vec![half(false, (4, 2))], "has no lora_a"),
        (vec![half(true, (2, 3)), half(false, (4, 3))], "share no rank"),
        (vec![], "no LoRA tensors"),
    ] {
        assert!(of(halves).unwrap_err().to_string().contains(says));
    }
}
