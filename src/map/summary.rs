//! The log as a whole.

use serde::Serialize;

use super::cut::Cut;
use super::open::DataMap;
use crate::config::Confidence;
use crate::dynamics::{confidences, rank_correlation, spread, visit_all, Half, HalfSummary, Lengths, Summary};
use crate::error::Result;
use crate::recipe::Halves;

const QUANTILES: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

/// Mean and quantiles; NaN of no values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MapDistribution {
    /// Arithmetic mean.
    pub mean: f64,
    /// Least.
    pub min: f64,
    /// Lower quartile, linear between neighbours as numpy's default.
    pub q25: f64,
    /// Median, likewise.
    pub median: f64,
    /// Upper quartile, likewise.
    pub q75: f64,
    /// Greatest.
    pub max: f64,
}

impl MapDistribution {
    /// Of these values, which it sorts in their place.
    pub(super) fn new(mut v: Vec<f64>) -> MapDistribution {
        v.sort_unstable_by(f64::total_cmp);
        let mean = v.iter().sum::<f64>() / v.len().max(1) as f64;
        let at = |q: f64| {
            let place = q * v.len().saturating_sub(1) as f64;
            let (low, high) = (place.floor() as usize, place.ceil() as usize);
            let (Some(a), Some(b)) = (v.get(low), v.get(high)) else { return f64::NAN };
            if a == b {
                *a
            } else {
                a + (b - a) * (place - low as f64)
            }
        };
        let [min, q25, median, q75, max] = QUANTILES.map(at);
        MapDistribution { mean, min, q25, median, q75, max }
    }
}

/// What the log says as a whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MapSummary {
    /// Examples.
    pub examples: u64,
    /// Ids of the checkpoints that measures are over.
    pub checkpoints: Vec<String>,
    /// Id of the checkpoint that was still written when the map was opened; it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
    /// What confidence is minus the mean of.
    pub confidence: Confidence,
    /// Of the mean perplexities.
    pub perplexity: MapDistribution,
    /// Of the mean NLLs, nats per token.
    pub nll: MapDistribution,
    /// Rank correlation of confidence by perplexity and by NLL.
    pub spearman: f64,
    /// The confident half.
    pub confident: HalfSummary,
    /// The unconfident half.
    pub unconfident: HalfSummary,
    /// What belongs to neither.
    pub neither: HalfSummary,
}

impl DataMap {
    /// The log as a whole. Reads every record three times and takes at most 24 bytes an example.
    ///
    /// # Errors
    /// [`Error::NothingToTrain`](crate::error::Error::NothingToTrain) with too few examples for a split;
    /// [`Error::Dynamics`](crate::error::Error::Dynamics) names the file of the log and the row.
    pub fn summary(&self) -> Result<MapSummary> {
        let labels = {
            let confidences = confidences(&self.log, self.kind, &self.which)?;
            let halves = Halves::split(&confidences)?;
            self.cut.get_or_init(|| Cut::new(&confidences, &halves));
            halves.labels()
        };
        let mut halves = Summary::default();
        self.add_probabilities(&labels, &mut halves)?;
        let (perplexity, nll) = self.losses()?;
        for ((perplexity, nll), half) in perplexity.iter().zip(&nll).zip(&labels) {
            let h = halves.half_mut(*half);
            h.mean_perplexity += perplexity;
            h.mean_nll += nll;
        }
        drop(labels);
        halves.sums_to_means();
        // Each list of f64 goes as soon as its ranks are all that is needed.
        let of = |values: Vec<f64>| (values.iter().map(|v| -v as f32).collect(), MapDistribution::new(values));
        let (a, perplexity) = of(perplexity);
        let (b, nll) = of(nll);
        Ok(MapSummary {
            examples: self.log.len(),
            checkpoints: self.which.iter().map(|&c| self.log.checkpoints()[c].id.clone()).collect(),
            incomplete: self.incomplete.clone(),
            confidence: self.kind,
            perplexity,
            nll,
            spearman: rank_correlation(a, b),
            confident: halves.confident,
            unconfident: halves.unconfident,
            neither: halves.neither,
        })
    }

    /// Adds up what comes from probabilities and counts, by half.
    fn add_probabilities(&self, labels: &[Half], halves: &mut Summary) -> Result<()> {
        let mut mean = vec![0.0; labels.len()];
        let mut squares = mean.clone();
        let mut tokens = vec![0u32; labels.len()];
        let mut ever_right = vec![false; labels.len()];
        let mut lengths = Lengths::default();
        visit_all(&self.log, &self.which, |visit, r| {
            let i = r.example as usize;
            lengths.compare(visit, r, &mut tokens[i]);
            spread(&mut mean[i], &mut squares[i], visit, r);
            ever_right[i] |= r.is_correct();
        })?;
        lengths.check(&self.log, &self.which)?;
        let count = self.which.len() as f64;
        for (i, &half) in labels.iter().enumerate() {
            let h = halves.half_mut(half);
            h.rows += 1;
            h.mean_tokens += f64::from(tokens[i]);
            h.mean_probability += mean[i];
            h.mean_variability += (squares[i] / count).sqrt();
            h.never_correct += u64::from(!ever_right[i]);
        }
        Ok(())
    }

    /// Mean perplexity and mean NLL of every example.
    fn losses(&self) -> Result<(Vec<f64>, Vec<f64>)> {
        let mut perplexity = vec![0.0; self.log.len() as usize];
        let mut nll = perplexity.clone();
        visit_all(&self.log, &self.which, |_, r| {
            perplexity[r.example as usize] += r.perplexity();
            nll[r.example as usize] += r.nll();
        })?;
        let count = self.which.len() as f64;
        perplexity.iter_mut().chain(&mut nll).for_each(|v| *v /= count);
        Ok((perplexity, nll))
    }
}
