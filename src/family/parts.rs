//! What a family's blocks are told one by one: the window and the rotation of each layer, and where norms stand.

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// How many keys a query sees, its own position included; `None`: all earlier ones.
    pub window: Option<usize>,
    /// Which of the config's rotary embeddings; `None`: positions are not told.
    pub rope: Option<usize>,
}

/// An RMSNorm of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// Over each head.
    Head,
    /// Over all heads together.
    Whole,
}

/// Where a block norms: what its two branches (attention, MLP) take, and what they give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Norms {
    /// The branch's input.
    pub before: bool,
    /// The branch's output, before it is added.
    pub after: bool,
}
