//! The trained spans of a template that does not name them.
//!
//! Every answer is rendered between two marks, which are characters for private use. Without the marks the text must be
//! the plain rendering: a template that looks into an answer may see the marks, and is then asked with marks set
//! further in, behind blanks that it trims; where no place does, the row is refused. A span begins where the answer would
//! begin behind the generation prompt, so that what the template itself puts before the text, such as a think block,
//! is trained as the model will have to write it. It ends behind the end token that the template writes after the text.

use std::ops::Range;

use serde_json::{json, Value};

use super::conversation::Conversation;
use super::source::ChatSource;
use super::tags::{free_marks, strip};

/// What a template writes around an answer.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    /// The end token.
    pub end: String,
    /// The generation prompt behind a question; empty where it is not known.
    opening: String,
}

impl Manner {
    /// Asks the template, which `render` runs with or without a generation prompt.
    pub fn find(
        source: &ChatSource,
        render: impl Fn(&[Value], bool) -> Result<String, String>,
    ) -> Result<Manner, String> {
        let marks = free_marks(3, &source.template, &source.tool_use.as_deref().map(Value::from))?;
        let [asked, open, close] = [marks[0], marks[1], marks[2]];
        let question = json!({"role": "user", "content": format!("q{asked}")});
        let answer = json!({"role": "assistant", "content": format!("{open}a{close}")});
        // The text, and where each of the marks stands in it, once.
        let places = |text: String, wanted: &[char]| {
            let (text, found) = strip(&text, &marks);
            let places = wanted.iter().map(|mark| {
                let mut all = found.iter().filter(|(m, _)| m == mark).map(|(_, at)| *at);
                all.next().filter(|_| all.next().is_none())
            });
            let places: Option<Vec<usize>> = places.collect();
            places.map(|places| (text, places))
        };
        let answered = places(render(&[question.clone(), answer], false)?, &[open, close]);
        let tail = answered.and_then(|(text, at)| {
            let rest = text[at[0]..].strip_prefix('a')?;
            (at[1] == at[0] + 1).then(|| rest.to_string())
        });
        let tail = tail.ok_or(
            "the chat template does not write an answer out as it is, so that it cannot be told what is trained; a \
             template with generation tags would tell (chat_template)",
        )?;
        let first = tail.trim_start();
        let end = source.special.ends().filter(|end| first.starts_with(end)).max_by_key(|end| end.len());
        let end = end.ok_or_else(|| {
            format!("the chat template writes no end token behind an answer, but {:?}", shortened(&tail))
        })?;
        // A template may refuse a lone question; then spans begin with the text of the answer.
        let prompted = render(&[question], true).ok().and_then(|text| places(text, &[asked]));
        let prompt = prompted.map_or(String::new(), |(text, at)| text[at[0]..].to_string());
        let opening = prompt.rfind(end).map_or(prompt.as_str(), |at| prompt[at + end.len()..].trim_start());
        Ok(Manner { end: end.into(), opening: opening.into() })
    }
}

/// A place in a conversation: message, JSON pointer into it, byte in that string.
type Place = (usize, String, usize);

/// An assistant turn, and where its marks may be set, the widest first.
struct Turn {
    message: usize,
    calls: bool,
    opens: Vec<Place>,
    closes: Vec<Place>,
}

impl Turn {
    fn new(i: usize, message: &Value) -> Result<Turn, String> {
        let texts = texts(message);
        if texts.is_empty() {
            return Err(format!("messages[{i}]: an assistant turn has neither text nor calls"));
        }
        let mut turn = Turn {
            message: i,
            calls: message["tool_calls"].as_array().is_some_and(|c| !c.is_empty()),
            opens: Vec::new(),
            closes: Vec::new(),
        };
        for (pointer, text) in &texts {
            let blank = |trimmed: &str| text.len() - trimmed.len();
            let mut places = vec![0, blank(text.trim_start_matches('\n')), blank(text.trim_start())];
            places.dedup();
            turn.opens.extend(places.into_iter().map(|at| (i, pointer.clone(), at)));
        }
        for (pointer, text) in texts.iter().rev() {
            let least = text.len() - text.trim_start().len();
            let mut places = vec![text.len(), text.trim_end_matches('\n').len(), text.trim_end().len()];
            places.iter_mut().for_each(|at| *at = (*at).max(least));
            places.dedup();
            turn.closes.extend(places.into_iter().map(|at| (i, pointer.clone(), at)));
        }
        Ok(turn)
    }
}

/// The texts of an assistant's message in the order of writing, by JSON pointer.
fn texts(message: &Value) -> Vec<(String, &str)> {
    let mut out: Vec<(String, &str)> = Vec::new();
    let mut add = |pointer: String| {
        if let Some(text) = message.pointer(&pointer).and_then(Value::as_str).filter(|t| !t.is_empty()) {
            out.push((pointer, text));
            return true;
        }
        false
    };
    add("/reasoning_content".into());
    add("/content".into());
    for i in 0..message["content"].as_array().map_or(0, Vec::len) {
        add(format!("/content/{i}/text"));
    }
    for i in 0..message["tool_calls"].as_array().map_or(0, Vec::len) {
        let _ = add(format!("/tool_calls/{i}/function/name")) || add(format!("/tool_calls/{i}/name"));
    }
    if out.is_empty() && message["content"].is_string() {
        out.push(("/content".into(), ""));
    }
    out
}

/// A mark and where it goes.
type Set<'a> = (&'a Place, char);

fn with_marks(messages: &[Value], sets: &[Set<'_>]) -> Vec<Value> {
    let mut messages = messages.to_vec();
    let mut sets: Vec<&Set<'_>> = sets.iter().collect();
    // From behind, so that places hold; of two at one place the later mark goes in first and ends up behind.
    sets.sort_by_key(|(place, mark)| std::cmp::Reverse((place.2, *mark)));
    for ((message, pointer, at), mark) in sets {
        if let Some(Value::String(text)) = messages[*message].pointer_mut(pointer) {
            text.insert(*at, *mark);
        }
    }
    messages
}

/// The trained spans of a conversation whose plain rendering is `plain`.
pub(crate) fn spans(
    source: &ChatSource,
    manner: &Manner,
    chat: &Conversation,
    plain: &str,
    render: impl Fn(&[Value]) -> Result<String, String>,
) -> Result<Vec<Range<usize>>, String> {
    let turns: Vec<Turn> = chat.answers().map(|i| Turn::new(i, &chat.messages[i])).collect::<Result<_, _>>()?;
    let templates = source.tool_use.as_deref().map(Value::from);
    let marks = free_marks(2 * turns.len(), &source.template, chat.messages.iter().chain(&templates))?;
    // Where the marks stand in the text, when nothing else has changed and each is there once.
    let places = |sets: &[Set<'_>]| -> Option<Vec<usize>> {
        let (text, mut found) = strip(&render(&with_marks(&chat.messages, sets)).ok()?, &marks);
        found.sort_unstable();
        let same = found.len() == sets.len() && found.iter().zip(sets).all(|((mark, _), (_, set))| mark == set);
        (text == plain && same).then(|| found.into_iter().map(|(_, at)| at).collect())
    };
    let widest: Vec<Set<'_>> = turns
        .iter()
        .enumerate()
        .flat_map(|(t, turn)| [(&turn.opens[0], marks[2 * t]), (&turn.closes[0], marks[2 * t + 1])])
        .collect();
    let found: Vec<[Option<usize>; 2]> = match places(&widest) {
        Some(found) => found.chunks(2).map(|pair| [Some(pair[0]), Some(pair[1])]).collect(),
        None => {
            let one = |choices: &[Place], mark: char| choices.iter().find_map(|p| Some(places(&[(p, mark)])?[0]));
            let both =
                |(t, turn): (usize, &Turn)| [one(&turn.opens, marks[2 * t]), one(&turn.closes, marks[2 * t + 1])];
            turns.iter().enumerate().map(both).collect()
        }
    };
    let mut spans = Vec::new();
    let mut before = 0;
    for (t, (turn, [open, close])) in turns.iter().zip(&found).enumerate() {
        let place = |what: &str| {
            format!("messages[{}]: {what}; a template with generation tags would tell (chat_template)", turn.message)
        };
        let close = close
            .ok_or_else(|| place("the chat template changes the answer, so that it cannot be told where it ends"))?;
        if open.unwrap_or(close) > close || open.unwrap_or(close) < before {
            return Err(place("the chat template does not write the answers in their order"));
        }
        let start = start(manner, &plain[before..close], open.map(|at| at - before))
            .ok_or_else(|| place("the chat template changes the answer, so that it cannot be told where it begins"))?;
        let next = found.get(t + 1).and_then(|[open, close]| open.or(*close)).unwrap_or(plain.len()).max(close);
        let end = end(source, manner, &plain[close..next], turn.calls)
            .ok_or_else(|| place(&format!("the end token {} does not follow the answer", manner.end)))?;
        let span = before + start..close + end;
        before = span.end;
        if chat.trains(turn.message) {
            spans.push(span);
        }
    }
    Ok(spans)
}

/// Where a turn's span begins in the text up to the close of its answer, which opens at `open` where that is known.
fn start(manner: &Manner, text: &str, open: Option<usize>) -> Option<usize> {
    let upto = open.unwrap_or(text.len());
    let opening = manner.opening.as_str();
    if opening.is_empty() {
        return open;
    }
    let mut prompts = text[..upto].match_indices(opening).map(|(at, _)| at + opening.len());
    match open {
        // The last one: a question may hold the words too. In past turns some templates write no prompt.
        Some(open) => Some(prompts.last().filter(|&at| !text[at..open].contains(&manner.end)).unwrap_or(open)),
        None => prompts.next().filter(|_| prompts.next().is_none()),
    }
}

/// Where the end token ends that follows an answer at the beginning of `text`; calls stand before it.
fn end(source: &ChatSource, manner: &Manner, text: &str, calls: bool) -> Option<usize> {
    let at = text.find(&manner.end)?;
    let between = &text[..at];
    let clean = match calls {
        true => !source.special.ends().any(|token| between.contains(token)),
        false => between.trim().is_empty(),
    };
    clean.then_some(at + manner.end.len())
}

/// The beginning of a text, for errors.
pub(super) fn shortened(text: &str) -> String {
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(60).collect();
    if chars.next().is_some() {
        head + "…"
    } else {
        head
    }
}
