//! What a model knows: loss and greedy answers over texts with a scored end.

use crate::bpe::{BOS_ID, EOS_ID};
use crate::net::{logits, Lora, Weights, CONFIG};
use crate::ops::row_losses;
use crate::rows::Row;
use crate::world::{Part, World, ATTRIBUTES};
use candle_core::Result;
use tokenizers::Tokenizer;

/// Tokens, of which those from `start` on are scored.
#[derive(Clone)]
pub struct Text {
    pub ids: Vec<u32>,
    pub start: usize,
}

/// What a model makes of a text.
pub struct Score {
    pub nll: f64,
    pub tokens: usize,
    pub correct: usize,
}

pub fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_fast(text, false).expect("any text has tokens").get_ids().to_vec()
}

/// `<s>` prompt completion `</s>`, the completion and the end scored.
pub fn text_of_row(tokenizer: &Tokenizer, row: &Row) -> Text {
    let mut ids = vec![BOS_ID];
    ids.extend(encode(tokenizer, &row.prompt));
    let start = ids.len();
    ids.extend(encode(tokenizer, &row.completion));
    ids.push(EOS_ID);
    Text { ids, start }
}

/// Every fact of a part as a sentence that ends with the value, the value scored.
pub fn fact_texts(world: &World, tokenizer: &Tokenizer, part: Part) -> Vec<Text> {
    let mut texts = Vec::new();
    for h in world.of(part) {
        for (a, attribute) in ATTRIBUTES.iter().enumerate() {
            let said = world.fill(attribute.check, h, a);
            let value = format!(" {}.", world.harbours[h].values[a]);
            let mut ids = vec![BOS_ID];
            ids.extend(encode(tokenizer, said.strip_suffix(&value).expect("the sentence ends with the value")));
            let start = ids.len();
            ids.extend(encode(tokenizer, value.trim_end_matches('.')));
            texts.push(Text { ids, start });
        }
    }
    texts
}

/// Windows of one length: texts without their last token, filled up at the end, where nothing looks.
pub fn pad(texts: &[&Text]) -> (Vec<u32>, usize) {
    let t = texts.iter().map(|x| x.ids.len()).max().unwrap_or(1) - 1;
    let mut ids = Vec::new();
    for x in texts {
        let n = x.ids.len() - 1;
        ids.extend(&x.ids[..n]);
        ids.extend(std::iter::repeat_n(EOS_ID, t - n));
    }
    (ids, t)
}

/// For each position of [`pad`]'s windows the token to score there, or [`crate::ops::IGNORE`].
pub fn targets(texts: &[&Text], t: usize) -> Vec<u32> {
    let mut out = vec![crate::ops::IGNORE; texts.len() * t];
    for (i, x) in texts.iter().enumerate() {
        for p in x.start..x.ids.len() {
            out[i * t + p - 1] = x.ids[p];
        }
    }
    out
}

pub fn score(w: &Weights, lora: Option<&Lora>, texts: &[Text]) -> Result<Vec<Score>> {
    let mut out = Vec::new();
    for part in texts.chunks(32) {
        let part: Vec<&Text> = part.iter().collect();
        let (ids, t) = pad(&part);
        let want = targets(&part, t);
        let x = logits(&CONFIG, w, lora, &ids, t)?.flatten_all()?.to_vec1::<f32>()?;
        let losses = row_losses(&x, &want);
        for (i, text) in part.iter().enumerate() {
            let at = i * t + text.start - 1..i * t + text.ids.len() - 1;
            let correct = at.clone().filter(|&p| best(&x[p * CONFIG.vocab..][..CONFIG.vocab]) == want[p]).count();
            out.push(Score { nll: losses[at.clone()].iter().sum(), tokens: at.len(), correct });
        }
    }
    Ok(out)
}

/// Mean loss of a scored token, and the share of texts whose every scored token is the likeliest.
pub fn summary(scores: &[Score]) -> (f64, f64) {
    let tokens: usize = scores.iter().map(|s| s.tokens).sum();
    let right = scores.iter().filter(|s| s.correct == s.tokens).count();
    (scores.iter().map(|s| s.nll).sum::<f64>() / tokens as f64, right as f64 / scores.len() as f64)
}

fn best(x: &[f32]) -> u32 {
    (0..x.len()).fold(0, |b, i| if x[i] > x[b] { i } else { b }) as u32
}

/// The greedy answer to each text's part before `start`.
pub fn answers(w: &Weights, lora: Option<&Lora>, tokenizer: &Tokenizer, texts: &[Text]) -> Result<Vec<String>> {
    const LONGEST: usize = 16;
    let mut out = Vec::new();
    for part in texts.chunks(50) {
        let mut open: Vec<Vec<u32>> = part.iter().map(|x| x.ids[..x.start].to_vec()).collect();
        for _ in 0..LONGEST {
            let unfinished = |x: &Vec<u32>| x.last() != Some(&EOS_ID);
            if !open.iter().any(unfinished) {
                break;
            }
            let t = open.iter().map(Vec::len).max().unwrap_or(1);
            let ids: Vec<u32> =
                open.iter().flat_map(|x| x.iter().copied().chain(std::iter::repeat_n(EOS_ID, t - x.len()))).collect();
            let x = logits(&CONFIG, w, lora, &ids, t)?.flatten_all()?.to_vec1::<f32>()?;
            for (i, row) in open.iter_mut().enumerate().filter(|(_, row)| unfinished(row)) {
                row.push(best(&x[(i * t + row.len() - 1) * CONFIG.vocab..][..CONFIG.vocab]));
            }
        }
        for (row, text) in open.iter().zip(part) {
            out.push(tokenizer.decode(&row[text.start..], true).expect("ids of the vocabulary"));
        }
    }
    Ok(out)
}
