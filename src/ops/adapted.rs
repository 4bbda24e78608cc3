//! A frozen linear with an optional adapter, forward and backward: by LoRA's products, or by DoRA's where the slot has
//! magnitudes.

use super::buf::Buf;
use super::dora;
use super::elementwise::dropout;
use super::engine::{Engine, Phase};
use super::linear::{Call, Kept, Linear, Saved, Slot, SlotGrad};
use super::lora::{adapter_gradients, down, input_gradient, plain, up};
use crate::error::Result;

/// `y[N,out]` and, with a slot, what its backward pass reads.
pub fn forward(engine: &Engine, lin: &Linear, slot: Option<&Slot>, x: &Buf, call: Call) -> Result<(Buf, Option<Kept>)> {
    if let Some((s, d)) = slot.and_then(|s| Some((s, s.dora.as_ref()?))) {
        return dora::forward(engine, lin, (s, d), x, call);
    }
    let (y, t) = plain(engine, lin, slot, x, call, true)?;
    Ok((y, t.map(|t| Kept { t, z: None })))
}

/// Adds to the slot's gradients and, when `dx` is given, writes (or with `add` adds) `dx[N,in]`.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    engine: &Engine,
    lin: &Linear,
    slot: Option<(&Slot, &mut SlotGrad)>,
    saved: Saved,
    g: &Buf,
    call: Call,
    dx: Option<(&mut Buf, bool)>,
) -> Result<()> {
    let Some((slot, grad)) = slot else {
        let Some((dx, add)) = dx else { return Ok(()) };
        return engine.timed(Phase::Linear, || input_gradient(engine, lin, None, g, dx, add));
    };
    if let Some(d) = &slot.dora {
        return dora::backward(engine, lin, (slot, d), grad, saved, g, call, dx);
    }
    let dropped = call.dropped(engine, saved.x, slot)?;
    let x = dropped.as_ref().unwrap_or(saved.x);
    let u = engine.timed(Phase::Linear, || {
        let made;
        let t = match saved.t {
            Some(kept) => &kept.t,
            None => {
                made = down(engine, slot, x, false)?;
                &made
            }
        };
        adapter_gradients(engine, slot, grad, x, t, g)
    })?;
    drop(dropped);
    let Some((dx, add)) = dx else { return Ok(()) };
    let masked = call.dropout.filter(|_| slot.dropout > 0.0);
    let through = masked.is_none().then_some((slot, &u));
    engine.timed(Phase::Linear, || input_gradient(engine, lin, through, g, dx, add))?;
    if let Some(key) = masked {
        // The mask falls on u·A alone, so that it needs a place of its own.
        let mut ua = engine.timed(Phase::Linear, || up(engine, slot, &u))?;
        dropout(engine, &mut ua, slot.in_features, slot.dropout, key, slot.key, call.layout)?;
        super::elementwise::add(engine, dx, &ua)?;
    }
    Ok(())
}
