//! One measure of every example: 8 bytes an example, and what it takes to add it up.

use super::open::DataMap;
use super::query::MapKey;
use crate::dynamics::{confidences, spread, visit_all, Record, NEVER_CORRECT};
use crate::error::Result;

impl DataMap {
    /// A measure of every example, in order of the set; of [`MapKey::Row`] file and row as one number. Takes up to 16
    /// bytes an example.
    pub(super) fn column(&self, key: MapKey) -> Result<Vec<f64>> {
        let mut column = match key {
            MapKey::Row => return Ok(self.log.examples().map(|(row, _)| row as f64).collect()),
            MapKey::Confidence => {
                return Ok(confidences(&self.log, self.kind, &self.which)?.into_iter().map(f64::from).collect());
            }
            MapKey::Forgetfulness => return self.forgetfulness(),
            MapKey::Tokens => {
                let last = self.which.last().map_or(&[][..], std::slice::from_ref);
                return self.added(last, |tokens, r| *tokens = r.n_tokens.into());
            }
            MapKey::Correctness => {
                return self.added(&self.which, |right, r| *right += f64::from(u8::from(r.is_correct())));
            }
            MapKey::MeanProbability => return Ok(self.probability()?.0),
            MapKey::Variability => self.probability()?.1,
            MapKey::Perplexity => self.added(&self.which, |sum, r| *sum += r.perplexity())?,
            MapKey::Nll => self.added(&self.which, |sum, r| *sum += r.nll())?,
        };
        let count = self.which.len() as f64;
        for value in &mut column {
            *value /= count;
            if key == MapKey::Variability {
                *value = value.sqrt();
            }
        }
        Ok(column)
    }

    fn added(&self, which: &[usize], add: impl Fn(&mut f64, &Record)) -> Result<Vec<f64>> {
        let mut column = vec![0.0; self.log.len() as usize];
        visit_all(&self.log, which, |_, r| add(&mut column[r.example as usize], r))?;
        Ok(column)
    }

    /// Mean of `exp(-nll)`, and the sum of its squared differences from that.
    fn probability(&self) -> Result<(Vec<f64>, Vec<f64>)> {
        let mut mean = vec![0.0; self.log.len() as usize];
        let mut squares = mean.clone();
        visit_all(&self.log, &self.which, |visit, r| {
            let i = r.example as usize;
            spread(&mut mean[i], &mut squares[i], visit, r);
        })?;
        Ok((mean, squares))
    }

    fn forgetfulness(&self) -> Result<Vec<f64>> {
        let mut forgot = vec![0.0; self.log.len() as usize];
        // Whether it was right under the checkpoint before, and under any.
        let mut right = vec![(false, false); forgot.len()];
        visit_all(&self.log, &self.which, |_, r| {
            let (was, ever) = &mut right[r.example as usize];
            let is = r.is_correct();
            forgot[r.example as usize] += f64::from(u8::from(*was && !is));
            (*was, *ever) = (is, *ever || is);
        })?;
        for (forgot, (_, ever)) in forgot.iter_mut().zip(right) {
            if !ever {
                *forgot = NEVER_CORRECT.into();
            }
        }
        Ok(forgot)
    }
}
