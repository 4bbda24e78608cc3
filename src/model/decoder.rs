//! The decoder: embedding → blocks → final norm at the positions asked for. The backward pass stops at
//! the lowest adapted block.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::adapter::Adapter;
use super::block::{Block, Saved};
use super::context::Context;
use super::projection::Projection;
use crate::error::{Error, Result};
use crate::family::shapes::LinearShape;
use crate::family::{DecoderConfig, Norms, QkNorm, Rope};
use crate::files::ModelFiles;
use crate::ops::elementwise::{self, DropoutKey};
use crate::ops::head_loss::Head;
use crate::ops::linear::{Call, Linear, SlotGrad};
use crate::ops::{embedding, rms_norm, rope, rows, Buf, Engine, Layout, Matrix, Param};
use crate::weights::WeightStore;

/// A model with its frozen weights mapped.
#[derive(Debug)]
pub struct Decoder {
    /// The switches.
    pub config: DecoderConfig,
    pub(super) embed: Matrix,
    pub(super) blocks: Vec<Block>,
    pub(super) norm: Param,
    head: Head,
    pub(super) ropes: Vec<rope::Table>,
    positions: usize,
    /// Blocks from below whose weights are given up behind their use; `None` leaves all to the system.
    pub(super) streamed: Option<usize>,
    /// The files that it reads while it runs.
    mapped: Option<Arc<WeightStore>>,
}

/// What a forward pass keeps for its backward pass. Whatever is kept, the same bits come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Nothing: there is no backward pass.
    Nothing,
    /// Everything of so many blocks from the top, the input of the others: those run forward again.
    Top(usize),
    /// As many blocks as keep the activations of the rows that run together within these bytes.
    Within(usize),
}

impl Keep {
    /// Each block's input.
    pub const INPUTS: Keep = Keep::Top(0);
    /// Everything.
    pub const ALL: Keep = Keep::Top(usize::MAX);
}

#[derive(Debug)]
enum Kept {
    Nothing,
    Input(Buf),
    All(Box<Saved>),
}

/// A forward pass over one micro-batch.
#[derive(Debug)]
pub struct Pass {
    kept: Vec<Kept>,
    /// The last block's output `[N,C]`, before the final norm.
    out: Buf,
    layout: Layout,
    dropout: Option<DropoutKey>,
    positions: Vec<u32>,
}

impl Pass {
    /// How many states [`Decoder::states`] gave.
    pub fn states(&self) -> usize {
        self.positions.len()
    }
}

/// Refuses tensors of the blocks, the last norm or the head that the configuration does not name: without them the numbers
/// would be others. Tables of rotations are made anew, and a head beside tied embeddings is what transformers leaves, too.
fn all_is_read(store: &WeightStore, read: &HashSet<String>) -> Result<()> {
    let counts = |name: &str| {
        let within = ["model.layers.", "model.norm.", "lm_head."].iter().any(|part| name.starts_with(part));
        within && !name.ends_with(".rotary_emb.inv_freq") && name != "lm_head.weight"
    };
    let mut left = store.names().filter(|name| counts(name) && !read.contains(*name));
    let Some(first) = left.next() else { return Ok(()) };
    let more = match left.count() {
        0 => String::new(),
        n => format!(", nor {n} more"),
    };
    let path = store.file_of(first).map(Path::to_path_buf).unwrap_or_default();
    let reason = format!("the configuration has no place for it{more}: without it the model would be another");
    Err(Error::ModelFormat { path, tensor: first.into(), reason })
}

/// NEFTune's noise over one micro-batch.
pub(super) struct Noise<'a> {
    alpha: f64,
    key: DropoutKey,
    layout: &'a Layout,
}

impl Decoder {
    /// Opens a Hugging Face model folder (or a GGUF file) for rows of up to `positions` tokens.
    ///
    /// # Errors
    /// When the config is not supported, or a tensor is absent, of another shape or damaged.
    pub fn open(engine: &Engine, dir: &Path, positions: usize) -> Result<Decoder> {
        let files = ModelFiles::open(dir)?;
        Decoder::load(engine, DecoderConfig::of(&files)?, &WeightStore::of(&files)?, positions)
    }

    /// The decoder of these weights.
    ///
    /// # Errors
    /// As [`Decoder::open`].
    pub fn load(engine: &Engine, c: DecoderConfig, store: &Arc<WeightStore>, positions: usize) -> Result<Decoder> {
        let read = RefCell::new(HashSet::new());
        let get = |name: &str, shape: &[usize]| {
            read.borrow_mut().insert(name.to_string());
            store.get(name, shape)
        };
        let matrix = |name: &str, rows, cols| Matrix::new(engine, get(name, &[rows, cols])?);
        let vector = |name: &str, n| Param::new(engine, &get(name, &[n])?);
        let offset = if c.norm_plus_one { 1.0 } else { 0.0 };
        let norm = |name: &str, n: usize| Param::plus(engine, &get(&format!("{name}.weight"), &[n])?, offset);
        let mut id = 0;
        let mut linear = |shape: LinearShape| -> Result<Linear> {
            let LinearShape { layer, module, out_features: out, in_features, bias } = shape;
            let weight = matrix(&format!("{module}.weight"), out, in_features)?;
            let bias = bias.then(|| vector(&format!("{module}.bias"), out)).transpose()?;
            id += 1;
            Ok(Linear { id: id - 1, layer, module, weight, bias })
        };
        let h = c.hidden_size;
        let (q, kv) = c.head_widths();
        let mut blocks = Vec::with_capacity(c.num_layers);
        for (l, layer) in c.layers.iter().enumerate() {
            let block_norm =
                |name: &str, wanted: bool| wanted.then(|| norm(&format!("model.layers.{l}.{name}"), h)).transpose();
            let Norms { before, after } = c.norms;
            // The same name stands for the MLP's norm where attention has none behind it.
            let mlp_norm = if after { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
            let qk = |what: &str, width| {
                let width = if c.qk_norm == QkNorm::Whole { width } else { c.head_dim };
                norm(&format!("model.layers.{l}.self_attn.{what}_norm"), width)
            };
            let mut all = |shapes: Vec<LinearShape>| shapes.into_iter().map(&mut linear).collect::<Result<Vec<_>>>();
            let qkv = Projection { linears: all(c.qkv(l))?, widths: c.qkv_widths() };
            let o = linear(c.o(l))?;
            let mut all = |shapes: Vec<LinearShape>| shapes.into_iter().map(&mut linear).collect::<Result<Vec<_>>>();
            let gate_up = Projection { linears: all(c.gate_up(l))?, widths: vec![c.intermediate_size; 2] };
            blocks.push(Block {
                input_norm: block_norm("input_layernorm", before)?,
                qkv,
                qk_norms: match c.qk_norm {
                    QkNorm::None => None,
                    _ => Some((qk("q", q)?, qk("k", kv)?)),
                },
                o,
                attention_norm: block_norm("post_attention_layernorm", after)?,
                mlp_norm: block_norm(mlp_norm, before)?,
                gate_up,
                down: linear(c.down(l))?,
                output_norm: block_norm("post_feedforward_layernorm", after)?,
                window: layer.window,
                rope: layer.rope,
            });
        }
        let embed = matrix("model.embed_tokens.weight", c.vocab_size, h)?;
        let weight = if c.tie_word_embeddings { embed.clone() } else { matrix("lm_head.weight", c.vocab_size, h)? };
        let head = Head { weight, scale: c.logit_scale as f32, softcap: c.logit_softcap.map(|c| c as f32) };
        let norm = norm("model.norm", h)?;
        let ropes = tables(engine, &c, positions)?;
        all_is_read(store, &read.into_inner())?;
        // Where weights were copied to a device the files are done with.
        let mapped = engine.fused().then(|| store.clone());
        Ok(Decoder { config: c, embed, blocks, norm, head, ropes, positions, streamed: None, mapped })
    }

    /// Every linear that can carry an adapter, in order.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.blocks.iter().flat_map(|b| b.linears())
    }

    /// Bytes of the weights as they are stored.
    pub fn weight_bytes(&self) -> usize {
        let matrices = self.linears().map(|l| &l.weight).chain([&self.embed]);
        let head = (!self.config.tie_word_embeddings).then_some(&self.head.weight);
        matrices.chain(head).map(|m| m.weight().bytes().len()).sum()
    }

    /// Refuses weights whose files were changed since they were mapped; asked before each pass.
    ///
    /// # Errors
    /// As [`WeightStore::unchanged`].
    pub fn unchanged(&self) -> Result<()> {
        self.mapped.as_ref().map_or(Ok(()), |store| store.unchanged())
    }

    /// The LM head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The longest row in tokens.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Makes room for rows of `positions` tokens, where it was opened for fewer.
    ///
    /// # Errors
    /// When the device refuses the table.
    pub fn grow(&mut self, engine: &Engine, positions: usize) -> Result<()> {
        if positions > self.positions() {
            self.ropes = tables(engine, &self.config, positions)?;
            self.positions = positions;
        }
        Ok(())
    }

    /// Refuses ids and rows that the model has no embedding or position for.
    pub(super) fn check(&self, ids: &[u32], layout: &Layout) -> Result<()> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            return Err(Error::config(
                "data",
                format!("token id {id}, but the model has {} embeddings", self.config.vocab_size),
            ));
        }
        let o = &layout.offsets;
        let rows = o.first() == Some(&0) && o.is_sorted() && o.last() == Some(&(ids.len() as u32));
        if !rows || layout.tokens() != ids.len() || layout.row_ids.len() + 1 != o.len() {
            return Err(Error::Misuse(format!("a layout of {} tokens for {} ids", layout.tokens(), ids.len())));
        }
        let longest = layout.positions.iter().max().map_or(0, |&p| p as usize + 1);
        if longest > self.positions() {
            let found = format!("a row of {longest} tokens, but the model was opened for {}", self.positions());
            return Err(Error::config("max_length", found));
        }
        Ok(())
    }

    pub(super) fn context<'a>(
        &'a self,
        engine: &'a Engine,
        adapter: Option<&'a Adapter>,
        layout: &'a Layout,
        dropout: Option<DropoutKey>,
    ) -> Context<'a> {
        Context { engine, config: &self.config, ropes: &self.ropes, adapter, call: Call { layout, dropout } }
    }

    /// The blocks' input `[N,C]`, with NEFTune's noise where there is one.
    pub(super) fn embed(&self, engine: &Engine, ids: &[u32], noise: Option<Noise>) -> Result<Buf> {
        let c = &self.config;
        let (within, behind) = match c.scaled_behind_embedding {
            true => (1.0, c.embedding_scale),
            false => (c.embedding_scale, 1.0),
        };
        let mut x = embedding::forward(engine, &self.embed, ids)?;
        elementwise::scale(engine, &mut x, within as f32)?;
        if let Some(Noise { alpha, key, layout }) = noise {
            elementwise::neftune(engine, &mut x, c.hidden_size, alpha, key, layout)?;
        }
        elementwise::scale(engine, &mut x, behind as f32)?;
        Ok(x)
    }

    /// Runs the blocks over `ids[N]`. Blocks below the lowest adapted one keep nothing.
    ///
    /// # Errors
    /// When an id or a row is beyond the model, or an operation fails.
    pub fn forward(
        &self,
        engine: &Engine,
        adapter: Option<&Adapter>,
        ids: &[u32],
        layout: Layout,
        keep: Keep,
        dropout: Option<DropoutKey>,
    ) -> Result<Pass> {
        self.check(ids, &layout)?;
        self.unchanged()?;
        let lowest = adapter.and_then(Adapter::lowest_layer).unwrap_or(self.blocks.len());
        // The backward pass begins with the top block: what it saved is still here, so it is never run twice.
        let top = if let Keep::Top(k) = keep { k } else { 0 };
        let whole = self.blocks.len() - top.max(1).min(self.blocks.len());
        let alpha = adapter.and_then(|a| a.neftune_noise_alpha);
        let noise = dropout.zip(alpha).map(|(key, alpha)| Noise { alpha, key, layout: &layout });
        let mut x = self.embed(engine, ids, noise)?;
        self.leave_embedding();
        let mut kept = Vec::with_capacity(self.blocks.len());
        for (l, block) in self.blocks.iter().enumerate() {
            let cx = self.context(engine, adapter, &layout, dropout);
            self.enter(Some(l + 1));
            let (y, saved) = block.forward(cx, x)?;
            self.leave(l);
            kept.push(match keep {
                _ if l < lowest => Kept::Nothing,
                Keep::Nothing => Kept::Nothing,
                _ if l < whole => Kept::Input(saved.into_input()),
                _ => Kept::All(Box::new(saved)),
            });
            x = y;
        }
        Ok(Pass { kept, out: x, layout, dropout, positions: Vec::new() })
    }

    /// The states after the final norm, `[S,C]`, at `positions[S]` (each at most once): what the head reads.
    ///
    /// # Errors
    /// When an operation fails.
    pub fn states(&self, engine: &Engine, pass: &mut Pass, positions: Vec<u32>) -> Result<Buf> {
        let x = rows::gather(engine, &pass.out, self.config.hidden_size, &positions)?;
        pass.positions = positions;
        rms_norm::forward(engine, &x, &self.norm, self.config.rms_norm_eps)
    }

    /// Adds the gradients of one pass: `dh[_,C]` holds those of its states from row `first` on.
    ///
    /// # Errors
    /// When an operation fails.
    pub fn backward(
        &self,
        engine: &Engine,
        adapter: &Adapter,
        pass: Pass,
        dh: &Buf,
        first: usize,
        grads: &mut [SlotGrad],
    ) -> Result<()> {
        let Some(lowest) = adapter.lowest_layer() else { return Ok(()) };
        self.unchanged()?;
        let Pass { mut kept, out, layout, dropout, positions } = pass;
        let c = self.config.hidden_size;
        // The final norm's gradient on the supervised rows alone, then spread over the tokens.
        let mut g = engine.passing(|| {
            let x = rows::gather(engine, &out, c, &positions)?;
            let at: Vec<u32> = (first as u32..(first + positions.len()) as u32).collect();
            let g = rows::gather(engine, dh, c, &at)?;
            let mut dx = engine.take(positions.len(), c)?;
            rms_norm::backward(engine, &x, &self.norm, self.config.rms_norm_eps, &g, &mut dx, false)?;
            drop((x, g, out));
            rows::scatter(engine, layout.tokens(), c, &dx, 0, &positions)
        })?;
        for l in (lowest..self.blocks.len()).rev() {
            let block = &self.blocks[l];
            let cx = self.context(engine, Some(adapter), &layout, dropout);
            self.enter(l.checked_sub(1).filter(|&l| l >= lowest));
            let saved = match kept.pop() {
                Some(Kept::All(saved)) => *saved,
                Some(Kept::Input(x)) => block.forward_saved(cx, x)?,
                _ => return Err(Error::Misuse("a pass that kept nothing was run backward".into())),
            };
            let dx = engine.passing(|| block.backward(cx, saved, g, grads, l > lowest))?;
            self.leave(l);
            match dx {
                Some(dx) => g = dx,
                None => break,
            }
        }
        Ok(())
    }
}

fn tables(engine: &Engine, c: &DecoderConfig, positions: usize) -> Result<Vec<rope::Table>> {
    let table = |r: &Rope| {
        r.check_length(positions)?;
        rope::Table::of(engine, &r.frequencies(), positions)
    };
    c.ropes.iter().map(table).collect()
}
