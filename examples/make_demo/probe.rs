//! A check that the demo can show something: plain fine-tuning of LoRA on the broken training rows, with the held-out
//! answers after each epoch. A simple loop over autograd; no part of the crate.

use crate::adamw::{cosine, AdamW};
use crate::draw::Draw;
use crate::measure::{answers, pad, score, summary, targets, text_of_row, Text};
use crate::net::{logits, Lora, Weights, CONFIG};
use crate::ops::cross_entropy;
use crate::rows::{Row, KINDS};
use crate::world::ATTRIBUTES;
use candle_core::Result;
use tokenizers::Tokenizer;

pub struct Probe {
    pub seed: u64,
    pub rank: usize,
    pub alpha: f64,
    pub lr: f64,
    pub epochs: usize,
    pub batch: usize,
}

pub fn probe(w: &Weights, tokenizer: &Tokenizer, p: &Probe, train: &[Row], held_out: &[Row]) -> Result<()> {
    let texts: Vec<Text> = train.iter().map(|r| text_of_row(tokenizer, r)).collect();
    let held: Vec<Text> = held_out.iter().map(|r| text_of_row(tokenizer, r)).collect();
    let longest = texts.iter().map(|t| t.ids.len()).max().unwrap_or(0);
    let tokens: usize = texts.iter().map(|t| t.ids.len()).sum();
    eprintln!("{} rows, {tokens} tokens, longest {longest}; r {} alpha {} lr {}", texts.len(), p.rank, p.alpha, p.lr);
    report("base", w, None, tokenizer, held_out, &held)?;

    let lora = Lora::new(&CONFIG, p.rank, p.alpha / p.rank as f64, p.seed)?;
    let vars = lora.pairs.iter().flat_map(|(n, (a, b))| [(format!("{n}.a"), a.clone()), (format!("{n}.b"), b.clone())]);
    let mut adam = AdamW::new(vars.collect(), 0.0);
    let per_epoch = texts.len().div_ceil(p.batch);
    let (mut step, steps) = (0, per_epoch * p.epochs);
    for epoch in 0..p.epochs {
        let mut order: Vec<usize> = (0..texts.len()).collect();
        Draw::new(p.seed, "probe", epoch as u64).shuffle(&mut order);
        let mut sum = 0.0;
        for rows in order.chunks(p.batch) {
            let rows: Vec<&Text> = rows.iter().map(|&i| &texts[i]).collect();
            let (ids, t) = pad(&rows);
            let loss = cross_entropy(&logits(&CONFIG, w, Some(&lora), &ids, t)?, targets(&rows, t))?;
            step += 1;
            adam.step(&loss.backward()?, step, cosine(step, steps / 10 + 1, steps, p.lr))?;
            sum += f64::from(loss.to_scalar::<f32>()?);
        }
        let name = format!("epoch {} train {:.3}", epoch + 1, sum / per_epoch as f64);
        report(&name, w, Some(&lora), tokenizer, held_out, &held)?;
        ranks(w, &lora, train, &texts)?;
    }
    by_attribute(w, &lora, tokenizer, held_out, &held)
}

fn exact(answer: &str, row: &Row) -> bool {
    answer.trim() == row.completion.trim()
}

fn report(
    name: &str,
    w: &Weights,
    lora: Option<&Lora>,
    tokenizer: &Tokenizer,
    rows: &[Row],
    texts: &[Text],
) -> Result<()> {
    let (nll, forced) = summary(&score(w, lora, texts)?);
    let said = answers(w, lora, tokenizer, texts)?;
    let right = said.iter().zip(rows).filter(|(s, r)| exact(s, r)).count() as f64 / rows.len() as f64;
    eprintln!(
        "{name}: held-out nll {nll:.4} exact {:.1} % (forced {:.1} %), e.g. {:?}",
        100.0 * right,
        100.0 * forced,
        said[0]
    );
    Ok(())
}

/// Where the broken rows stand when the training rows are ordered by loss.
fn ranks(w: &Weights, lora: &Lora, train: &[Row], texts: &[Text]) -> Result<()> {
    let losses: Vec<f64> = score(w, Some(lora), texts)?.iter().map(|s| s.nll / s.tokens as f64).collect();
    let mut order: Vec<usize> = (0..losses.len()).collect();
    order.sort_by(|&i, &j| losses[j].total_cmp(&losses[i]));
    let clean: Vec<f64> = (0..train.len()).filter(|&i| train[i].broken.is_none()).map(|i| losses[i]).collect();
    for kind in KINDS {
        let of: Vec<f64> = (0..train.len()).filter(|&i| train[i].broken == Some(kind)).map(|i| losses[i]).collect();
        let above: usize = of.iter().map(|x| clean.iter().filter(|&y| y < x).count()).sum();
        let lower = order[..order.len() / 2].iter().filter(|&&i| train[i].broken == Some(kind)).count();
        let auc = above as f64 / (of.len() * clean.len()) as f64;
        eprint!("    {kind}: auc {auc:.3}, {lower} of {} in the unconfident half", of.len());
    }
    let broken = train.iter().filter(|r| r.broken.is_some()).count();
    let caught = order[..broken].iter().filter(|&&i| train[i].broken.is_some()).count();
    eprintln!("; {caught} broken among the {broken} least confident");
    Ok(())
}

fn by_attribute(w: &Weights, lora: &Lora, tokenizer: &Tokenizer, rows: &[Row], texts: &[Text]) -> Result<()> {
    let said = answers(w, Some(lora), tokenizer, texts)?;
    for (a, attribute) in ATTRIBUTES.iter().enumerate() {
        let of: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].attribute == a).collect();
        let right = of.iter().filter(|&&i| exact(&said[i], &rows[i])).count();
        eprintln!("  {}: {right} of {}", attribute.name, of.len());
    }
    Ok(())
}
