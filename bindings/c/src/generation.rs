//! How text is generated, and what was.

use std::ffi::c_char;

use sftmix::{GenerateConfig, Generation};

use crate::border::{self, given_out, take_all_back, text, Sized, SFTMIX_UNSET};
use crate::fault::{Fail, Result};
use crate::given::{count, real};

/// How text is generated. `sftmix_generate_options_init` sets nothing, and what is not set has the library's default.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_generate_options {
    /// Bytes of the structure, set by `sftmix_generate_options_init`.
    pub struct_size: usize,
    /// Most tokens to generate, at least 1.
    pub max_new_tokens: i64,
    /// 0 and more; 0 takes the likeliest token each time.
    pub temperature: f64,
    /// Samples from so many likeliest tokens, at least 1.
    pub top_k: i64,
    /// Samples from the fewest tokens whose probabilities add up to this, more than 0 and at most 1.
    pub top_p: f64,
    /// Samples from tokens that are at least this likely, relative to the likeliest, 0 to 1.
    pub min_p: f64,
    /// More than 0; 1 changes nothing.
    pub repetition_penalty: f64,
    /// Seed of the sampling, 0 and more.
    pub seed: i64,
    /// The text ends before the first of these; `stop_count` of them.
    pub stop: *const *const c_char,
    /// How many.
    pub stop_count: usize,
}

impl Sized for sftmix_generate_options {
    const NAME: &'static str = "sftmix_generate_options";

    fn unset() -> Self {
        sftmix_generate_options {
            struct_size: std::mem::size_of::<Self>(),
            max_new_tokens: SFTMIX_UNSET,
            temperature: f64::NAN,
            top_k: SFTMIX_UNSET,
            top_p: f64::NAN,
            min_p: f64::NAN,
            repetition_penalty: f64::NAN,
            seed: SFTMIX_UNSET,
            stop: std::ptr::null(),
            stop_count: 0,
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.struct_size
    }
}

/// Sets nothing, in a structure of which the caller has so many bytes: `sftmix_generate_options_init` says how many. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generate_options_init_sized(options: *mut sftmix_generate_options, size: usize) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(options, size) };
}

/// # Safety
/// It is NULL or the caller's.
pub unsafe fn config(p: *const sftmix_generate_options) -> Result<GenerateConfig> {
    // SAFETY: passed on; the list is as long as the caller said.
    unsafe {
        let o = border::read_or_unset(p)?;
        let d = GenerateConfig::default();
        if o.stop.is_null() && o.stop_count > 0 {
            return Err(Fail::argument("stop", "it is NULL, and stop_count is not 0"));
        }
        let stop = (0..o.stop_count).map(|i| text(*o.stop.add(i), "stop").map(String::from));
        Ok(GenerateConfig {
            max_new_tokens: count(o.max_new_tokens, "max_new_tokens")?.unwrap_or(d.max_new_tokens),
            temperature: real(o.temperature).unwrap_or(d.temperature),
            top_k: count(o.top_k, "top_k")?.or(d.top_k),
            top_p: real(o.top_p).or(d.top_p),
            min_p: real(o.min_p).or(d.min_p),
            repetition_penalty: real(o.repetition_penalty).unwrap_or(d.repetition_penalty),
            stop: stop.collect::<Result<_>>()?,
            seed: count(o.seed, "seed")?.unwrap_or(d.seed),
        })
    }
}

/// What was generated. Set up by `sftmix_generation_init`; what a call has filled is freed by `sftmix_generation_free`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_generation {
    /// Bytes of the structure, set by `sftmix_generation_init`.
    pub struct_size: usize,
    /// The text, without the prompt, the end token and the stop string.
    pub text: *mut c_char,
    /// The stop string that ended it; otherwise NULL.
    pub stop: *mut c_char,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Those of them that an earlier turn had left.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub new_tokens: u64,
    /// Seconds from prompt to first token.
    pub prompt_seconds: f64,
    /// Seconds from prompt to last token.
    pub seconds: f64,
    /// It ended with an end token or a stop string, not by a limit or the caller.
    pub stopped: bool,
    /// It was cancelled, or its callback said `false`.
    pub cancelled: bool,
}

impl Sized for sftmix_generation {
    const NAME: &'static str = "sftmix_generation";

    fn unset() -> Self {
        let none = std::ptr::null_mut();
        sftmix_generation {
            struct_size: std::mem::size_of::<Self>(),
            text: none,
            stop: none,
            prompt_tokens: 0,
            cached_tokens: 0,
            new_tokens: 0,
            prompt_seconds: 0.0,
            seconds: 0.0,
            stopped: false,
            cancelled: false,
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.struct_size
    }

    unsafe fn free(&mut self) {
        // SAFETY: passed on.
        unsafe { take_all_back([&mut self.text, &mut self.stop]) };
    }
}

/// Sets up a structure of which the caller has so many bytes: `sftmix_generation_init` says how many. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generation_init_sized(generation: *mut sftmix_generation, size: usize) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(generation, size) };
}

/// Frees the texts of a generation and sets them to NULL; again, or with NULL, does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generation_free(generation: *mut sftmix_generation) {
    // SAFETY: it is NULL or the caller's, and its texts are from here.
    unsafe { border::release(generation) };
}

/// Fills what was generated, unless there is no place for it.
///
/// # Safety
/// It is NULL or the caller's.
pub unsafe fn fill(out: *mut sftmix_generation, made: &Generation) -> Result<()> {
    if out.is_null() {
        return Ok(());
    }
    let value = sftmix_generation {
        text: given_out(&made.text),
        stop: made.stop.as_deref().map_or(std::ptr::null_mut(), given_out),
        prompt_tokens: made.prompt_tokens as u64,
        cached_tokens: made.cached_tokens as u64,
        new_tokens: made.new_tokens as u64,
        prompt_seconds: made.prompt_seconds,
        seconds: made.seconds,
        stopped: made.stopped,
        cancelled: made.cancelled,
        ..Sized::unset()
    };
    // SAFETY: passed on.
    unsafe { border::fill(out, value) }
}
