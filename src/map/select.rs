//! Which examples a page has, and in which order.

use std::cmp::Ordering;

use super::open::DataMap;
use super::query::{MapKey, MapQuery};
use crate::data::tokens::file_and_row;
use crate::dynamics::{confidences, Half};
use crate::error::{Error, Result};
use crate::recipe::Halves;

/// Where the split cuts: its halves lie one behind the other by (confidence descending, index ascending), so the last
/// of the one and the first of the other say where any example belongs. `None` where too few are known for a split.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut(Option<[(f64, u32); 2]>);

impl Cut {
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

impl DataMap {
    /// The split, remembered in a few bytes. 8 bytes an example while it is made.
    pub(super) fn cut(&self) -> Result<Cut> {
        if let Some(cut) = self.cut.get() {
            return Ok(*cut);
        }
        let confidences = confidences(&self.log, self.kind, &self.which)?;
        let cut = match Halves::split(&confidences) {
            Ok(halves) => Cut::new(&confidences, &halves),
            Err(Error::NothingToTrain { .. }) => Cut(None),
            Err(e) => return Err(e),
        };
        Ok(*self.cut.get_or_init(|| cut))
    }

    /// How many examples the query leaves, and the indices of its page. At most 21 bytes an example: the list of
    /// those that are left, and one measure while it is added up.
    pub(super) fn select(&self, query: &MapQuery) -> Result<(u64, Vec<u32>)> {
        query.validate()?;
        let cut = query.half.map(|half| Ok::<_, Error>((half, self.cut()?))).transpose()?;
        let mut keys: Vec<MapKey> = cut.iter().map(|_| MapKey::Confidence).collect();
        keys.extend(query.filters.iter().map(|f| f.key));
        // The measure that rows are in order of comes last and stays.
        keys.retain(|&key| key != query.sort_by);
        keys.push(query.sort_by);
        let mut left: Vec<u32> = (0..=u32::MAX).take(self.log.len() as usize).collect();
        let mut column = Vec::new();
        for (n, &key) in keys.iter().enumerate() {
            if keys[..n].contains(&key) {
                continue;
            }
            // The one before is not needed while this one is added up.
            drop(std::mem::take(&mut column));
            column = self.column(key)?;
            let filters = || query.filters.iter().filter(|f| f.key == key);
            left.retain(|&i| {
                let value = column[i as usize];
                let half = match &cut {
                    Some((half, cut)) if key == MapKey::Confidence => cut.half(value, i) == *half,
                    _ => true,
                };
                half && filters().all(|f| f.keeps(if key == MapKey::Row { self.row(i) as f64 } else { value }))
            });
        }
        let value = |i: u32| column[i as usize];
        let order = |&i: &u32, &j: &u32| by_value(value(i), value(j), query.descending).then(i.cmp(&j));
        let total = left.len();
        Ok((total as u64, page_of(left, order, query.offset, query.limit)))
    }

    /// Number of an example's row in its file, from 1.
    fn row(&self, example: u32) -> u64 {
        self.log.example(example).map_or(0, |(row, _)| file_and_row(row).1)
    }
}

/// Numbers in order, NaN behind them either way.
fn by_value(a: f64, b: f64, descending: bool) -> Ordering {
    let numbers = if descending { b.partial_cmp(&a) } else { a.partial_cmp(&b) };
    numbers.unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// The places from `offset` of what `left` is when sorted; only these are sorted.
fn page_of(mut left: Vec<u32>, order: impl Fn(&u32, &u32) -> Ordering, offset: u64, limit: u32) -> Vec<u32> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(left.len());
    let end = start.saturating_add(limit as usize).min(left.len());
    if end < left.len() {
        left.select_nth_unstable_by(end, &order);
    }
    let page = &mut left[..end];
    if 0 < start && start < end {
        page.select_nth_unstable_by(start, &order);
    }
    let page = &mut page[start..];
    page.sort_unstable_by(&order);
    page.to_vec()
}
