//! A chat template, compiled: what it writes, and which part of it is trained.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::Serde;
use minijinja::{Environment, Value as Variable};
use serde_json::{Map, Value};

use super::conversation::Conversation;
use super::dialect::Dialect;
use super::source::{ChatSource, SpecialTokens};
use super::turns::{shortened, Manner};
use super::{environment, source, stack, tags, turns, twin};
use crate::data::text::rendered::Rendered;
use crate::error::Result;
use crate::files::ModelFiles;

/// How a conversation is rendered, besides what is in it.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// End in the words that an answer follows.
    pub add_generation_prompt: bool,
    /// Further variables of the template, such as `enable_thinking`; those of the conversation come before them.
    pub extras: Map<String, Value>,
    /// What `strftime_now` takes for now; `None` is the system's clock.
    pub clock: Option<SystemTime>,
}

/// How a template's trained spans are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spans {
    /// The template says so itself, with `{% generation %}`.
    Tags,
    /// The template is known, and one that says so takes its place in training: by this name.
    Twin(&'static str),
    /// Each answer is rendered between marks.
    Marks,
}

impl std::fmt::Display for Spans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Spans::Tags => f.write_str("its generation tags"),
            Spans::Twin(name) => write!(f, "the training form of {name}'s template"),
            Spans::Marks => f.write_str("marks around each answer"),
        }
    }
}

/// A chat template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    source: ChatSource,
    environment: Environment<'static>,
    /// Of the template, and of the one for tools.
    spans: [Spans; 2],
    /// What the template writes around an answer, and the extras it was found with.
    manner: [OnceLock<(Map<String, Value>, Manner)>; 2],
    dialect: OnceLock<Dialect>,
}

/// Names in the environment: of the template, the one for tools, and their forms for training.
const NAMES: [&str; 2] = ["chat_template", "chat_template tool_use"];
const TRAINING: [&str; 2] = ["chat_template (training)", "chat_template tool_use (training)"];

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`](crate::error::Error::ChatTemplate) names the line.
    pub fn new(source: ChatSource) -> Result<ChatTemplate> {
        let fault = |e: minijinja::Error| source::fault(&source.path, environment::reason(&e));
        let mut environment = environment::environment().map_err(fault)?;
        let mut spans = [Spans::Marks; 2];
        for (i, template) in std::iter::once(&source.template).chain(&source.tool_use).enumerate() {
            // As jinja2 does, for which line ends are all one.
            let template = &template.replace("\r\n", "\n").replace('\r', "\n");
            let (text, tags) = tags::rewrite(template);
            environment.add_template_owned(NAMES[i], text.into_owned()).map_err(fault)?;
            let twin = if tags { None } else { twin::of(template) };
            if let Some((_, twin)) = &twin {
                let text = tags::rewrite(twin).0.into_owned();
                environment.add_template_owned(TRAINING[i], text).map_err(fault)?;
            }
            spans[i] = match (tags, twin) {
                (true, _) => Spans::Tags,
                (_, Some((name, _))) => Spans::Twin(name),
                _ => Spans::Marks,
            };
        }
        Ok(ChatTemplate { source, environment, spans, manner: Default::default(), dialect: OnceLock::new() })
    }

    /// The template of a model folder; `None` where it has none.
    ///
    /// # Errors
    /// As [`ChatSource::of`] and [`ChatTemplate::new`].
    pub fn from_dir(model: impl AsRef<Path>) -> Result<Option<ChatTemplate>> {
        ChatSource::of(&ModelFiles::open(model.as_ref())?)?.map(ChatTemplate::new).transpose()
    }

    /// A template as text, with the special tokens that it sees; `path` stands in errors.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn from_text(
        path: impl Into<PathBuf>,
        template: impl Into<String>,
        special: SpecialTokens,
    ) -> Result<ChatTemplate> {
        ChatTemplate::new(ChatSource::from_text(path, template, special))
    }

    /// What it was compiled from.
    pub fn source(&self) -> &ChatSource {
        &self.source
    }

    /// How trained spans are found, where there are no tools.
    pub fn spans(&self) -> Spans {
        self.spans[0]
    }

    /// The text of a conversation; nothing in it is trained. With
    /// [`add_generation_prompt`](RenderOptions::add_generation_prompt) an answer may follow it.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`](crate::error::Error::ChatTemplate): the template refuses the conversation, or fails.
    pub fn render(&self, chat: &Conversation, options: &RenderOptions) -> Result<Rendered> {
        let text = self.run(&Run::new(self, chat, options), &chat.messages).map_err(|e| self.fault(e))?;
        Ok(Rendered { text, chat: true, ..Default::default() })
    }

    /// The text of a conversation with each of its assistant turns, from
    /// [`trained_from`](Conversation::trained_from) on, as a trained span, its end token included.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`](crate::error::Error::ChatTemplate): as [`ChatTemplate::render`]; or it cannot be told what is
    /// trained, or an answer has no end token.
    pub fn training(&self, chat: &Conversation, options: &RenderOptions) -> Result<Rendered> {
        self.trained(chat, options).map_err(|e| self.fault(e))
    }

    /// The token that the template ends an answer with: where an answer that is generated is over.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`](crate::error::Error::ChatTemplate): there is none, or it cannot be told.
    pub fn end_token(&self, options: &RenderOptions) -> Result<String> {
        let run = Run::new(self, &Conversation::default(), options);
        self.manner(&run).map(|m| m.end).map_err(|e| self.fault(e))
    }

    /// What it understands.
    pub(crate) fn dialect(&self) -> &Dialect {
        self.dialect.get_or_init(|| {
            let words = [Some(self.source.template.as_str()), self.source.tool_use.as_deref()];
            let words = words.into_iter().flatten().collect::<Vec<_>>().join("\n");
            let run = Run::new(self, &Conversation::default(), &RenderOptions::default());
            Dialect::find(&words, |messages| self.run(&run, messages))
        })
    }

    /// The text of a conversation as it is trained on, in the form that stands for the template in training.
    pub(crate) fn training_text(&self, chat: &Conversation, options: &RenderOptions) -> Result<String, String> {
        let mut run = Run::new(self, chat, options);
        run.training = matches!(self.spans[run.which], Spans::Twin(_));
        self.run(&run, &chat.messages)
    }

    fn fault(&self, reason: String) -> crate::error::Error {
        source::fault(&self.source.path, reason)
    }

    pub(crate) fn trained(&self, chat: &Conversation, options: &RenderOptions) -> Result<Rendered, String> {
        let mut run = Run::new(self, chat, options);
        run.training = matches!(self.spans[run.which], Spans::Twin(_));
        let (text, spans) = if self.spans[run.which] != Spans::Marks {
            let marks = tags::free_marks(2, &self.source.template, &chat.messages)?;
            run.marks = Some(marks.iter().collect());
            let (text, found) = tags::strip(&self.run(&run, &chat.messages)?, &marks);
            let spans = tags::spans(&found, marks[0]).map_err(|e| format!("the chat template: {e}"))?;
            let spans = self.kept(chat, spans)?;
            self.ends_are_trained(&text, &spans)?;
            (text, spans)
        } else {
            let text = self.run(&run, &chat.messages)?;
            let spans = self.marked(&run, chat, &text)?;
            (text, spans)
        };
        Ok(Rendered { text, spans, chat: true, ..Default::default() })
    }

    /// Those spans that lie in the part of the conversation that is trained.
    fn kept(&self, chat: &Conversation, spans: Vec<Range<usize>>) -> Result<Vec<Range<usize>>, String> {
        let answers: Vec<bool> = chat.answers().map(|i| chat.trains(i)).collect();
        let (turns, found) = (answers.len(), spans.len());
        if turns == found {
            return Ok(spans.into_iter().zip(answers).filter(|(_, trains)| *trains).map(|(span, _)| span).collect());
        }
        match answers.iter().all(|trains| *trains) {
            true => Ok(spans),
            false => Err(format!(
                "the chat template has {found} generation blocks for {turns} assistant turns, so that it cannot be told \
                 which of them are trained"
            )),
        }
    }

    /// A model that never learns to end goes on until it is stopped.
    fn ends_are_trained(&self, text: &str, spans: &[Range<usize>]) -> Result<(), String> {
        let mut ends = self.source.special.ends().peekable();
        if ends.peek().is_none() {
            return Ok(());
        }
        let ends: Vec<&str> = ends.collect();
        match spans.iter().find(|s| !ends.iter().any(|end| text[(*s).clone()].trim_end().ends_with(end))) {
            Some(span) => Err(format!(
                "the chat template: the generation block {:?} does not end in an end token",
                shortened(&text[span.clone()])
            )),
            None => Ok(()),
        }
    }

    fn marked(&self, run: &Run, chat: &Conversation, text: &str) -> Result<Vec<Range<usize>>, String> {
        if chat.answers().next().is_none() {
            return Ok(Vec::new());
        }
        let manner = self.manner(run)?;
        turns::spans(&self.source, &manner, chat, text, |messages| self.run(run, messages))
    }

    fn manner(&self, run: &Run) -> Result<Manner, String> {
        if let Some((_, manner)) = self.manner[run.which].get().filter(|(extras, _)| *extras == run.extras) {
            return Ok(manner.clone());
        }
        let manner = Manner::find(&self.source, |messages, prompt| {
            self.run(&Run { tools: Variable::from(()), prompt, ..run.clone() }, messages)
        })?;
        let _ = self.manner[run.which].set((run.extras.clone(), manner.clone()));
        Ok(manner)
    }

    fn run(&self, run: &Run, messages: &[Value]) -> Result<String, String> {
        let name = if run.training { TRAINING } else { NAMES }[run.which];
        let mut context: HashMap<&str, Variable> = HashMap::new();
        for (name, value) in self.source.special.named.iter().chain(&run.extras) {
            context.insert(name, Variable::from(Serde(value)));
        }
        context.insert("messages", Variable::from(Serde(messages)));
        context.insert("tools", run.tools.clone());
        context.insert("documents", run.documents.clone());
        context.insert("add_generation_prompt", run.prompt.into());
        if let Some(marks) = &run.marks {
            context.insert(environment::MARKS, marks.as_str().into());
        }
        if let Some(now) = &run.now {
            context.insert(environment::NOW, now.as_str().into());
        }
        let render = || {
            let template = self.environment.get_template(name).map_err(|e| environment::reason(&e))?;
            template.render(Variable::from_pairs(context)).map_err(|e| environment::reason(&e))
        };
        stack::with_room(render)?
    }
}

/// One conversation under one template, but for the messages.
#[derive(Clone)]
struct Run {
    /// Index into the names.
    which: usize,
    training: bool,
    extras: Map<String, Value>,
    tools: Variable,
    documents: Variable,
    prompt: bool,
    marks: Option<String>,
    now: Option<String>,
}

impl Run {
    fn new(template: &ChatTemplate, chat: &Conversation, options: &RenderOptions) -> Self {
        let mut extras = options.extras.clone();
        extras.extend(chat.extras.iter().map(|(key, value)| (key.clone(), value.clone())));
        let seconds = |t: SystemTime| t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()).to_string();
        Run {
            which: usize::from(chat.tools.is_some() && template.source.tool_use.is_some()),
            training: false,
            extras,
            tools: Variable::from(Serde(&chat.tools)),
            documents: Variable::from(Serde(&chat.documents)),
            prompt: options.add_generation_prompt,
            marks: None,
            // One time for all renderings of a conversation, which are compared with each other.
            now: Some(seconds(options.clock.unwrap_or_else(SystemTime::now))),
        }
    }
}
