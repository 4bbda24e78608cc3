//! SFTMix itself, free of tensors and files (arXiv 2410.05248).
//!
//! 1. **Reference run**: plain next-token prediction on the whole set. Published: that it is one extra
//!    training run, of which several checkpoints score every example. Ours: one epoch, four evenly
//!    spaced checkpoints, since neither is published.
//! 2. **Sweep** at each checkpoint: the mean NLL of each example's response; see [`crate::dynamics`].
//! 3. **Split** at the median of confidence, minus the mean perplexity over the checkpoints
//!    (published); ties and odd sizes ours: [`Halves`].
//! 4. **Target run** from the untouched base (our reading): in every step as many confident as
//!    unconfident examples, paired at random, [`EpochPairs`]; states and one-hot targets of a pair are
//!    mixed with one λ ~ Beta(α, α), [`sample_beta`]; loss = NTP on everything at full length + μ ×
//!    mixed loss (published, α = 0.5, μ = 0.2). How the two are averaged is ours: [`LossWeights`].
//!
//! Cheaper ways to the dynamics, ours and deviations from the paper: `online` logs the losses of the
//! reference run's own passes, with their dropout and NEFTune noise, `single` mixes from the second epoch of one run, a path imports the
//! log of another run (published for Gemma-2B → Llama-3.1-8B). [`StagePlan`] spells a run out.

pub(crate) mod beta;
mod loss_weights;
mod pairs;
mod plan;
mod split;

pub use beta::{entropy, expected_entropy, sample as sample_beta};
pub use loss_weights::LossWeights;
pub use pairs::{mixed_steps, EpochPairs, Pair, Step};
pub use plan::{PlannedStage, StagePlan};
pub use split::{Half, Halves};
