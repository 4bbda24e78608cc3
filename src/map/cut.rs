//! Where the split cuts, in a few bytes.

use crate::dynamics::Half;
use crate::recipe::Halves;

/// Where the split cuts: its halves lie one behind the other by (confidence descending, index ascending), so the last
/// of the one and the first of the other say where any example belongs. `None` where too few are known for a split.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut(Option<[(f64, u32); 2]>);

impl Cut {
    /// Of a set that cannot be split.
    pub fn none() -> Cut {
        Cut(None)
    }

    /// The cut of a split.
    pub fn new(confidences: &[f32], halves: &Halves) -> Cut {
        let at = |i: u32| (f64::from(confidences[i as usize]), i);
        let ends = halves.confident().last().zip(halves.unconfident().first());
        Cut(ends.map(|(&confident, &unconfident)| [at(confident), at(unconfident)]))
    }

    /// The half of an example, by its confidence and index.
    pub fn half(&self, confidence: f64, index: u32) -> Half {
        let not_behind = |a: (f64, u32), b: (f64, u32)| a.0 > b.0 || a.0 == b.0 && a.1 <= b.1;
        match self.0 {
            Some([last, _]) if not_behind((confidence, index), last) => Half::Confident,
            Some([_, first]) if not_behind(first, (confidence, index)) => Half::Unconfident,
            _ => Half::Neither,
        }
    }
}
