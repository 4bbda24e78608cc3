//! What reads one input and gives several parts: q, k and v; gate and up. In most files each part has a linear of
//! its own; Phi-3's hold one linear for all, which has one adapter and is split behind the product.

use super::context::Context;
use crate::error::Result;
use crate::ops::linear::{Kept, Linear, SlotGrad};
use crate::ops::{columns, Buf};

/// The linears of a projection, and the widths of its parts.
#[derive(Debug)]
pub(crate) struct Projection {
    /// One for each part, or one for all.
    pub linears: Vec<Linear>,
    pub widths: Vec<usize>,
}

impl Projection {
    /// The parts `[N, width]` of `x[N,C]`; the adapters' `x·Aᵀ` go to `t`.
    pub fn forward<const P: usize>(&self, cx: Context, x: &Buf, t: &mut Vec<(usize, Kept)>) -> Result<[Buf; P]> {
        let parts: Vec<Buf> = match &self.linears[..] {
            [all] if P > 1 => {
                let whole = cx.project(all, x, t)?;
                columns::split(cx.engine, whole, &self.widths)?
            }
            linears => linears.iter().map(|lin| cx.project(lin, x, t)).collect::<Result<_>>()?,
        };
        parts.try_into().map_err(|_| unreachable!("a projection was made for other parts"))
    }

    /// Adds to the slots' gradients and, when `dx` is given, writes (or with `true` adds) the gradient of `x`.
    pub fn backward<const P: usize>(
        &self,
        cx: Context,
        x: &Buf,
        t: &[(usize, Kept)],
        g: [Buf; P],
        grads: &mut [SlotGrad],
        mut dx: Option<(&mut Buf, bool)>,
    ) -> Result<()> {
        if let ([all], true) = (&self.linears[..], P > 1) {
            let whole = columns::join(cx.engine, g, &self.widths)?;
            return cx.project_back(all, x, t, &whole, grads, dx);
        }
        for (lin, g) in self.linears.iter().zip(g) {
            let to = dx.as_mut().map(|(dx, add)| (&mut **dx, std::mem::replace(add, true)));
            cx.project_back(lin, x, t, &g, grads, to)?;
        }
        Ok(())
    }
}
