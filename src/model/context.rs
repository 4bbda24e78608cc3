//! What a pass over a block needs beside its weights, and the steps that blocks and their projections share.

use super::adapter::Adapter;
use crate::error::Result;
use crate::family::DecoderConfig;
use crate::ops::linear::{self, Call, Kept, Linear, SlotGrad};
use crate::ops::{adapted, elementwise, rms_norm, rope, Buf, Engine, Param};

/// What a pass over a block needs beside its weights.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub engine: &'a Engine,
    pub config: &'a DecoderConfig,
    pub ropes: &'a [rope::Table],
    pub adapter: Option<&'a Adapter>,
    pub call: Call<'a>,
}

impl Context<'_> {
    pub(super) fn project(&self, lin: &Linear, x: &Buf, t: &mut Vec<(usize, Kept)>) -> Result<Buf> {
        let slot = self.adapter.and_then(|a| a.slot(lin));
        let (y, saved) = adapted::forward(self.engine, lin, slot, x, self.call)?;
        t.extend(saved.map(|b| (lin.id, b)));
        Ok(y)
    }

    pub(super) fn project_back(
        &self,
        lin: &Linear,
        x: &Buf,
        t: &[(usize, Kept)],
        g: &Buf,
        grads: &mut [SlotGrad],
        dx: Option<(&mut Buf, bool)>,
    ) -> Result<()> {
        let adapter = self.adapter;
        let slot = adapter.and_then(|a| a.index(lin).map(|i| (&a.slots[i], &mut grads[i])));
        let t = t.iter().find(|(id, _)| *id == lin.id).map(|(_, b)| b);
        adapted::backward(self.engine, lin, slot, linear::Saved { x, t }, g, self.call, dx)
    }

    pub(super) fn adapted<'b>(&self, mut lins: impl Iterator<Item = &'b Linear>) -> bool {
        self.adapter.is_some_and(|a| lins.any(|l| a.index(l).is_some()))
    }

    pub(super) fn norm(&self, x: &Buf, w: &Param) -> Result<Buf> {
        rms_norm::forward(self.engine, x, w, self.config.rms_norm_eps)
    }

    pub(super) fn norm_back(&self, x: &Buf, w: &Param, g: &Buf, dx: &mut Buf, add: bool) -> Result<()> {
        rms_norm::backward(self.engine, x, w, self.config.rms_norm_eps, g, dx, add)
    }

    /// `x + r·norm(branch)`, and the branch where its norm's gradient needs it.
    pub(super) fn join(&self, x: &Buf, branch: Buf, norm: Option<&Param>) -> Result<(Buf, Option<Buf>)> {
        let (mut y, raw) = match norm {
            Some(w) => (self.norm(&branch, w)?, Some(branch)),
            None => (branch, None),
        };
        elementwise::scale(self.engine, &mut y, self.config.residual_scale as f32)?;
        elementwise::add(self.engine, &mut y, x)?;
        Ok((y, raw))
    }

    /// The gradient of a branch from `g`, that of the sum: `None` where it is g itself.
    pub(super) fn join_back(&self, g: &Buf, raw: Option<&Buf>, norm: Option<&Param>) -> Result<Option<Buf>> {
        let r = self.config.residual_scale as f32;
        let mut d = match (raw, norm) {
            (Some(raw), Some(w)) => {
                let mut d = raw.copy(self.engine);
                self.norm_back(raw, w, g, &mut d, false)?;
                d
            }
            _ if r == 1.0 => return Ok(None),
            _ => g.copy(self.engine),
        };
        elementwise::scale(self.engine, &mut d, r)?;
        Ok(Some(d))
    }
}
