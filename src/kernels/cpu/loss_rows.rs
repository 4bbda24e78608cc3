//! What the losses over rows of logits are told and what they give: rows with their gold tokens and weights, the units
//! in which they stand, each row's figures, and what its softmax is normalised by.

/// One supervised position.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Gold token.
    pub target: u32,
    /// Weight a of its next-token loss.
    pub a: f32,
}

/// Mixing of a unit's two rows.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// λ, the confident row's share.
    pub lambda: f32,
    /// Weight b, which holds μ.
    pub b: f32,
}

/// One or two rows that stand one after the other in the chunk.
#[derive(Clone, Copy, Debug)]
pub struct UnitRows {
    /// First row in the chunk.
    pub first: usize,
    /// Set when the row after it is its partner.
    pub mix: Option<Mix>,
}

/// What one row gives.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowStats {
    /// −log p(target).
    pub nll: f64,
    /// p(target).
    pub prob: f32,
    /// Largest probability: what the model claims for its own choice.
    pub max_prob: f32,
    /// Whether the target is the arg-max (the lowest index of equals).
    pub correct: bool,
    /// Entropy of the prediction, nats; 0 when no gradient was asked for.
    pub entropy: f32,
    /// Of the first row of a mixed unit: the mixed cross-entropy (without weights).
    pub mix_nll: f64,
}

/// What a row of logits is normalised by: `p = exp(x − max)/sum`.
#[derive(Clone, Copy, Debug)]
pub struct Normaliser {
    /// Largest logit.
    pub max: f32,
    /// Σ exp(x − max).
    pub sum: f64,
}

impl Normaliser {
    /// log Σ exp(x).
    pub(super) fn lse(self) -> f64 {
        self.max as f64 + libm::log(self.sum)
    }

    /// −Σ p·log p from Σ p·(x − max).
    pub(super) fn entropy(self, weighted: f64) -> f32 {
        (libm::log(self.sum) - weighted) as f32
    }
}
