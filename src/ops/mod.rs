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
pub mod attention;
pub mod cache_attention;
pub(crate) mod columns;
pub mod dora;
pub mod elementwise;
pub mod embedding;
pub mod head_loss;
pub mod linear;
pub mod pool;
pub mod rms_norm;
pub mod rope;
pub mod rows;
pub mod transfer;

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use crate::device::DeviceSetting;
use crate::error::{Error, Result};
use crate::kernels::cpu::matvec::{self, LowRank};
use crate::kernels::cpu::product::units_available;
use crate::memory::Account;
use crate::model::weights::{StoredRows, Weight};
use pool::{HostBuf, Pool};
use transfer::Transfer;

/// Which implementation of the operations runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Slices, gemm, SIMD: CPU only.
    Fused,
    /// candle tensor operations: any device; the oracle of the fused form.
    Portable,
}

/// What a phase of a step is spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Products with weights and adapters.
    Linear,
    /// Attention.
    Attention,
    /// LM head and loss.
    Loss,
    /// Norms, rotary embedding, activation, residuals, copies.
    Elementwise,
    /// Clipping and AdamW.
    Optimizer,
}

impl Phase {
    /// Every phase with its name in reports.
    pub const ALL: [(Phase, &'static str); 5] = [
        (Phase::Linear, "linear"),
        (Phase::Attention, "attention"),
        (Phase::Loss, "loss"),
        (Phase::Elementwise, "elementwise"),
        (Phase::Optimizer, "optimizer"),
    ];
}

/// How an engine is made. `Default` is the fused form on the CPU with every core.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Which implementation.
    pub form: Form,
    /// Where buffers live; the fused form needs the CPU.
    pub device: Device,
    /// Type of the portable form's activations.
    pub dtype: DType,
    /// Worker threads; `None` takes the machine's cores.
    pub threads: Option<usize>,
    /// Query rows of an attention tile.
    pub attention_tile: usize,
    /// Supervised rows whose logits exist at once; `None` follows from the vocabulary.
    pub loss_chunk: Option<usize>,
    /// Use the processor's matrix units, where it has them, for products with bf16 weights: the same numbers
    /// as f32 products to rounding (see docs/decisions/0005-matrix-units.md).
    pub matrix_units: bool,
    /// In generation, multiply the blocks of a GGUF base with activations rounded to eight bits, as llama.cpp does:
    /// several times as fast, and off by about half a percent. Prompts longer than a few tokens, training and
    /// scoring are exact always.
    pub rounded_blocks: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            form: Form::Fused,
            device: Device::Cpu,
            dtype: DType::F32,
            threads: None,
            attention_tile: 128,
            loss_chunk: None,
            matrix_units: true,
            rounded_blocks: true,
        }
    }
}

/// Bytes for what is too small to be counted: lists, names, the tables of a file's tensors.
pub(crate) const FIXED: usize = 2 << 20;
/// Bytes of a worker thread: the part of its stack that is used, and what the allocator keeps for it.
pub(crate) const PER_THREAD: usize = 256 << 10;

/// Where operations run: form, device, worker threads, buffers.
#[derive(Debug)]
pub struct Engine {
    /// How it was made.
    pub options: EngineOptions,
    account: Arc<Account>,
    pool: Arc<Pool>,
    workers: rayon::ThreadPool,
    spent: [AtomicU64; Phase::ALL.len()],
    moved: transfer::Counters,
    wait_in_phases: AtomicBool,
}

impl Engine {
    /// Starts the worker threads.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when the fused form is asked for on another device than the CPU, or a
    /// tile or chunk is 0; [`Error::Threads`] when threads cannot be started.
    pub fn new(options: EngineOptions) -> Result<Engine> {
        if options.form == Form::Fused && !options.device.is_cpu() {
            return Err(Error::config("device", "the fused form runs on the CPU only"));
        }
        if options.attention_tile == 0 || options.loss_chunk == Some(0) {
            return Err(Error::config("attention_tile", "tile and loss chunk must be at least 1"));
        }
        let threads = options.threads.unwrap_or_else(available_threads).max(1);
        let account = Arc::new(Account::default());
        account.add(FIXED + threads * PER_THREAD);
        let workers = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("sftmix-{i}"))
            .build()
            .map_err(|e| Error::Threads(e.to_string()))?;
        Ok(Engine {
            options,
            pool: Arc::new(Pool::new(account.clone())),
            account,
            workers,
            spent: Default::default(),
            moved: Default::default(),
            wait_in_phases: AtomicBool::new(false),
        })
    }

    /// Where it computes.
    pub fn setting(&self) -> DeviceSetting {
        crate::device::setting(&self.options.device, self.options.form)
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        self.workers.current_num_threads()
    }

    /// Runs `f` on the engine's worker threads; kernels inside use them. A panic in a worker becomes
    /// [`Error::Threads`] instead of crossing the caller.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let guarded = std::panic::AssertUnwindSafe(|| self.workers.install(f));
        std::panic::catch_unwind(guarded)
            .unwrap_or_else(|panic| Err(Error::Threads(crate::error::panic_text(&*panic).to_string())))
    }

    /// Whether products with bf16 weights run on the processor's matrix units.
    pub fn matrix_units(&self) -> bool {
        self.fused() && self.options.matrix_units && units_available()
    }

    /// What the engine and those who share it hold.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// The store of buffers.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Supervised rows whose logits exist at once, for a vocabulary of `vocab`.
    pub fn loss_chunk(&self, vocab: usize) -> usize {
        // 64 MiB of f32 logits: enough rows to amortise the reading of the head.
        self.options.loss_chunk.unwrap_or_else(|| ((1 << 24) / vocab.max(1)).clamp(32, 512))
    }

    pub(crate) fn fused(&self) -> bool {
        self.options.form == Form::Fused
    }

    pub(crate) fn device(&self) -> &Device {
        &self.options.device
    }

    /// A buffer of unspecified contents (zeros on a device).
    pub(crate) fn take(&self, rows: usize, cols: usize) -> Result<Buf> {
        if self.fused() {
            Ok(Buf::Host(self.pool.take(rows * cols)))
        } else {
            self.zeros(rows, cols)
        }
    }

    /// Runs `f`; the buffers that it takes pass soon, and lie apart from those that are kept.
    pub(crate) fn passing<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        struct Back<'a>(&'a Pool, bool);
        impl Drop for Back<'_> {
            fn drop(&mut self) {
                self.0.set_passing(self.1);
            }
        }
        let _back = Back(&self.pool, self.pool.set_passing(true));
        f()
    }

    /// A buffer of zeros.
    pub fn zeros(&self, rows: usize, cols: usize) -> Result<Buf> {
        Ok(if self.fused() {
            Buf::Host(self.pool.zeros(rows * cols))
        } else {
            Buf::Dev(Tensor::zeros((rows, cols), self.options.dtype, self.device())?)
        })
    }

    /// A buffer in f32 whatever the activation type: for parameters and their gradients.
    ///
    /// # Errors
    /// When the device refuses the copy.
    ///
    /// # Panics
    /// When `data` is not `rows · cols` long.
    pub fn parameter(&self, rows: usize, cols: usize, data: &[f32]) -> Result<Buf> {
        Ok(if self.fused() {
            let mut b = self.pool.take(rows * cols);
            b.copy_from_slice(data);
            Buf::Host(b)
        } else {
            Buf::Dev(self.upload(Transfer::Adapter, data, (rows, cols))?)
        })
    }

    /// Whether a phase ends when the device has done its work, not when it was given it: slower, but then
    /// the phases of a GPU tell where time goes.
    pub(crate) fn wait_in_phases(&self, wait: bool) {
        self.wait_in_phases.store(wait, Relaxed);
    }

    /// Adds the time of `f` to a phase.
    pub(crate) fn timed<T>(&self, phase: Phase, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let out = f();
        if self.wait_in_phases.load(Relaxed) {
            self.synchronize()?;
        }
        self.spent[phase as usize].fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
        out
    }

    /// Seconds spent in each phase so far, in the order of [`Phase::ALL`].
    pub fn phase_seconds(&self) -> [f64; Phase::ALL.len()] {
        std::array::from_fn(|i| self.spent[i].load(Relaxed) as f64 * 1e-9)
    }
}

pub(crate) fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// A matrix of activations or parameters: lent by the pool, or a tensor on the engine's device.
#[derive(Debug)]
pub enum Buf {
    /// Row-major f32 on the host.
    Host(HostBuf),
    /// A two-dimensional tensor.
    Dev(Tensor),
}

impl Buf {
    /// The elements of a host buffer.
    pub(crate) fn host(&self) -> &[f32] {
        match self {
            Buf::Host(b) => b,
            Buf::Dev(_) => unreachable!("a fused operation was given a device buffer"),
        }
    }

    pub(crate) fn host_mut(&mut self) -> &mut [f32] {
        match self {
            Buf::Host(b) => b,
            Buf::Dev(_) => unreachable!("a fused operation was given a device buffer"),
        }
    }

    pub(crate) fn tensor(&self) -> &Tensor {
        match self {
            Buf::Dev(t) => t,
            Buf::Host(_) => unreachable!("a portable operation was given a host buffer"),
        }
    }

    /// The elements, copied to the host in f32, row-major.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        match self {
            Buf::Host(b) => Ok(b.to_vec()),
            Buf::Dev(t) => transfer::values(t),
        }
    }

    /// Elements.
    pub(crate) fn len(&self) -> usize {
        match self {
            Buf::Host(b) => b.len(),
            Buf::Dev(t) => t.elem_count(),
        }
    }

    /// The elements in f32, row-major: where they are on the host, else copied there.
    pub(crate) fn numbers(&self) -> Result<Cow<'_, [f32]>> {
        match self {
            Buf::Host(b) => Ok(Cow::Borrowed(b)),
            Buf::Dev(t) => transfer::values(t).map(Cow::Owned),
        }
    }

    /// Overwrites the elements.
    pub(crate) fn set(&mut self, data: &[f32]) -> Result<()> {
        match self {
            Buf::Host(b) => b.copy_from_slice(data),
            Buf::Dev(t) => transfer::overwrite(t, data)?,
        }
        Ok(())
    }

    /// Sets every element to zero.
    pub(crate) fn clear(&mut self) -> Result<()> {
        match self {
            Buf::Host(b) => b.fill(0.0),
            Buf::Dev(t) => *t = t.zeros_like()?,
        }
        Ok(())
    }

    /// A copy.
    pub(crate) fn copy(&self, engine: &Engine) -> Buf {
        match self {
            Buf::Host(b) => {
                let mut c = engine.pool.take(b.len());
                c.copy_from_slice(b);
                Buf::Host(c)
            }
            Buf::Dev(t) => Buf::Dev(t.clone()),
        }
    }
}

/// A frozen matrix `[rows, cols]` of the model: mapped on the host, uploaded once for the portable form.
#[derive(Debug, Clone)]
pub struct Matrix {
    weight: Weight,
    dev: Option<Tensor>,
}

impl Matrix {
    /// Takes a matrix of the model into use on the engine's device.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn new(engine: &Engine, weight: Weight) -> Result<Matrix> {
        let dev = if engine.fused() { None } else { Some(engine.upload_weight(&weight)?) };
        Ok(Matrix { weight, dev })
    }

    /// Rows (outputs of a linear).
    pub fn rows(&self) -> usize {
        self.weight.rows()
    }

    /// Columns (inputs of a linear).
    pub fn cols(&self) -> usize {
        self.weight.cols()
    }

    pub(crate) fn weight(&self) -> &Weight {
        &self.weight
    }

    /// The rows as the fused products read them.
    pub(crate) fn stored(&self, engine: &Engine) -> StoredRows<'_> {
        self.weight.stored(engine.matrix_units())
    }

    /// `y[m,rows]` of a few vectors `x[m,cols]`, and an adapter's term.
    pub(crate) fn multiply_few(&self, engine: &Engine, x: &[f32], low: Option<LowRank>, y: &mut [f32]) {
        let source = self.weight.source(engine.options.rounded_blocks);
        let order = self.weight.order().map(|order| move |row| order.original(row));
        let place = order.as_ref().map(|p| p as matvec::Place);
        matvec::product(source, place, (x.len() / self.cols(), self.rows(), self.cols()), x, low, y);
    }

    pub(crate) fn tensor(&self) -> &Tensor {
        match &self.dev {
            Some(t) => t,
            None => unreachable!("a portable operation was given a matrix that was not uploaded"),
        }
    }

    /// Lends rows as f32: the map itself where it is f32, else converted into a buffer of the pool.
    pub(crate) fn with_rows<T>(&self, engine: &Engine, rows: std::ops::Range<usize>, f: impl FnOnce(&[f32]) -> T) -> T {
        let cols = self.cols();
        if let Some(all) = self.weight.as_f32() {
            return f(&all[rows.start * cols..rows.end * cols]);
        }
        let mut scratch = engine.pool.scratch(rows.len() * cols);
        crate::kernels::cpu::for_rows(&mut scratch, cols, |r0, out| {
            let first = rows.start + r0;
            self.weight.read_rows(first..first + out.len() / cols, out);
        });
        f(&scratch)
    }
}

/// A frozen vector (norm weight, bias), in f32.
#[derive(Debug, Clone)]
pub struct Param {
    host: Vec<f32>,
    dev: Option<Tensor>,
}

impl Param {
    /// Takes a vector of the model into use on the engine's device.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn new(engine: &Engine, weight: &Weight) -> Result<Param> {
        Param::plus(engine, weight, 0.0)
    }

    /// As [`Param::new`] with `offset` added to each element: Gemma's norms multiply with 1 + weight.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn plus(engine: &Engine, weight: &Weight, offset: f32) -> Result<Param> {
        let mut host = weight.to_vec_f32();
        host.iter_mut().for_each(|v| *v += offset);
        let dev = if engine.fused() { None } else { Some(engine.upload(Transfer::Weights, &host, host.len())?) };
        Ok(Param { host, dev })
    }

    pub(crate) fn host(&self) -> &[f32] {
        &self.host
    }

    pub(crate) fn tensor(&self, dtype: DType) -> Result<Tensor> {
        match &self.dev {
            Some(t) => Ok(t.to_dtype(dtype)?),
            None => unreachable!("a portable operation was given a vector that was not uploaded"),
        }
    }
}

/// Where the tokens of a micro-batch stand: rows end to end.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Cumulated row lengths, `rows + 1` numbers from 0 to N.
    pub(crate) offsets: Vec<u32>,
    /// Position of each token in its row.
    pub(crate) positions: Vec<u32>,
    /// What dropout masks of each row are keyed by (the example's number).
    pub(crate) row_ids: Vec<u64>,
    /// How long the row is, where this is a part of one, as generation runs them.
    part_of: Option<u32>,
    /// The same on the device, for the portable form: uploaded once for all blocks and both passes.
    on_device: Arc<OnDevice>,
}

#[derive(Debug, Default)]
struct OnDevice {
    positions: OnceLock<Tensor>,
    tiles: Mutex<Vec<(attention::TileKey, Arc<Vec<attention::Tile>>)>>,
}

impl Layout {
    /// The layout of rows with these cumulated lengths and names.
    pub fn new(offsets: Vec<u32>, row_ids: Vec<u64>) -> Layout {
        let positions = offsets.windows(2).flat_map(|w| 0..w[1] - w[0]).collect();
        Layout { offsets, positions, row_ids, part_of: None, on_device: Arc::default() }
    }

    /// A part of one row that stands at `positions`; the row is `length` tokens long by then.
    pub(crate) fn part(positions: Vec<u32>, length: u32) -> Layout {
        let offsets = vec![0, positions.len() as u32];
        Layout { offsets, positions, row_ids: vec![0], part_of: Some(length), on_device: Arc::default() }
    }

    /// Whether it was made by [`Layout::part`].
    pub(crate) fn is_part(&self) -> bool {
        self.part_of.is_some()
    }

    /// Tokens of the row whose last position here is `last`.
    pub(crate) fn row_length(&self, last: u32) -> usize {
        self.part_of.unwrap_or(last + 1) as usize
    }

    /// Cumulated row lengths, `rows + 1` numbers from 0 to N.
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// Position of each token in its row.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// N.
    pub fn tokens(&self) -> usize {
        self.positions.len()
    }

    /// The positions `[N]` on the engine's device.
    pub(crate) fn device_positions(&self, engine: &Engine) -> Result<Tensor> {
        if let Some(t) = self.on_device.positions.get() {
            return Ok(t.clone());
        }
        let t = engine.upload(Transfer::Rows, &self.positions, self.tokens())?;
        Ok(self.on_device.positions.get_or_init(|| t).clone())
    }

    /// The tiles of the portable attention.
    pub(crate) fn device_tiles(&self, engine: &Engine, key: attention::TileKey) -> Result<Arc<Vec<attention::Tile>>> {
        // Tiles are pushed whole: a panicking thread leaves nothing half done.
        let mut known = self.on_device.tiles.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, tiles)) = known.iter().find(|(k, _)| *k == key) {
            return Ok(tiles.clone());
        }
        let tiles = Arc::new(attention::tiles(engine, &self.offsets, key)?);
        known.push((key, tiles.clone()));
        Ok(tiles)
    }

    /// The row that each token belongs to.
    pub(crate) fn row_of_token(&self) -> Vec<u32> {
        let rows = self.offsets.windows(2).enumerate();
        rows.flat_map(|(i, w)| std::iter::repeat_n(i as u32, (w[1] - w[0]) as usize)).collect()
    }
}
