//! Events as structures.

use std::ffi::c_char;

use sftmix::{EvaluatedEvent, Event, StepEvent};

use crate::border::{self, given_out, json, take_all_back, Sized};
use crate::fault::Result;
use crate::status::{limits_out, sftmix_limits};

/// What an event is about.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum sftmix_event_kind {
    /// No event: none came in time, or the job is not running and has none left.
    None = 0,
    /// The rows are tokens and the model is open: `prepared`.
    Prepared = 1,
    /// A step is done: `step`.
    Step = 2,
    /// The held-out rows were evaluated: `evaluated`.
    Evaluated = 3,
    /// The held-out loss no longer improves, and the run ends here: `json`.
    StoppedEarly = 4,
    /// A sweep goes on: `sweep`.
    Sweep = 5,
    /// The rows are split into halves: `split`.
    Split = 6,
    /// A checkpoint is on disk: `text` is its folder.
    Checkpoint = 7,
    /// Limits came into force: `limits`, and `text` says why what was asked for did not, where it did not.
    Limits = 8,
    /// One that this interface has no number for: `json`.
    Other = 99,
}

/// Which part of a run.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum sftmix_stage {
    /// None yet.
    None = 0,
    /// The untouched model.
    Base = 1,
    /// The reference run.
    Reference = 2,
    /// The run that gives the adapter.
    Target = 3,
    /// The only run.
    Single = 4,
    /// One that this interface has no number for.
    Other = 99,
}

/// A step.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_step {
    /// Part of the run.
    pub stage: sftmix_stage,
    /// Steps done in the stage.
    pub step: u64,
    /// Steps done in all stages.
    pub global_step: u64,
    /// Steps of all stages.
    pub total_steps: u64,
    /// Epochs done in the stage.
    pub epoch: f64,
    /// `ntp_loss` and the weighed Mixup loss, nats a token.
    pub loss: f64,
    /// Mean -log p of the supervised tokens.
    pub ntp_loss: f64,
    /// Mixup loss; NaN where the step does not mix.
    pub mixup_loss: f64,
    /// Gradient norm before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Tokens seen since the run began.
    pub num_tokens: u64,
    /// Share of supervised tokens that are the likeliest.
    pub mean_token_accuracy: f64,
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// Seconds since the run began, over its resumptions.
    pub elapsed_seconds: f64,
    /// Seconds that the rest is expected to take.
    pub eta_seconds: f64,
    /// Peak anonymous memory of the process, bytes.
    pub peak_anonymous_bytes: u64,
}

/// An evaluation.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_evaluated {
    /// Part of the run.
    pub stage: sftmix_stage,
    /// Steps done in all stages.
    pub global_step: u64,
    /// Mean -log p of a supervised token, nats.
    pub eval_loss: f64,
    /// Its exponential.
    pub eval_perplexity: f64,
    /// Share of supervised tokens that are the likeliest.
    pub eval_token_accuracy: f64,
    /// Whether it is the lowest of those that count.
    pub is_best: bool,
}

/// How far a sweep is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_sweep {
    /// Which, from 1.
    pub number: u64,
    /// Of how many.
    pub of: u64,
    /// Examples scored.
    pub done: u64,
    /// Examples in all.
    pub total: u64,
}

/// The halves.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_split {
    /// Confident examples.
    pub confident: u64,
    /// Unconfident examples.
    pub unconfident: u64,
    /// Examples of neither half.
    pub neither: u64,
}

/// What a job found.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_prepared {
    /// Examples to train on.
    pub examples: u64,
    /// Examples held out; 0 without.
    pub valid_examples: u64,
    /// Tokens of the training set.
    pub tokens: u64,
    /// Supervised ones of these.
    pub supervised_tokens: u64,
    /// Trained numbers.
    pub parameters: u64,
    /// Steps of all stages.
    pub total_steps: u64,
    /// Rows that run together.
    pub micro_batch: u64,
    /// Worker threads.
    pub threads: u64,
    /// Steps done before; more than 0 where a run is resumed.
    pub resumed_at: u64,
}

/// Something that happened in a job. Set up by `sftmix_event_init`; what `sftmix_job_next_event` has filled is freed by
/// `sftmix_event_free`. Of the parts only the one that `kind` names is filled, the others are zero.
///
/// The parts lie in it by value and stay as they are for as long as the library's soname does: what a later version tells
/// beside, it tells in `json`, or in parts behind the last.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_event {
    /// Bytes of the structure, set by `sftmix_event_init`.
    pub struct_size: usize,
    /// Its number, for `sftmix_job_acknowledge`; 0 in a listener.
    pub number: u64,
    /// What it is about.
    pub kind: sftmix_event_kind,
    /// All of it as JSON: of steps and evaluations the line of `metrics.jsonl`. The event's own.
    pub json: *mut c_char,
    /// A text, where `kind` says so; otherwise NULL. The event's own.
    pub text: *mut c_char,
    /// Of `SFTMIX_EVENT_KIND_STEP`.
    pub step: sftmix_step,
    /// Of `SFTMIX_EVENT_KIND_EVALUATED`.
    pub evaluated: sftmix_evaluated,
    /// Of `SFTMIX_EVENT_KIND_SWEEP`.
    pub sweep: sftmix_sweep,
    /// Of `SFTMIX_EVENT_KIND_SPLIT`.
    pub split: sftmix_split,
    /// Of `SFTMIX_EVENT_KIND_PREPARED`.
    pub prepared: sftmix_prepared,
    /// Of `SFTMIX_EVENT_KIND_LIMITS`.
    pub limits: sftmix_limits,
}

// A part that grew would move all behind it under programs that are compiled already.
#[cfg(target_pointer_width = "64")]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<sftmix_step>() == 128 && size_of::<sftmix_evaluated>() == 48);
    assert!(size_of::<sftmix_sweep>() == 32 && size_of::<sftmix_split>() == 24 && size_of::<sftmix_prepared>() == 72);
    assert!(size_of::<sftmix_limits>() == 32 && offset_of!(sftmix_event, limits) == 344);
};

impl Sized for sftmix_event {
    const NAME: &'static str = "sftmix_event";

    fn unset() -> Self {
        // SAFETY: numbers, texts that are NULL, and enums that have a 0.
        let zero: sftmix_event = unsafe { std::mem::zeroed() };
        sftmix_event { struct_size: std::mem::size_of::<Self>(), kind: sftmix_event_kind::None, ..zero }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.struct_size
    }

    unsafe fn free(&mut self) {
        // SAFETY: passed on.
        unsafe { take_all_back([&mut self.json, &mut self.text]) };
    }
}

/// Sets up a structure of which the caller has so many bytes: `sftmix_event_init` says how many. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_event_init_sized(event: *mut sftmix_event, size: usize) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(event, size) };
}

/// Frees the texts of an event and sets them to NULL; again, or with NULL, does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_event_free(event: *mut sftmix_event) {
    // SAFETY: it is NULL or the caller's, and its texts are from here.
    unsafe { border::release(event) };
}

/// A stage by its word.
pub fn stage_of(word: &str) -> sftmix_stage {
    match word {
        "" => sftmix_stage::None,
        "base" => sftmix_stage::Base,
        "reference" => sftmix_stage::Reference,
        "target" => sftmix_stage::Target,
        "single" => sftmix_stage::Single,
        _ => sftmix_stage::Other,
    }
}

fn step(s: &StepEvent) -> sftmix_step {
    sftmix_step {
        stage: stage_of(&s.stage),
        step: s.step,
        global_step: s.global_step,
        total_steps: s.total_steps,
        epoch: s.epoch,
        loss: s.loss,
        ntp_loss: s.ntp_loss,
        mixup_loss: s.mixup_loss.unwrap_or(f64::NAN),
        grad_norm: s.grad_norm,
        learning_rate: s.learning_rate,
        num_tokens: s.num_tokens,
        mean_token_accuracy: s.mean_token_accuracy,
        tokens_per_second: s.tokens_per_second,
        elapsed_seconds: s.elapsed_seconds,
        eta_seconds: s.eta_seconds,
        peak_anonymous_bytes: s.peak_anonymous_bytes,
    }
}

fn evaluated(e: &EvaluatedEvent) -> sftmix_evaluated {
    sftmix_evaluated {
        stage: stage_of(&e.stage),
        global_step: e.global_step,
        eval_loss: e.eval_loss,
        eval_perplexity: e.eval_perplexity,
        eval_token_accuracy: e.eval_token_accuracy,
        is_best: e.is_best,
    }
}

/// The event as a structure, whose texts are to be freed.
pub fn event_out(event: &Event, number: u64) -> Result<sftmix_event> {
    use sftmix_event_kind as K;
    let mut out = sftmix_event { number, json: given_out(&json(event)?), ..Sized::unset() };
    out.kind = match event {
        Event::Prepared(p) => {
            out.prepared = sftmix_prepared {
                examples: p.examples as u64,
                valid_examples: p.valid_examples.unwrap_or(0) as u64,
                tokens: p.tokens,
                supervised_tokens: p.supervised_tokens,
                parameters: p.parameters as u64,
                total_steps: p.total_steps,
                micro_batch: p.micro_batch as u64,
                threads: p.threads as u64,
                resumed_at: p.resumed_at,
            };
            K::Prepared
        }
        Event::Step(s) => {
            out.step = step(s);
            K::Step
        }
        Event::Evaluated(e) => {
            out.evaluated = evaluated(e);
            K::Evaluated
        }
        Event::StoppedEarly { .. } => K::StoppedEarly,
        Event::Sweep { number, of, done, total } => {
            out.sweep = sftmix_sweep { number: *number as u64, of: *of as u64, done: *done, total: *total };
            K::Sweep
        }
        Event::Split { confident, unconfident, neither } => {
            let [confident, unconfident, neither] = [*confident, *unconfident, *neither].map(|n| n as u64);
            out.split = sftmix_split { confident, unconfident, neither };
            K::Split
        }
        Event::Checkpoint { path } => {
            out.text = given_out(&path.to_string_lossy());
            K::Checkpoint
        }
        Event::Limits { limits, refused } => {
            out.limits = limits_out(limits);
            out.text = refused.as_deref().map_or(std::ptr::null_mut(), given_out);
            K::Limits
        }
        // The enum may grow before this file does.
        _ => K::Other,
    };
    Ok(out)
}
