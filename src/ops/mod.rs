//! What a model is made of: one operation a file, forward above backward, the portable form (candle
//! tensor operations, any device) beside the dispatch to the fused CPU kernels.
//!
//! Letters: `N` tokens of a micro-batch (rows end to end), `C` hidden size, `F` intermediate size, `H`
//! heads, `D` head size, `V` vocabulary, `R` rank, `S` supervised positions. `g` is the gradient of an
//! output, `d…` of what follows.
//!
//! Call operations inside [`Engine::run`]: they use the thread pool they are called on, and it is there that
//! a panic of a worker becomes an error.

pub mod adamw;
pub mod adapted;
pub mod attention;
pub mod buf;
pub mod cache_attention;
pub(crate) mod columns;
pub mod dora;
pub mod elementwise;
pub mod embedding;
pub mod engine;
pub mod head_loss;
pub mod layout;
pub mod level;
pub mod linear;
mod lora;
pub mod moved;
pub mod pool;
pub mod rms_norm;
pub mod rope;
pub mod rows;
pub mod transfer;
mod workers;

pub use buf::{Buf, Matrix, Param};
pub use engine::{Engine, EngineOptions, Phase};
pub use layout::Layout;
pub use level::Simd;
pub use workers::Workers;
