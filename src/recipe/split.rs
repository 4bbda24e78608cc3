//! The median split (arXiv 2410.05248): two halves of equal size by confidence.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Where an example ended up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Half {
    /// Above the median.
    Confident,
    /// Below it.
    Unconfident,
    /// The middle example of an odd set, or one that imported dynamics do not know.
    Neither,
}

impl Half {
    /// As in exported tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Half::Confident => "confident",
            Half::Unconfident => "unconfident",
            Half::Neither => "neither",
        }
    }
}

impl std::str::FromStr for Half {
    type Err = String;

    fn from_str(s: &str) -> Result<Half, String> {
        let all = [Half::Confident, Half::Unconfident, Half::Neither];
        let found = all.into_iter().find(|h| h.as_str() == s);
        found.ok_or_else(|| format!("expected one of {}, found {s:?}", all.map(Half::as_str).join(", ")))
    }
}

/// The two halves, and what belongs to neither and trains by next-token prediction alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halves {
    /// Confident, unconfident, neither, one behind the other.
    order: Vec<u32>,
    half: usize,
}

impl Halves {
    /// Sorts by (confidence descending, index ascending): the first ⌊n/2⌋ are confident, the last
    /// ⌊n/2⌋ unconfident, each half in that order. Published: equal halves at the median; ours: ties,
    /// odd sizes, and that rows with NaN for a confidence belong to neither. 4 bytes a row beside the
    /// confidences.
    ///
    /// # Errors
    /// [`Error::NothingToTrain`] with fewer than two rows of known confidence.
    pub fn split(confidences: &[f32]) -> Result<Halves> {
        let n = u32::try_from(confidences.len())
            .map_err(|_| Error::NothingToTrain { reason: format!("{} rows, more than 2^32", confidences.len()) })?;
        let conf = |i: u32| confidences[i as usize];
        let mut order: Vec<u32> = (0..n).collect();
        order.sort_unstable_by(|&i, &j| {
            let (a, b) = (conf(i), conf(j));
            // The unknown last; equal numbers compare equal whatever the sign of a zero.
            let by_confidence = b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
            by_confidence.then(i.cmp(&j))
        });
        let known = order.partition_point(|&i| !conf(i).is_nan());
        let half = known / 2;
        if half == 0 {
            let reason = format!("a split needs two rows of known confidence, found {known} of {n}");
            return Err(Error::NothingToTrain { reason });
        }
        if known % 2 == 1 {
            order[half..known].rotate_left(1);
        }
        Ok(Halves { order, half })
    }

    /// The confident half, most confident first.
    pub fn confident(&self) -> &[u32] {
        &self.order[..self.half]
    }

    /// The unconfident half, most confident first.
    pub fn unconfident(&self) -> &[u32] {
        &self.order[self.half..2 * self.half]
    }

    /// What belongs to neither half: the middle of an odd set, then rows of unknown confidence.
    pub fn neither(&self) -> &[u32] {
        &self.order[2 * self.half..]
    }

    /// Number of pairs in an epoch.
    pub fn pairs(&self) -> usize {
        self.half
    }

    /// One label an example, in order of the set.
    pub fn labels(&self) -> Vec<Half> {
        let mut labels = vec![Half::Neither; self.order.len()];
        for (half, label) in [(self.confident(), Half::Confident), (self.unconfident(), Half::Unconfident)] {
            for &i in half {
                labels[i as usize] = label;
            }
        }
        labels
    }

    /// Jaccard overlap `|A ∩ B| / |A ∪ B|` of the confident halves of two splits of the same set: 1
    /// where they agree, ⅓ by chance.
    pub fn overlap(&self, other: &Halves) -> f64 {
        let mut seen = vec![false; self.order.len()];
        for &i in self.confident() {
            seen[i as usize] = true;
        }
        let both = other.confident().iter().filter(|&&i| seen.get(i as usize) == Some(&true)).count();
        both as f64 / (self.half + other.half - both) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_by_index_and_the_middle_of_an_odd_set_to_neither() {
        let h = Halves::split(&[-2.0, -1.0, -2.0, -2.0, -3.0]).unwrap();
        assert_eq!((h.confident(), h.unconfident(), h.neither()), (&[1, 0][..], &[3, 4][..], &[2][..]));
        let h = Halves::split(&[0.0, -0.0, 0.0, -0.0]).unwrap();
        assert_eq!((h.confident(), h.unconfident()), (&[0, 1][..], &[2, 3][..]));
    }

    #[test]
    fn unknown_rows_belong_to_neither_and_infinite_ones_rank_last() {
        let nan = f32::NAN;
        let h = Halves::split(&[nan, -1.0, f32::NEG_INFINITY, nan, -5.0, -2.0, -3.0]).unwrap();
        assert_eq!((h.confident(), h.unconfident()), (&[1, 5][..], &[4, 2][..]));
        assert_eq!(h.neither(), [6, 0, 3]);
        use Half::*;
        assert_eq!(h.labels(), [Neither, Confident, Unconfident, Neither, Unconfident, Confident, Neither]);
        assert!(Halves::split(&[nan, -1.0]).unwrap_err().to_string().contains("found 1 of 2"));
        assert!(Halves::split(&[]).is_err());
    }

    #[test]
    fn a_half_is_one_word_in_text_and_json() {
        for half in [Half::Confident, Half::Unconfident, Half::Neither] {
            assert_eq!(half.as_str().parse(), Ok(half));
            assert_eq!(serde_json::to_value(half).unwrap(), half.as_str());
        }
        assert!("sure".parse::<Half>().unwrap_err().contains("confident, unconfident, neither"));
    }

    #[test]
    fn overlap_is_jaccard() {
        let a = Halves::split(&[4.0, 3.0, 2.0, 1.0]).unwrap();
        let b = Halves::split(&[4.0, 2.0, 3.0, 1.0]).unwrap();
        assert_eq!((a.overlap(&a), a.overlap(&b)), (1.0, 1.0 / 3.0));
    }
}
