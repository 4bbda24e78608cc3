//! The decoder a few tokens at a time: keys and values of the tokens so far are kept, so that a new token
//! costs one row of each product. No dropout, nothing kept for a backward pass.

use super::adapter::Adapter;
use super::decoder::Decoder;
use crate::error::{Error, Result};
use crate::ops::{attention, cache_attention, rms_norm, rows, Buf, Engine, Layout};

/// Most tokens of a pass: enough to make the reading of the weights cheap.
const PASS: usize = 512;

/// The rotated keys and the values of a row's tokens in each block.
#[derive(Debug)]
pub struct Cache {
    /// K and V `[capacity, H_kv·D]` of each block.
    blocks: Vec<(Buf, Buf)>,
    tokens: usize,
    capacity: usize,
    /// The keys were rotated as those of a long row are, by LongRoPE.
    long: bool,
}

impl Cache {
    /// Tokens it holds.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Tokens it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all but the first `tokens` tokens.
    pub fn truncate(&mut self, tokens: usize) {
        self.tokens = self.tokens.min(tokens);
    }
}

impl Decoder {
    /// An empty cache for a row of up to `capacity` tokens.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when that is more than the positions the decoder was opened for.
    pub fn cache(&self, engine: &Engine, capacity: usize) -> Result<Cache> {
        if capacity > self.positions() {
            let found = format!("{capacity} tokens, but the model was opened for {}", self.positions());
            return Err(Error::config("max_new_tokens", found));
        }
        let width = self.config.num_kv_heads * self.config.head_dim;
        let pair = |_: &_| Ok((engine.take(capacity, width)?, engine.take(capacity, width)?));
        let blocks = self.blocks.iter().map(pair).collect::<Result<_>>()?;
        Ok(Cache { blocks, tokens: 0, capacity, long: false })
    }

    /// Makes room in a cache for a row of up to `capacity` tokens; what it holds stays.
    ///
    /// # Errors
    /// As [`Decoder::cache`]; where the device refuses a copy, the cache is left without room.
    pub fn widen(&self, engine: &Engine, cache: &mut Cache, capacity: usize) -> Result<()> {
        if capacity <= cache.capacity {
            return Ok(());
        }
        let mut wider = self.cache(engine, capacity)?;
        let width = self.config.num_kv_heads * self.config.head_dim;
        let old = std::mem::replace(cache, Cache { blocks: Vec::new(), tokens: 0, capacity: 0, long: false });
        (wider.tokens, wider.long) = (old.tokens, old.long);
        // Each block's old buffers go as soon as they are copied.
        for ((k, v), (old_k, old_v)) in wider.blocks.iter_mut().zip(old.blocks) {
            cache_attention::copy(engine, k, &old_k, width, old.tokens)?;
            cache_attention::copy(engine, v, &old_v, width, old.tokens)?;
        }
        *cache = wider;
        Ok(())
    }

    /// Whether a row of `length` tokens can go on from this cache. LongRoPE rotates all keys of a row otherwise once it is
    /// longer than the model was first trained for: from there the row has to be run again from its start.
    pub fn goes_on(&self, cache: &Cache, length: usize) -> bool {
        cache.tokens == 0 || cache.long == self.is_long(length)
    }

    fn is_long(&self, length: usize) -> bool {
        self.ropes.iter().any(|table| table.long_from().is_some_and(|from| length > from))
    }

    /// Runs `ids` after the tokens in the cache and adds them to it. Gives the last one's state after the
    /// final norm, `[1,C]`. Many ids run in passes of 512, so that what a pass takes does not grow with them.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when there are no ids, one is beyond the model, or the cache is full. After
    /// an error of an operation the cache holds what it held before. [`Error::Misuse`] where the row cannot go on from the
    /// cache, by [`Decoder::goes_on`].
    pub fn extend(&self, engine: &Engine, adapter: Option<&Adapter>, cache: &mut Cache, ids: &[u32]) -> Result<Buf> {
        let (first, end) = (cache.tokens, cache.tokens + ids.len());
        if end > cache.capacity {
            let found = format!("{end} tokens, but the cache has room for {}", cache.capacity);
            return Err(Error::config("max_new_tokens", found));
        }
        if !self.goes_on(cache, end) {
            return Err(Error::Misuse(format!("with {end} tokens the row's keys are others than the cache holds")));
        }
        let (mut at, mut state) = (first, None);
        cache.long = self.is_long(end);
        for ids in ids.chunks(PASS) {
            state = Some(self.pass(engine, adapter, cache, (at, end), ids)?);
            at += ids.len();
        }
        cache.tokens = end;
        state.ok_or_else(|| Error::config("prompt", "at least one token is needed, found none"))
    }

    /// The tokens of a row that stand at position `at` and after it; in the end the row has `length`.
    fn pass(
        &self,
        engine: &Engine,
        adapter: Option<&Adapter>,
        cache: &mut Cache,
        (at, length): (usize, usize),
        ids: &[u32],
    ) -> Result<Buf> {
        let (c, n) = (&self.config, ids.len());
        let layout = Layout::part((at as u32..(at + n) as u32).collect(), length as u32);
        self.check(ids, &layout)?;
        self.unchanged()?;
        let width = c.num_kv_heads * c.head_dim;
        let mut x = self.embed(engine, ids, None)?;
        for (block, (keys, values)) in self.blocks.iter().zip(&mut cache.blocks) {
            x = block.forward_with(self.context(engine, adapter, &layout, None), x, |shape, q, k, v| {
                cache_attention::write(engine, keys, k, width, at)?;
                cache_attention::write(engine, values, v, width, at)?;
                if at == 0 {
                    attention::forward(engine, shape, &layout, q, k, v)
                } else {
                    cache_attention::forward(engine, shape, q, keys, values, at + n)
                }
            })?;
        }
        let last = rows::gather(engine, &x, c.hidden_size, &[n as u32 - 1])?;
        rms_norm::forward(engine, &last, &self.norm, c.rms_norm_eps)
    }
}
