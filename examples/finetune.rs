//! The main job in twenty lines: a model folder and a data file in, an adapter out.
//!
//! `cargo run --release --example finetune -- MODEL DATA OUT [VALID]`

use sftmix::{Control, Event, TrainConfig, TrainingJob};

fn main() -> sftmix::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, data, out, rest @ ..] = &args[..] else {
        eprintln!("usage: finetune MODEL DATA OUT [VALID]");
        std::process::exit(2);
    };
    let config = TrainConfig {
        model: model.into(),
        data: data.into(),
        out: out.into(),
        valid: rest.first().map(Into::into),
        ..Default::default()
    };
    let report = TrainingJob::new(config)?.run(|event| {
        if let Event::Step(s) = event {
            println!("{} {}/{}  loss {:.3}", s.stage, s.global_step, s.total_steps, s.loss);
        }
        Control::Continue
    })?;
    println!(
        "adapter in {}, held-out loss {:?} → {:?}",
        report.adapter.display(),
        report.base_eval_loss,
        report.eval_loss
    );
    Ok(())
}
