//! Texts from a model and its adapters.

use std::ffi::{c_char, c_void};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};
use sftmix::{Control, Conversation, GenerateConfig, Generation, Generator};

use crate::border::{self, given_out, json, maybe_text, place, take_all_back, text, Sized, SFTMIX_UNSET};
use crate::fault::{c_text, callback_said, guard, sftmix_status, Fail, Result};
use crate::job::Inside;
use crate::model::{model_of, sftmix_model};
use crate::options::{count, device, real};
use crate::table::{self, Held};

/// A resident model that generates, with one of its adapters or without. One text at a time: who comes while another is
/// generated waits.
pub struct sftmix_generator(());

/// Is told a piece of text, which is the library's and stays until it returns; it may be empty. `false` ends the text
/// there. It is called on the thread that asked for the text, and may call any function but those of its generator that
/// wait for it.
pub type sftmix_text_callback = Option<unsafe extern "C" fn(user_data: *mut c_void, piece: *const c_char) -> bool>;

struct Speaker {
    generator: Mutex<Generator>,
    cancelled: AtomicBool,
    inside: Inside,
}

impl Held for Speaker {
    type Opaque = sftmix_generator;
    const KIND: usize = 3;
}

impl Speaker {
    fn lock(&self) -> Result<MutexGuard<'_, Generator>> {
        self.inside.refuse("asks the generator")?;
        Ok(self.generator.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How text is generated. `sftmix_generate_options_init` sets nothing, and what is not set has the library's default.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_generate_options {
    /// Bytes of the structure, set by `sftmix_generate_options_init`.
    pub struct_size: usize,
    /// Most tokens to generate, at least 1.
    pub max_new_tokens: i64,
    /// 0 takes the likeliest token each time.
    pub temperature: f64,
    /// Samples from so many likeliest tokens.
    pub top_k: i64,
    /// Samples from the fewest tokens whose probabilities add up to this.
    pub top_p: f64,
    /// Samples from tokens that are at least this likely, relative to the likeliest.
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

/// Sets nothing. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generate_options_init(options: *mut sftmix_generate_options) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(options) };
}

unsafe fn config(p: *const sftmix_generate_options) -> Result<GenerateConfig> {
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
}

/// Sets the structure up. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generation_init(generation: *mut sftmix_generation) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(generation) };
}

/// Frees the texts of a generation and sets them to NULL; again, or with NULL, does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generation_free(generation: *mut sftmix_generation) {
    // SAFETY: it is NULL or the caller's, and its texts are from here.
    if let Some(g) = unsafe { generation.as_mut() } {
        unsafe { take_all_back([&mut g.text, &mut g.stop]) };
    }
}

/// Takes a model that is open into use on a device (a word as in `sftmix_train_options`; NULL is `auto`), without an
/// adapter. `threads` may be `SFTMIX_UNSET`.
///
/// `*out` is freed with `sftmix_generator_free`; the model may be freed before. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generator_open(
    model: *const sftmix_model,
    device_word: *const c_char,
    threads: i64,
    out: *mut *mut sftmix_generator,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let out = place(out, "out")?;
        let model = model_of(model)?.ok_or_else(|| Fail::new(sftmix_status::InvalidHandle, "the model is NULL"))?;
        let generator = Generator::on(&model, device(device_word)?, count(threads, "threads")?)?;
        let (cancelled, inside) = (AtomicBool::new(false), Inside::default());
        *out = table::put(Speaker { generator: Mutex::new(generator), cancelled, inside })?;
        Ok(())
    })
}

/// Reads a PEFT adapter folder, to be used by this name; one of the same name goes. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generator_add_adapter(
    generator: *mut sftmix_generator,
    name: *const c_char,
    dir: *const c_char,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let (name, dir) = (text(name, "name")?, text(dir, "dir")?);
        Ok(table::get::<Speaker>(generator)?.lock()?.add_adapter(name, dir.as_ref())?)
    })
}

/// Generates with the adapter of this name from now on, or with none for NULL. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generator_use_adapter(
    generator: *mut sftmix_generator,
    name: *const c_char,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let name = maybe_text(name, "name")?;
        Ok(table::get::<Speaker>(generator)?.lock()?.use_adapter(name)?)
    })
}

/// Names of the adapters that were added, and the one in use, as JSON: `{"adapters": [..], "adapter": ..}`.
///
/// `*out` is freed with `sftmix_string_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generator_adapters(
    generator: *mut sftmix_generator,
    out: *mut *mut c_char,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let speaker = table::get::<Speaker>(generator)?;
        let g = speaker.lock()?;
        let names: Vec<&str> = g.adapters().collect();
        *place(out, "out")? = given_out(&json(&serde_json::json!({"adapters": names, "adapter": g.adapter()}))?);
        Ok(())
    })
}

/// Takes the chat template in a file for the model's own. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generator_load_chat_template(
    generator: *mut sftmix_generator,
    path: *const c_char,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let path = text(path, "path")?;
        Ok(table::get::<Speaker>(generator)?.lock()?.load_chat_template(path.as_ref())?)
    })
}

/// Forgets what a chat has left for its next turn, and frees its memory. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generator_forget(generator: *mut sftmix_generator) -> sftmix_status {
    guard(|| {
        table::get::<Speaker>(generator)?.lock()?.forget();
        Ok(())
    })
}

/// Continues a prompt. `options` may be NULL, `on_text` and `out` as well. A callback that answers `false` ends the text;
/// one that has said why by `sftmix_callback_failed` makes the call fail with `SFTMIX_STATUS_CALLBACK`.
///
/// `out` was set up by `sftmix_generation_init` and is freed with `sftmix_generation_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generator_generate(
    generator: *mut sftmix_generator,
    prompt: *const c_char,
    options: *const sftmix_generate_options,
    on_text: sftmix_text_callback,
    user_data: *mut c_void,
    out: *mut sftmix_generation,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let (prompt, config) = (text(prompt, "prompt")?, config(options)?);
        speak(generator, on_text, user_data, out, |g, hear| g.generate(prompt, &config, hear))
    })
}

/// The reply that follows a conversation, by the model's chat template. `messages_json` is a list of messages with `role`
/// and `content`, or an object with `messages`, `tools`, `documents` and `chat_template_kwargs`. Otherwise as
/// `sftmix_generator_generate`; what a reply has left is built upon by the next. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generator_chat(
    generator: *mut sftmix_generator,
    messages_json: *const c_char,
    options: *const sftmix_generate_options,
    on_text: sftmix_text_callback,
    user_data: *mut c_void,
    out: *mut sftmix_generation,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let chat = conversation(text(messages_json, "messages_json")?)?;
        let config = config(options)?;
        speak(generator, on_text, user_data, out, |g, hear| g.chat(&chat, &config, hear))
    })
}

fn conversation(text: &str) -> Result<Conversation> {
    let bad = |reason: String| Fail::argument("messages_json", &reason);
    let list = |name: &str, value: Option<Value>| match value {
        Some(Value::Array(list)) => Ok(Some(list)),
        None | Some(Value::Null) => Ok(None),
        Some(_) => Err(bad(format!("{name}: expected a list"))),
    };
    let mut map = match serde_json::from_str(text).map_err(|e| bad(format!("not valid JSON: {e}")))? {
        list @ Value::Array(_) => Map::from_iter([("messages".to_string(), list)]),
        Value::Object(map) => map,
        _ => return Err(bad("expected a list of messages, or an object with one".into())),
    };
    let out = Conversation {
        messages: list("messages", map.remove("messages"))?.ok_or_else(|| bad("messages is missing".into()))?,
        tools: list("tools", map.remove("tools"))?,
        documents: list("documents", map.remove("documents"))?,
        extras: match map.remove("chat_template_kwargs") {
            Some(Value::Object(extras)) => extras,
            None | Some(Value::Null) => Map::new(),
            Some(_) => return Err(bad("chat_template_kwargs: expected an object".into())),
        },
        ..Default::default()
    };
    match map.keys().next() {
        Some(name) => Err(bad(format!("{name} is no part of a conversation"))),
        None => Ok(out),
    }
}

type Hear<'a> = &'a mut dyn FnMut(&str) -> Control;

unsafe fn speak(
    generator: *mut sftmix_generator,
    on_text: sftmix_text_callback,
    user_data: *mut c_void,
    out: *mut sftmix_generation,
    make: impl FnOnce(&mut Generator, Hear) -> sftmix::Result<Generation>,
) -> Result<()> {
    let speaker = table::get::<Speaker>(generator)?;
    // SAFETY: passed on.
    unsafe {
        if !out.is_null() {
            border::can_fill(out)?;
        }
        let mut g = speaker.lock()?;
        speaker.cancelled.store(false, SeqCst);
        let (mut cancelled, mut failed) = (false, None);
        let made = make(&mut g, &mut |piece| {
            let piece = c_text(piece);
            let more = on_text.is_none_or(|call| speaker.inside.call(|| call(user_data, piece.as_ptr())));
            if !more {
                failed = callback_said();
            }
            cancelled |= !more || speaker.cancelled.load(SeqCst);
            if cancelled {
                Control::Stop
            } else {
                Control::Continue
            }
        })?;
        drop(g);
        if let Some(reason) = failed {
            return Err(sftmix::Error::Callback { reason }.into());
        }
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
            cancelled,
            ..Sized::unset()
        };
        border::fill(out, value)
    }
}

/// Ends the text that is being generated behind its next token; without one it does nothing. Returns at once. From any
/// thread, callbacks too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generator_cancel(generator: *mut sftmix_generator) -> sftmix_status {
    guard(|| {
        table::get::<Speaker>(generator)?.cancelled.store(true, SeqCst);
        Ok(())
    })
}

/// Frees the generator; a text that is being generated is cancelled and its memory freed by whoever asked for it. NULL is
/// fine. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generator_free(generator: *mut sftmix_generator) -> sftmix_status {
    guard(|| {
        if !generator.is_null() {
            table::take::<Speaker>(generator)?.cancelled.store(true, SeqCst);
        }
        Ok(())
    })
}
