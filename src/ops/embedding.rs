//! Token embedding: rows of a frozen table. Nothing below it learns, so it has no backward.

use super::buf::{Buf, Matrix};
use super::engine::{Engine, Phase};
use super::moved::Transfer;
use crate::error::Result;

/// `x[N,C]` = rows `ids[N]` of `table[V,C]`. Ids are below V (checked where rows enter the engine).
pub fn forward(engine: &Engine, table: &Matrix, ids: &[u32]) -> Result<Buf> {
    engine.timed(Phase::Elementwise, || {
        if engine.fused() {
            let c = table.cols();
            let mut x = engine.pool.take(ids.len() * c);
            for (x, &id) in x.chunks_exact_mut(c).zip(ids) {
                table.weight().read_rows(id as usize..id as usize + 1, x);
            }
            Ok(Buf::Host(x))
        } else {
            let ids = engine.upload(Transfer::Rows, ids, ids.len())?;
            Ok(Buf::Dev(table.tensor().index_select(&ids, 0)?))
        }
    })
}
