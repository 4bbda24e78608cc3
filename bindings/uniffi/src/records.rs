//! Events, reports and plans, as the library says them.

use serde::Serialize;

use crate::border::{twin, Cross};

/// A file of rows and how often an epoch has a row of it.
#[derive(Clone, Debug, PartialEq, Serialize, uniffi::Record)]
pub struct DataSource {
    /// A file of JSONL or a JSON array, a folder with train.jsonl, or a folder of texts.
    pub path: String,
    /// How often an epoch has a row of it; 1 is once.
    #[uniffi(default = 1.0)]
    pub weight: f64,
}

twin! {
    /// How rows became examples.
    RowCounts of sftmix::RowCounts {
        /// Rows read.
        rows: u64,
        /// Examples kept.
        kept: u64,
        /// Rows that lost their tail to the limit of length.
        cut: u64,
        /// Rows in which every value is empty.
        empty: u64,
        /// Rows without a token to train on.
        no_target: u64,
        /// Pieces of texts that were split.
        windows: u64,
        /// Rows of which the chat template leaves out something, as was allowed.
        dropped: u64,
        /// Rows other than conversations that bring their own beginning or end token: they have one, not two.
        own_ends: u64,
        /// Conversations in which a role had another name than the template's, as `bot` or `developer`.
        mapped_roles: u64,
        /// Rows that are no examples and were left out, as `bad_rows` allows.
        skipped: u64,
    }
}
twin! {
    /// What a job found when it opened its inputs.
    Prepared of sftmix::Prepared {
        /// Examples of the training set.
        examples: u64,
        /// How rows became examples.
        rows: RowCounts,
        /// Examples that are held out.
        valid_examples: Option<u64>,
        /// Tokens of the training set.
        tokens: u64,
        /// Trained tokens of these.
        supervised_tokens: u64,
        /// Trained parameters.
        parameters: u64,
        /// Optimizer steps of all stages.
        total_steps: u64,
        /// Rows whose blocks run together.
        micro_batch: u64,
        /// Worker threads.
        threads: u64,
        /// Where it computes.
        device: String,
        /// Why auto went on with the CPU.
        device_instead: Option<String>,
        /// Steps done before: more than 0 when a run is resumed.
        resumed_at: u64,
    }
}
twin! {
    /// One optimizer step, by the names of metrics.jsonl.
    StepEvent of sftmix::StepEvent {
        /// reference, target or single.
        stage: String,
        /// Steps done in the stage.
        step: u64,
        /// Steps done in all stages.
        global_step: u64,
        /// Steps of all stages.
        total_steps: u64,
        /// Epochs done in the stage.
        epoch: f64,
        /// ntp_loss + mu · mixup_loss, nats a token.
        loss: f64,
        /// Mean −log p of the supervised tokens.
        ntp_loss: f64,
        /// Mixup loss, where the step mixes.
        mixup_loss: Option<f64>,
        /// What no model can push it below.
        mixup_floor: Option<f64>,
        /// Mixed positions.
        mix_tokens: u64,
        /// Share of the supervised tokens that are mixed.
        mix_coverage: f64,
        /// Gradient norm before clipping.
        grad_norm: f64,
        /// Learning rate of the step.
        learning_rate: f64,
        /// Tokens seen since the run began.
        num_tokens: u64,
        /// Supervised tokens of the step.
        supervised_tokens: u64,
        /// Share of supervised tokens that are the arg-max.
        mean_token_accuracy: f64,
        /// Mean entropy of the predictions, nats.
        entropy: f64,
        /// Tokens a second of this step.
        tokens_per_second: f64,
        /// Seconds since the run began, over its resumptions.
        elapsed_seconds: f64,
        /// Seconds that the rest of the steps is expected to take.
        eta_seconds: f64,
        /// Peak anonymous memory so far, bytes.
        peak_anonymous_bytes: u64,
    }
}
twin! {
    /// The held-out rows under the weights as they are, by the names of metrics.jsonl.
    EvaluatedEvent of sftmix::EvaluatedEvent {
        /// base (the untouched model), reference, target or single.
        stage: String,
        /// Steps done in all stages.
        global_step: u64,
        /// Epochs done in the stage.
        epoch: f64,
        /// Mean −log p of a supervised token, nats.
        eval_loss: f64,
        /// exp(eval_loss).
        eval_perplexity: f64,
        /// Share of supervised tokens that are the arg-max.
        eval_token_accuracy: f64,
        /// Share of examples all of whose supervised tokens are.
        eval_exact_match: f64,
        /// Expected calibration error of the arg-max tokens, 15 bins.
        eval_ece: f64,
        /// Whether it is the lowest held-out loss of those that count.
        is_best: bool,
        /// Seconds since the run began, over its resumptions.
        elapsed_seconds: f64,
    }
}
twin! {
    /// What a job may take of the machine. What is left out stays as it is.
    Limits of sftmix::Limits {
        /// Worker threads, 1 to 1024.
        #[uniffi(default = None)]
        threads: Option<u64>,
        /// Share of the time in which it computes, more than 0 and at most 1.
        #[uniffi(default = None)]
        duty_cycle: Option<f64>,
        /// Bytes that the library may hold.
        #[uniffi(default = None)]
        memory_limit: Option<u64>,
    }
}
twin! {
    /// What a finished run says.
    TrainReport of sftmix::TrainReport {
        /// Run folder.
        run: String,
        /// The adapter: a folder that PEFT loads.
        adapter: String,
        /// Optimizer steps of all stages.
        steps: u64,
        /// Mean −log p of the supervised tokens over the final stage, each before its update.
        train_loss: f64,
        /// Held-out loss of the untouched base.
        base_eval_loss: Option<f64>,
        /// Held-out loss of the adapter.
        eval_loss: Option<f64>,
        /// The lowest held-out loss of the evaluations that count.
        best_eval_loss: Option<f64>,
        /// Steps of all stages that were done then.
        best_step: Option<u64>,
        /// Whether the run ended because the held-out loss no longer improved.
        stopped_early: bool,
        /// Examples trained on.
        examples: u64,
        /// Rows that lost their tail to the limit of length.
        rows_cut: u64,
        /// Rows that gave no example.
        rows_dropped: u64,
        /// Rows that are no examples and were left out, as `bad_rows` allows; run.json has the reasons.
        rows_skipped: u64,
        /// Seconds, over all resumptions.
        seconds: f64,
        /// Peak anonymous memory, bytes.
        peak_anonymous_bytes: u64,
    }
}
twin! {
    /// How a slice ended.
    Slice of sftmix::Slice {
        /// The report, when the run is finished.
        report: Option<TrainReport>,
        /// The checkpoint that the next slice goes on from.
        checkpoint: Option<String>,
    }
}
twin! {
    /// A job at a glance.
    JobStatus of sftmix::JobStatus {
        /// What it is at.
        state: JobState,
        /// reference, target or single; empty before the first step.
        stage: String,
        /// Steps done in all stages.
        global_step: u64,
        /// Steps of all stages; 0 until it is known.
        total_steps: u64,
        /// Epochs done in the stage.
        epoch: f64,
        /// Loss of the last step, nats a token.
        loss: Option<f64>,
        /// Held-out loss of the last evaluation.
        eval_loss: Option<f64>,
        /// Tokens a second of the last step.
        tokens_per_second: f64,
        /// Seconds over all resumptions, at the last step.
        elapsed_seconds: f64,
        /// Seconds that the rest was expected to take at the last step.
        eta_seconds: Option<f64>,
        /// Peak anonymous memory so far, bytes.
        peak_anonymous_bytes: u64,
        /// The newest checkpoint.
        checkpoint: Option<String>,
        /// Limits that are in force beside the settings.
        limits: Limits,
    }
}
twin! {
    /// Bytes by what they are for.
    PlannedMemory of sftmix::PlannedMemory {
        /// Threads, tables, the rows' order.
        fixed: u64,
        /// The adapter, its gradients and its two moments.
        adapter: u64,
        /// Activations kept between the passes.
        activations: u64,
        /// Held beside that while a block or the loss runs.
        working: u64,
    }
}
/// A change of the settings that would need less memory.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Saving {
    /// What to change.
    pub change: String,
    /// Bytes that it would save.
    pub bytes: u64,
}

impl Cross<Vec<Saving>> for Vec<(String, u64)> {
    fn cross(self) -> Vec<Saving> {
        self.into_iter().map(|(change, bytes)| Saving { change, bytes }).collect()
    }
}

twin! {
    /// What a run will take.
    RunPlan of sftmix::RunPlan {
        /// Whether it stays within the limit.
        fits: bool,
        /// Bytes that were granted.
        memory_limit: Option<u64>,
        /// Most bytes at once; where the run does not fit, the least that would be needed.
        predicted_peak_bytes: u64,
        /// By part, where it fits.
        memory: Option<PlannedMemory>,
        /// Where it does not: what would need less.
        savings: Vec<Saving>,
        /// Examples.
        examples: u64,
        /// Tokens of an epoch.
        tokens: u64,
        /// Trained tokens of an epoch.
        supervised_tokens: u64,
        /// Tokens of the longest row.
        longest: u64,
        /// Optimizer steps of all stages.
        steps: u64,
        /// Most rows that run together.
        micro_batch: Option<u64>,
        /// Tokens that they have together at most, unless one row has more.
        micro_tokens: Option<u64>,
        /// Mean share of the blocks that keep their activations.
        blocks_kept: Option<f64>,
        /// Positions whose logits exist at once.
        loss_chunk: Option<u64>,
        /// Seconds that it is expected to take, where the machine's rate is known.
        seconds: Option<f64>,
    }
}
twin! {
    /// Figures of a set of rows.
    Evaluation of sftmix::Evaluation {
        /// Examples.
        examples: u64,
        /// Supervised tokens.
        supervised_tokens: u64,
        /// Mean −log p of a supervised token, nats.
        nll: f64,
        /// exp(nll).
        perplexity: f64,
        /// Share of supervised tokens that are the arg-max.
        token_accuracy: f64,
        /// Share of examples all of whose supervised tokens are.
        exact_match: f64,
        /// Expected calibration error of the arg-max tokens, 15 bins.
        ece: f64,
    }
}
twin! {
    /// What was generated.
    Generation of sftmix::Generation {
        /// The text, without the prompt, the end token and the stop string.
        text: String,
        /// Tokens of the prompt.
        prompt_tokens: u64,
        /// Those of them that an earlier turn of the chat had left in the cache.
        cached_tokens: u64,
        /// Tokens generated, without the end token.
        new_tokens: u64,
        /// It ended with an end token or a stop string, not by a limit or the caller.
        stopped: bool,
        /// The stop string that ended it.
        stop: Option<String>,
        /// Seconds from prompt to first token.
        prompt_seconds: f64,
        /// Seconds from prompt to last token.
        seconds: f64,
    }
}

impl Cross<String> for sftmix::DeviceSetting {
    fn cross(self) -> String {
        self.to_string()
    }
}

/// What a job is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum JobState {
    /// Not running: not begun, or between two slices.
    Idle,
    /// It reads rows and opens the model.
    Preparing,
    /// It computes.
    Running,
    /// It was asked to pause and finishes a micro-batch and a checkpoint.
    Pausing,
    /// It waits, with what it has done on disk.
    Paused,
    /// It was asked to stop and finishes a micro-batch and a checkpoint.
    Stopping,
    /// It has ended with an adapter.
    Done,
    /// It was stopped before its end; it can be taken up.
    Cancelled,
    /// It has ended with an error.
    Failed,
}

impl Cross<JobState> for sftmix::JobState {
    fn cross(self) -> JobState {
        match self {
            sftmix::JobState::Idle => JobState::Idle,
            sftmix::JobState::Preparing => JobState::Preparing,
            sftmix::JobState::Running => JobState::Running,
            sftmix::JobState::Pausing => JobState::Pausing,
            sftmix::JobState::Paused => JobState::Paused,
            sftmix::JobState::Stopping => JobState::Stopping,
            sftmix::JobState::Done => JobState::Done,
            sftmix::JobState::Cancelled => JobState::Cancelled,
            _ => JobState::Failed,
        }
    }
}

/// Something that happened in a job.
#[derive(Clone, Debug, PartialEq, uniffi::Enum)]
pub enum Event {
    /// The data are tokenised and the model is open.
    Prepared { prepared: Prepared },
    /// An optimizer step is done.
    Step { step: StepEvent },
    /// The held-out rows were evaluated.
    Evaluated { evaluated: EvaluatedEvent },
    /// The held-out loss no longer improves, and the run ends here.
    StoppedEarly { global_step: u64, best_step: u64, best_eval_loss: f64 },
    /// A forward pass over the set goes on.
    Sweep { number: u64, of: u64, done: u64, total: u64 },
    /// The set is split.
    Split { confident: u64, unconfident: u64, neither: u64 },
    /// A checkpoint is on disk.
    Checkpoint { path: String },
    /// Limits that were asked for came into force, or could not.
    Limits { limits: Limits, refused: Option<String> },
    /// An event that this version of the binding does not know, as JSON.
    Other { json: String },
}

impl From<sftmix::Event> for Event {
    fn from(event: sftmix::Event) -> Event {
        match event {
            sftmix::Event::Prepared(p) => Event::Prepared { prepared: p.into() },
            sftmix::Event::Step(s) => Event::Step { step: s.into() },
            sftmix::Event::Evaluated(e) => Event::Evaluated { evaluated: e.into() },
            sftmix::Event::StoppedEarly { global_step, best_step, best_eval_loss } => {
                Event::StoppedEarly { global_step, best_step, best_eval_loss }
            }
            sftmix::Event::Sweep { number, of, done, total } => {
                Event::Sweep { number: number as u64, of: of as u64, done, total }
            }
            sftmix::Event::Split { confident, unconfident, neither } => {
                Event::Split { confident: confident as u64, unconfident: unconfident as u64, neither: neither as u64 }
            }
            sftmix::Event::Checkpoint { path } => Event::Checkpoint { path: path.cross() },
            sftmix::Event::Limits { limits, refused } => Event::Limits { limits: limits.into(), refused },
            other => Event::Other { json: serde_json::to_string(&other).unwrap_or_default() },
        }
    }
}

/// An event with the number by which it is acknowledged.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct NumberedEvent {
    /// Its number, from 1 in each process.
    pub number: u64,
    /// The event.
    pub event: Event,
}
