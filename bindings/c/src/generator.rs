//! Texts from a model and its adapters.

use std::ffi::{c_char, c_void};
use std::ops::DerefMut;

use serde_json::{Map, Value};
use sftmix::{Control, Conversation, Generation, Generator, SharedGenerator};

use crate::border::{self, given_out, json, maybe_text, place, text};
use crate::fault::{c_text, called, guard, sftmix_status, Fail, Result};
use crate::generation::{self, config, sftmix_generate_options, sftmix_generation};
use crate::given::{self, device};
use crate::model::{model_of, sftmix_model};
use crate::table::{self, Held};

/// A resident model that generates, with one of its adapters or without. One text at a time: who comes while another is
/// generated waits.
pub struct sftmix_generator(());

/// Is told a piece of text, which is the library's and stays until it returns; it may be empty. `false` ends the text
/// there. It is called on the thread that asked for the text, and may call any function but those of its generator that
/// wait for it.
pub type sftmix_text_callback = Option<unsafe extern "C" fn(user_data: *mut c_void, piece: *const c_char) -> bool>;

struct Speaker(SharedGenerator);

impl Held for Speaker {
    type Opaque = sftmix_generator;
    const KIND: usize = 3;
}

impl Speaker {
    fn turn(&self) -> Result<impl DerefMut<Target = Generator> + '_> {
        self.0.turn().map_err(|e| self.fail(e))
    }

    /// One that was freed while this call waited for it is a handle that is none any more.
    fn fail(&self, e: sftmix::Error) -> Fail {
        match e {
            sftmix::Error::Misuse(_) if self.0.is_closed() => {
                Fail::new(sftmix_status::InvalidHandle, "the generator was freed before")
            }
            e => e.into(),
        }
    }
}

/// Takes a model that is open into use on a device (a word as in `sftmix_train_options`; NULL is `auto`), without an
/// adapter. `threads` is 1 to 1024, or `SFTMIX_UNSET`.
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
        let generator = Generator::on(&model, device(device_word)?, given::threads(threads)?)?;
        *out = table::put(Speaker(SharedGenerator::new(generator)))?;
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
        Ok(table::get::<Speaker>(generator)?.turn()?.add_adapter(name, dir.as_ref())?)
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
        Ok(table::get::<Speaker>(generator)?.turn()?.use_adapter(name)?)
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
        let g = speaker.turn()?;
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
        Ok(table::get::<Speaker>(generator)?.turn()?.load_chat_template(path.as_ref())?)
    })
}

/// Forgets what a chat has left for its next turn, and frees its memory. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generator_forget(generator: *mut sftmix_generator) -> sftmix_status {
    guard(|| {
        table::get::<Speaker>(generator)?.turn()?.forget();
        Ok(())
    })
}

/// Continues a prompt. `options` may be NULL, `on_text` and `out` as well. A callback that answers `false` ends the text;
/// where it has said why by `sftmix_callback_failed`, the call fails with `SFTMIX_STATUS_CALLBACK`. One that answers `true`
/// has not failed, whatever it said.
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
        speak(generator, on_text, user_data, out, |s, hear| s.generate(prompt, &config, hear))
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
        speak(generator, on_text, user_data, out, |s, hear| s.chat(&chat, &config, hear))
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
    make: impl FnOnce(&SharedGenerator, Hear) -> sftmix::Result<Generation>,
) -> Result<()> {
    let speaker = table::get::<Speaker>(generator)?;
    // SAFETY: passed on.
    unsafe {
        if !out.is_null() {
            border::can_fill(out)?;
        }
        let mut failed = None;
        let made = make(&speaker.0, &mut |piece| {
            let Some(call) = on_text else { return Control::Continue };
            let piece = c_text(piece);
            match called(|| call(user_data, piece.as_ptr())) {
                (true, _) => Control::Continue,
                (false, said) => {
                    failed = said;
                    Control::Stop
                }
            }
        });
        let made = made.map_err(|e| speaker.fail(e))?;
        match failed {
            Some(reason) => Err(sftmix::Error::Callback { reason }.into()),
            None => generation::fill(out, &made),
        }
    }
}

/// Ends the texts that were asked for so far: the one that is being generated behind its next token, those that wait for
/// their turn before they begin. Without one it does nothing, and what is asked for later is not touched. Returns at once.
/// From any thread, callbacks too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generator_cancel(generator: *mut sftmix_generator) -> sftmix_status {
    guard(|| {
        table::get::<Speaker>(generator)?.0.cancel();
        Ok(())
    })
}

/// Frees the generator; a text that is being generated is cancelled and its memory freed by whoever asked for it, and who
/// waits for a turn gets `SFTMIX_STATUS_INVALID_HANDLE`. NULL is fine. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_generator_free(generator: *mut sftmix_generator) -> sftmix_status {
    guard(|| {
        if !generator.is_null() {
            table::take::<Speaker>(generator)?.0.close();
        }
        Ok(())
    })
}
