//! Where operations run: form, device, worker threads, and the time they take.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device};

use super::level::{level_of, Simd};
use super::moved::Counters;
use super::pool::Pool;
use super::workers::Workers;
use crate::config::DeviceSetting;
use crate::device::{Chosen, Form};
use crate::error::{Error, Result};
use crate::memory::Account;

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
    /// Worker threads; `None` takes the machine's cores, or those that are shared.
    pub threads: Option<usize>,
    /// Worker threads that are there already, shared with other engines.
    pub workers: Option<Workers>,
    /// Query rows of an attention tile.
    pub attention_tile: usize,
    /// Supervised rows whose logits exist at once; `None` follows from the vocabulary.
    pub loss_chunk: Option<usize>,
    /// Use the processor's matrix units, where it has them, for products with bf16 weights: the same numbers
    /// as f32 products to rounding (see docs/decisions/0005-matrix-units.md).
    pub matrix_units: bool,
    /// Up to which instructions the kernels go; matrix units are used where it is `Auto` or `Amx`.
    pub simd: Simd,
    /// In generation, multiply the blocks of a GGUF base with activations rounded to eight bits, as llama.cpp does:
    /// several times as fast, and off by about half a percent. Prompts longer than a few tokens, training and
    /// scoring are exact always.
    pub rounded_blocks: bool,
}

impl EngineOptions {
    /// Options for a device that works, the rest as by default.
    pub fn on(chosen: &Chosen) -> EngineOptions {
        let mut options = EngineOptions { form: chosen.form, device: chosen.device.clone(), ..Default::default() };
        if !chosen.device.is_cpu() {
            // Launches cost more than the masked half of a tile does.
            options.attention_tile = 512;
        }
        options
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            form: Form::Fused,
            device: Device::Cpu,
            dtype: DType::F32,
            threads: None,
            workers: None,
            attention_tile: 128,
            loss_chunk: None,
            matrix_units: true,
            simd: Simd::Auto,
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
    pub(super) account: Arc<Account>,
    pub(super) pool: Arc<Pool>,
    workers: Workers,
    /// Matrix units may be used.
    units: bool,
    spent: [AtomicU64; Phase::ALL.len()],
    pub(super) moved: Counters,
    wait_in_phases: AtomicBool,
}

impl Engine {
    /// Starts the worker threads.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when the fused form is asked for on another device than the CPU, or a
    /// tile or chunk is 0, another number or level of threads than those that are shared, or a level that the processor lacks; [`Error::Threads`] when threads cannot be started.
    pub fn new(options: EngineOptions) -> Result<Engine> {
        if options.form == Form::Fused && !options.device.is_cpu() {
            return Err(Error::config("device", "the fused form runs on the CPU only"));
        }
        if options.attention_tile == 0 || options.loss_chunk == Some(0) {
            return Err(Error::config("attention_tile", "tile and loss chunk must be at least 1"));
        }
        if options.simd != Simd::Auto && options.form != Form::Fused {
            return Err(Error::config("simd", "it has no effect on the portable form"));
        }
        let (level, units) = level_of(options.simd)?;
        if options.simd == Simd::Amx && !options.matrix_units {
            return Err(Error::config("matrix_units", "simd amx asks for them"));
        }
        let workers = match &options.workers {
            Some(shared) if options.simd != Simd::Auto && shared.level() != level => {
                return Err(Error::config("simd", "the worker threads are shared, and are of another level"));
            }
            Some(shared) => shared.agreed(options.threads).map(|_| shared.clone())?,
            None => Workers::start(options.threads.unwrap_or_else(available_threads), level)?,
        };
        let account = Arc::new(Account::default());
        account.add(FIXED + workers.threads() * PER_THREAD);
        Ok(Engine {
            options,
            pool: Arc::new(Pool::new(account.clone())),
            account,
            workers,
            units,
            spent: Default::default(),
            moved: Default::default(),
            wait_in_phases: AtomicBool::new(false),
        })
    }

    /// Where it computes.
    pub fn setting(&self) -> DeviceSetting {
        crate::device::setting(&self.options.device, self.options.form)
    }

    /// Takes another number of worker threads, at least 1, between two operations.
    ///
    /// # Errors
    /// [`Error::Threads`] when they cannot be started, [`Error::InvalidConfig`] when they are shared and of another
    /// number; the former ones stay.
    pub fn set_threads(&mut self, threads: usize) -> Result<()> {
        if let Some(shared) = &self.options.workers {
            return shared.agreed(Some(threads)).map(drop);
        }
        let had = self.threads();
        self.workers = Workers::start(threads, self.workers.level())?;
        self.account.add(self.threads() * PER_THREAD);
        self.account.sub(had * PER_THREAD);
        Ok(())
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        self.workers.threads()
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
        self.fused() && self.options.matrix_units && self.units
    }

    /// Up to which of the processor's instructions its kernels go; `None` of the portable form, which has none of ours.
    pub fn simd(&self) -> Option<Simd> {
        self.fused().then(|| if self.matrix_units() { Simd::Amx } else { self.workers.level().into() })
    }

    /// The processor's instructions that compute, as `avx512+amx` or `avx2`; `None` where a GPU does.
    pub fn instructions(&self) -> Option<String> {
        let units = if self.matrix_units() { "+amx" } else { "" };
        self.device().is_cpu().then(|| format!("{}{units}", self.workers.level().instructions()))
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
