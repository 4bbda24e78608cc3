//! From logits to the next token: the repetition penalty, then the tokens that may be drawn (the likeliest k, of
//! those the fewest with probability p, of those the likely ones beside the likeliest), then the draw. This is the
//! order of transformers' processors, each of which starts from what the one before left.

use std::collections::BTreeSet;

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};

use super::config::GenerateConfig;
use crate::error::Result;
use crate::kernels::cpu::attention::softmax_row;

/// Draws tokens.
pub(super) struct Sampler<'a> {
    config: &'a GenerateConfig,
    processor: LogitsProcessor,
    /// Tokens under the repetition penalty.
    seen: BTreeSet<u32>,
}

impl<'a> Sampler<'a> {
    /// For a text that follows these tokens.
    pub fn new(config: &'a GenerateConfig, prompt: &[u32]) -> Sampler<'a> {
        let temperature = config.temperature;
        let sampling = if config.is_greedy() { Sampling::ArgMax } else { Sampling::All { temperature } };
        let processor = LogitsProcessor::from_sampling(config.seed, sampling);
        let seen = if config.repetition_penalty == 1.0 { BTreeSet::new() } else { prompt.iter().copied().collect() };
        Sampler { config, processor, seen }
    }

    /// The next token of logits `[V]`.
    pub fn next(&mut self, mut logits: Vec<f32>) -> Result<u32> {
        let penalty = self.config.repetition_penalty as f32;
        for &id in &self.seen {
            if let Some(v) = logits.get_mut(id as usize) {
                *v = if *v < 0.0 { *v * penalty } else { *v / penalty };
            }
        }
        let next = match self.candidates(&logits) {
            None => self.processor.sample(&Tensor::new(logits, &Device::Cpu)?)?,
            Some(ids) => {
                let logits: Vec<f32> = ids.iter().map(|&id| logits[id as usize]).collect();
                ids[self.processor.sample(&Tensor::new(logits, &Device::Cpu)?)? as usize]
            }
        };
        if penalty != 1.0 {
            self.seen.insert(next);
        }
        Ok(next)
    }

    /// The tokens that may be drawn, in order; `None` for all.
    fn candidates(&self, logits: &[f32]) -> Option<Vec<u32>> {
        let c = self.config;
        let top_p = c.top_p.filter(|&p| p < 1.0);
        if c.is_greedy() || c.top_k.is_none() && top_p.is_none() && c.min_p.is_none() {
            return None;
        }
        let mut p = logits.to_vec();
        softmax_row(&mut p, 0, logits.len(), (1.0 / c.temperature) as f32);
        let p = |id: &u32| p[*id as usize];
        let likelier = |a: &u32, b: &u32| p(b).total_cmp(&p(a)).then(a.cmp(b));
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        if let Some(k) = c.top_k.filter(|&k| k < ids.len()) {
            ids.select_nth_unstable_by(k - 1, likelier);
            ids.truncate(k);
        }
        if let Some(top_p) = top_p {
            let mass: f64 = ids.iter().map(|id| p(id) as f64).sum();
            // All that are less likely together have less than 1 − p, so none of them is among the fewest: only
            // the others need to be sorted.
            let least = (1.0 - top_p) * mass / ids.len() as f64;
            ids.retain(|id| p(id) as f64 >= least);
            ids.sort_unstable_by(likelier);
            let mut sum = 0.0;
            let fewest = ids.iter().position(|id| {
                sum += p(id) as f64;
                sum >= top_p * mass
            });
            ids.truncate(fewest.map_or(ids.len(), |last| last + 1));
        }
        if let Some(min_p) = c.min_p {
            let most = ids.iter().map(p).fold(0.0, f32::max);
            ids.retain(|id| p(id) >= min_p as f32 * most);
        }
        ids.sort_unstable();
        Some(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits whose probabilities are these.
    fn logits(p: &[f32]) -> Vec<f32> {
        p.iter().map(|p| p.ln() + 3.0).collect()
    }

    fn config() -> GenerateConfig {
        GenerateConfig { temperature: 1.0, ..Default::default() }
    }

    fn candidates(config: &GenerateConfig, p: &[f32]) -> Option<Vec<u32>> {
        Sampler::new(config, &[]).candidates(&logits(p))
    }

    #[test]
    fn filters_leave_what_transformers_would() {
        let p = [0.05, 0.4, 0.1, 0.25, 0.2];
        let with = |top_k, top_p, min_p| candidates(&GenerateConfig { top_k, top_p, min_p, ..config() }, &p);
        assert_eq!(with(None, None, None), None);
        assert_eq!(with(None, Some(1.0), None), None);
        assert_eq!(with(Some(2), None, None), Some(vec![1, 3]));
        assert_eq!(with(Some(9), None, None), Some(vec![0, 1, 2, 3, 4]));
        assert_eq!(with(None, Some(0.5), None), Some(vec![1, 3]));
        assert_eq!(with(None, Some(0.7), None), Some(vec![1, 3, 4]));
        assert_eq!(with(None, Some(1e-9), None), Some(vec![1]));
        assert_eq!(with(None, None, Some(0.45)), Some(vec![1, 3, 4]));
        assert_eq!(with(None, None, Some(1.0)), Some(vec![1]));
        // Of the three likeliest (0.85 together), 0.4 is 47 % and 0.65 is 76 %.
        assert_eq!(with(Some(3), Some(0.5), None), Some(vec![1, 3]));
        assert_eq!(with(Some(3), Some(0.47), None), Some(vec![1]));
        assert_eq!(with(Some(3), Some(0.9), Some(0.6)), Some(vec![1, 3]));
    }

    #[test]
    fn a_temperature_flattens_before_the_filters() {
        let p = [0.8, 0.2];
        let hot = |temperature, top_p| {
            candidates(&GenerateConfig { temperature, top_p: Some(top_p), ..config() }, &p).unwrap().len()
        };
        assert_eq!((hot(1.0, 0.75), hot(2.0, 0.75)), (1, 2));
    }

    #[test]
    fn draws_follow_the_probabilities_of_those_left() {
        let c = GenerateConfig { top_k: Some(2), seed: 5, ..config() };
        let mut s = Sampler::new(&c, &[]);
        let mut counts = [0; 4];
        for _ in 0..4000 {
            counts[s.next(logits(&[0.1, 0.6, 0.1, 0.2])).unwrap() as usize] += 1;
        }
        assert_eq!((counts[0], counts[2]), (0, 0));
        assert!((2850..3150).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn the_penalty_is_transformers() {
        let c = GenerateConfig { repetition_penalty: 2.0, ..Default::default() };
        // Of token 1's 3.0 is left 1.5; of token 2's −1.0, −2.0; what was drawn is penalised too.
        let mut s = Sampler::new(&c, &[1, 2]);
        let logits = vec![1.6, 3.0, -1.0, -1.5];
        assert_eq!(s.next(logits.clone()).unwrap(), 0);
        assert_eq!(s.next(logits.clone()).unwrap(), 1);
        let mut s = Sampler::new(&c, &[2]);
        assert_eq!(s.next(vec![-9.0, -9.0, -1.0, -1.5]).unwrap(), 3);
        let plain = Default::default();
        assert_eq!(Sampler::new(&plain, &[1]).next(logits).unwrap(), 1);
    }
}
