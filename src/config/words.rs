//! Settings that are one word of a few.

/// An enum that is written as one word of a few, in settings, in JSON and in text.
macro_rules! text_enum {
    ($(#[$m:meta])* $name:ident { $($(#[$vm:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[non_exhaustive]
        pub enum $name { $($(#[$vm])* #[serde(rename = $text)] $variant),+ }
        impl $name {
            /// Every value, as written.
            pub const NAMES: &'static [&'static str] = &[$($text),+];
            /// The value as written.
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $text),+ } }
        }
        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                match s {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!("expected one of {}, found {s:?}", Self::NAMES.join(", "))),
                }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }
    };
}
pub(crate) use text_enum;

text_enum! {
    /// What a run computes.
    Recipe {
        /// Reference run, dynamics, split, then training with Mixup from the untouched base.
        Sftmix = "sftmix",
        /// Plain next-token prediction.
        Ntp = "ntp",
    }
}
text_enum! {
    /// How the Mixup terms of a step are averaged (the paper is silent).
    MixReduction {
        /// Sum over all mixed tokens ÷ their number.
        Token = "token",
        /// Mean over pairs of the mean over their tokens.
        Pair = "pair",
    }
}
text_enum! {
    /// What confidence is minus the mean of, over the checkpoints.
    Confidence {
        /// exp(NLL): the paper's.
        Perplexity = "perplexity",
        /// NLL: less ruled by outliers.
        Nll = "nll",
    }
}
text_enum! {
    /// Learning rate after warm-up.
    Schedule {
        /// Half a cosine down to 0.
        Cosine = "cosine",
        /// A line down to 0.
        Linear = "linear",
        /// Constant.
        Constant = "constant",
    }
}
text_enum! {
    /// Whether blocks keep their activations for the backward pass or run forward twice.
    Recompute {
        /// Keep as long as the predicted activations of a micro-batch stay small.
        Auto = "auto",
        /// Always run forward twice.
        On = "on",
        /// Always keep.
        Off = "off",
    }
}
text_enum! {
    /// What becomes of a row that is no example: no JSON, a key that is missing, an answer that is null.
    BadRows {
        /// It ends the reading, with its number and what is wrong with it.
        Error = "error",
        /// It is left out and counted, by reason; when more than 5 % of a file's rows are such, it is an error all the same.
        Skip = "skip",
    }
}
text_enum! {
    /// Shape of a data row.
    DataFormat {
        /// `{"text"}`: loss on every token.
        Text = "text",
        /// `{"prompt", "completion"}`.
        PromptCompletion = "prompt-completion",
        /// `{"instruction", "input"?, "output"}` with Stanford's template.
        Alpaca = "alpaca",
        /// `{"messages": [{"role", "content"}, …]}` by the model's chat template, or in a plain role format.
        Messages = "messages",
        /// `{"conversations": [{"from", "value"}, …]}`, with `system` and `tools` columns.
        ShareGpt = "sharegpt",
        /// Two columns by name: `prompt_field`, `response_field`.
        Columns = "columns",
    }
}
