//! Text from a model and its adapters.

use std::ops::DerefMut;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;

use serde_json::{Map, Value};
use sftmix::{Control, Conversation, DeviceSetting};

use crate::border::{aside, Home};
use crate::error::{Result, SftmixError};
use crate::job::Model;
use crate::records::Generation;

/// How text is generated.
#[derive(Clone, Debug, uniffi::Record)]
pub struct GenerateSettings {
    /// Most tokens to generate, at least 1.
    #[uniffi(default = 128)]
    pub max_new_tokens: u64,
    /// Divides the logits before sampling; 0 takes the likeliest token each time.
    #[uniffi(default = 0.0)]
    pub temperature: f64,
    /// Samples from this many likeliest tokens.
    #[uniffi(default = None)]
    pub top_k: Option<u64>,
    /// Samples from the fewest tokens whose probabilities add up to this, more than 0 and at most 1.
    #[uniffi(default = None)]
    pub top_p: Option<f64>,
    /// Samples from tokens that are at least this likely, relative to the likeliest, 0 to 1.
    #[uniffi(default = None)]
    pub min_p: Option<f64>,
    /// Makes tokens that are there already less likely; 1 changes nothing.
    #[uniffi(default = 1.0)]
    pub repetition_penalty: f64,
    /// The text ends before the first of these.
    #[uniffi(default = [])]
    pub stop: Vec<String>,
    /// Seed of the sampling.
    #[uniffi(default = 0)]
    pub seed: u64,
}

impl From<GenerateSettings> for sftmix::GenerateConfig {
    fn from(s: GenerateSettings) -> Self {
        sftmix::GenerateConfig {
            max_new_tokens: s.max_new_tokens as usize,
            temperature: s.temperature,
            top_k: s.top_k.map(|k| k as usize),
            top_p: s.top_p,
            min_p: s.min_p,
            repetition_penalty: s.repetition_penalty,
            stop: s.stop,
            seed: s.seed,
        }
    }
}

/// A message of a conversation.
#[derive(Clone, Debug, uniffi::Record)]
pub struct Message {
    /// system, user, assistant, or what else the model's template knows.
    pub role: String,
    /// Its text.
    pub content: String,
    /// Further keys that the template reads (`tool_calls`, `reasoning_content`, …), a JSON object.
    #[uniffi(default = None)]
    pub more_json: Option<String>,
}

/// Is told each piece of text as it comes, on the thread that generates.
#[uniffi::export(with_foreign)]
pub trait TextListener: Send + Sync {
    /// Whether to go on; an error ends the text and reaches the caller.
    fn on_text(&self, piece: String) -> Result<bool>;
}

/// A resident model that generates, with one of its adapters or without. Calls from several threads take their turns.
#[derive(Debug, uniffi::Object)]
pub struct Generator {
    held: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    shared: sftmix::SharedGenerator,
    home: Home,
}

impl Held {
    fn turn(&self) -> Result<impl DerefMut<Target = sftmix::Generator> + '_> {
        self.home.check()?;
        Ok(self.shared.turn()?)
    }

    /// One text. `abandoned` ends it where nobody waits for it any more.
    fn make(
        &self,
        listener: Option<Arc<dyn TextListener>>,
        abandoned: &AtomicBool,
        work: impl FnOnce(&sftmix::SharedGenerator, &mut dyn FnMut(&str) -> Control) -> sftmix::Result<sftmix::Generation>,
    ) -> Result<Generation> {
        self.home.check()?;
        let mut failed = None;
        let made = work(&self.shared, &mut |piece| {
            let told = match &listener {
                Some(listener) if !piece.is_empty() => listener.on_text(piece.into()),
                _ => Ok(true),
            };
            match told {
                Ok(true) if !abandoned.load(SeqCst) => Control::Continue,
                Ok(_) => Control::Stop,
                Err(e) => {
                    failed = Some(e);
                    Control::Stop
                }
            }
        });
        failed.map_or_else(|| Ok(made?.into()), Err)
    }

    fn generate(
        &self,
        prompt: String,
        settings: GenerateSettings,
        listener: Option<Arc<dyn TextListener>>,
        abandoned: &AtomicBool,
    ) -> Result<Generation> {
        self.make(listener, abandoned, |shared, on_text| shared.generate(&prompt, &settings.into(), on_text))
    }

    fn chat(
        &self,
        messages: Vec<Message>,
        tools_json: Option<String>,
        settings: GenerateSettings,
        listener: Option<Arc<dyn TextListener>>,
        abandoned: &AtomicBool,
    ) -> Result<Generation> {
        let invalid = |field: &str, reason: String| {
            SftmixError::from(sftmix::Error::InvalidConfig { field: field.into(), reason })
        };
        let message = |m: Message| -> Result<Value> {
            let mut all = Map::new();
            all.insert("role".into(), m.role.into());
            all.insert("content".into(), m.content.into());
            if let Some(more) = m.more_json {
                let more: Map<String, Value> = serde_json::from_str(&more)
                    .map_err(|e| invalid("more_json", format!("expected a JSON object: {e}")))?;
                all.extend(more);
            }
            Ok(all.into())
        };
        let tools = tools_json.map(|text| {
            serde_json::from_str(&text).map_err(|e| invalid("tools_json", format!("expected a JSON array: {e}")))
        });
        let messages = messages.into_iter().map(message).collect::<Result<_>>()?;
        let chat = Conversation { tools: tools.transpose()?, ..Conversation::new(messages) };
        self.make(listener, abandoned, |shared, on_text| shared.chat(&chat, &settings.into(), on_text))
    }
}

#[uniffi::export]
impl Generator {
    /// Takes a model into use, with a PEFT adapter folder where one is given. `device` is auto, cpu, cuda, cuda:N or metal;
    /// without `threads` the machine's cores are taken.
    #[uniffi::constructor(default(adapter = None, device = "auto", threads = None))]
    pub fn open(
        model: Arc<Model>,
        adapter: Option<String>,
        device: String,
        threads: Option<u64>,
    ) -> Result<Arc<Generator>> {
        model.home.check()?;
        let device: DeviceSetting =
            device.parse().map_err(|reason| sftmix::Error::InvalidConfig { field: "device".into(), reason })?;
        if let Some(n) = threads.filter(|n| !(1..=1024).contains(n)) {
            let reason = format!("expected 1 to 1024, found {n}");
            return Err(sftmix::Error::InvalidConfig { field: "threads".into(), reason }.into());
        }
        let mut core = sftmix::Generator::on(&model.core, device, threads.map(|n| n as usize))?;
        core.set_adapter(adapter.as_deref().map(Path::new))?;
        let held = Held { shared: sftmix::SharedGenerator::new(core), home: Home::here() };
        Ok(Arc::new(Generator { held: Arc::new(held) }))
    }

    /// Reads a PEFT adapter folder, to be used by this name; one of the same name goes.
    pub fn add_adapter(&self, name: String, path: String) -> Result<()> {
        Ok(self.held.turn()?.add_adapter(&name, path.as_ref())?)
    }

    /// Generates with the adapter of this name from now on, or with none.
    pub fn use_adapter(&self, name: Option<String>) -> Result<()> {
        Ok(self.held.turn()?.use_adapter(name.as_deref())?)
    }

    /// The names of the adapters, in the order in which they were added.
    pub fn adapters(&self) -> Result<Vec<String>> {
        Ok(self.held.turn()?.adapters().map(String::from).collect())
    }

    /// The name of the adapter in use.
    pub fn adapter(&self) -> Result<Option<String>> {
        Ok(self.held.turn()?.adapter().map(String::from))
    }

    /// The most tokens that prompt and text may have together.
    pub fn context(&self) -> Result<u64> {
        Ok(self.held.turn()?.context() as u64)
    }

    /// Continues a prompt.
    #[uniffi::method(default(listener = None))]
    pub fn generate(
        &self,
        prompt: String,
        settings: GenerateSettings,
        listener: Option<Arc<dyn TextListener>>,
    ) -> Result<Generation> {
        self.held.generate(prompt, settings, listener, &AtomicBool::new(false))
    }

    /// As `generate`, for callers that await. Where the caller is cancelled, the text ends.
    #[uniffi::method(default(listener = None))]
    pub async fn generate_async(
        &self,
        prompt: String,
        settings: GenerateSettings,
        listener: Option<Arc<dyn TextListener>>,
    ) -> Result<Generation> {
        let (held, abandoned) = (self.held.clone(), Arc::new(AtomicBool::new(false)));
        let ends = abandoned.clone();
        let work = move || held.generate(prompt, settings, listener, &abandoned);
        aside(work, move || ends.store(true, SeqCst)).await
    }

    /// The reply that follows a conversation, by the model's own chat template. What the last reply has left in the cache
    /// is built upon. `tools_json` is a JSON array of functions' schemas.
    #[uniffi::method(default(tools_json = None, listener = None))]
    pub fn chat(
        &self,
        messages: Vec<Message>,
        settings: GenerateSettings,
        tools_json: Option<String>,
        listener: Option<Arc<dyn TextListener>>,
    ) -> Result<Generation> {
        self.held.chat(messages, tools_json, settings, listener, &AtomicBool::new(false))
    }

    /// As `chat`, for callers that await. Where the caller is cancelled, the text ends.
    #[uniffi::method(default(tools_json = None, listener = None))]
    pub async fn chat_async(
        &self,
        messages: Vec<Message>,
        settings: GenerateSettings,
        tools_json: Option<String>,
        listener: Option<Arc<dyn TextListener>>,
    ) -> Result<Generation> {
        let (held, abandoned) = (self.held.clone(), Arc::new(AtomicBool::new(false)));
        let ends = abandoned.clone();
        let work = move || held.chat(messages, tools_json, settings, listener, &abandoned);
        aside(work, move || ends.store(true, SeqCst)).await
    }

    /// Ends the texts that were asked for so far, from another thread: what there is of them is returned.
    pub fn cancel(&self) {
        self.held.shared.cancel();
    }

    /// Frees what a chat has left in the cache.
    pub fn forget(&self) -> Result<()> {
        self.held.turn()?.forget();
        Ok(())
    }
}
