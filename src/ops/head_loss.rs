//! LM head, softmax cross-entropy and Mixup on supervised positions, in chunks: the full logits never
//! exist, and a mixed pair costs one more softmax and no product.

use candle_core::{DType, Tensor, D};

use super::attention::cap;
use super::buf::{Buf, Matrix};
use super::engine::{Engine, Phase};
use super::moved::Transfer;
use crate::error::{Error, Result};
use crate::kernels::cpu::elementwise;
use crate::kernels::cpu::gemm::{gemm, View};
use crate::kernels::cpu::loss as kernel;
use crate::kernels::cpu::loss_rows;
pub use crate::kernels::cpu::loss_rows::{Mix, RowStats};
use crate::kernels::cpu::product::{product, Term};
use crate::kernels::cpu::product::{Columns, Rows};

/// One supervised position.
#[derive(Clone, Copy, Debug)]
pub struct Supervised {
    /// Row of the states `h[S,C]`.
    pub state: u32,
    /// Gold token.
    pub target: u32,
    /// Weight a of its loss.
    pub a: f32,
}

/// What stays together in a chunk.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// A position alone.
    Single(Supervised),
    /// A confident and an unconfident position whose logits are mixed.
    Mixed(Supervised, Supervised, Mix),
}

/// The LM head: logits = softcap(scale · h·Wᵀ).
#[derive(Clone, Debug)]
pub struct Head {
    /// W `[V,C]`.
    pub weight: Matrix,
    /// Factor of the products.
    pub scale: f32,
    /// Logits x become c·tanh(x/c).
    pub softcap: Option<f32>,
}

impl Head {
    /// A head without scale and softcap.
    pub fn plain(weight: Matrix) -> Head {
        Head { weight, scale: 1.0, softcap: None }
    }

    fn rows(&self) -> usize {
        self.weight.rows()
    }

    fn cols(&self) -> usize {
        self.weight.cols()
    }
}

/// Rows of the head that are converted at once: about 4 MiB of f32.
fn panel_rows(cols: usize) -> usize {
    ((1 << 20) / cols.max(1)).max(64)
}

/// Figures of every position, in the order of the units (confident before unconfident), and with
/// `gradient` `dh[S,C]`: each state belongs to at most one position.
pub fn forward_backward(
    engine: &Engine,
    head: &Head,
    h: &Buf,
    units: &[Unit],
    gradient: bool,
) -> Result<(Vec<RowStats>, Option<Buf>)> {
    let c = head.cols();
    engine.timed(Phase::Loss, || {
        let mut stats = Vec::new();
        let states = match h {
            Buf::Host(h) => h.len() / c,
            Buf::Dev(h) => h.dim(0)?,
        };
        let check = |p: &Supervised| (p.target as usize) < head.rows() && (p.state as usize) < states;
        let all = |u: &Unit| match u {
            Unit::Single(p) => check(p),
            Unit::Mixed(p, q, _) => check(p) && check(q),
        };
        if !units.iter().all(all) {
            return Err(Error::Misuse(format!("a target beyond {} tokens or a state beyond {states}", head.rows())));
        }
        let mut dh = gradient.then(|| engine.zeros(states, c)).transpose()?;
        let mut figures = Vec::new();
        for chunk in chunks(units, engine.loss_chunk(head.rows())) {
            let chunk = Chunk::new(chunk);
            match h {
                Buf::Host(h) => fused(engine, head, h, &chunk, dh.as_mut(), &mut stats)?,
                Buf::Dev(h) => figures.push(portable(engine, head, h, chunk, dh.as_mut())?),
            }
        }
        stats.extend(Figures::read(engine, &figures)?);
        Ok((stats, dh))
    })
}

/// Runs of units that hold at most `rows` positions, and at least one unit.
fn chunks(units: &[Unit], rows: usize) -> impl Iterator<Item = &[Unit]> {
    let mut rest = units;
    std::iter::from_fn(move || {
        let (mut n, mut held) = (0, 0);
        while let Some(u) = rest.get(n) {
            let size = if matches!(u, Unit::Mixed(..)) { 2 } else { 1 };
            if n > 0 && held + size > rows {
                break;
            }
            held += size;
            n += 1;
        }
        let (now, later) = rest.split_at(n);
        rest = later;
        (n > 0).then_some(now)
    })
}

/// A chunk's positions in order, and its units by place.
struct Chunk {
    positions: Vec<Supervised>,
    units: Vec<loss_rows::UnitRows>,
}

impl Chunk {
    fn new(units: &[Unit]) -> Chunk {
        let mut c = Chunk { positions: Vec::new(), units: Vec::new() };
        for u in units {
            let first = c.positions.len();
            let mix = match *u {
                Unit::Single(p) => {
                    c.positions.push(p);
                    None
                }
                Unit::Mixed(p, q, mix) => {
                    c.positions.extend([p, q]);
                    Some(mix)
                }
            };
            c.units.push(loss_rows::UnitRows { first, mix });
        }
        c
    }

    fn states(&self) -> Vec<u32> {
        self.positions.iter().map(|p| p.state).collect()
    }

    fn mixed(&self) -> impl Iterator<Item = &loss_rows::UnitRows> {
        self.units.iter().filter(|u| u.mix.is_some())
    }
}

fn fused(
    engine: &Engine,
    head: &Head,
    h: &[f32],
    chunk: &Chunk,
    dh: Option<&mut Buf>,
    stats: &mut Vec<RowStats>,
) -> Result<()> {
    let (v, c, k) = (head.rows(), head.cols(), chunk.positions.len());
    let mut hc = engine.pool.scratch(k * c);
    for (row, p) in hc.chunks_exact_mut(c).zip(&chunk.positions) {
        row.copy_from_slice(&h[p.state as usize * c..(p.state as usize + 1) * c]);
    }
    // The states take the head's factor, not the logits: they are fewer.
    let scale = |x: &mut [f32]| {
        if head.scale != 1.0 {
            elementwise::scale(x, head.scale);
        }
    };
    scale(&mut hc);
    let scratch = |n| engine.pool.scratch(n);
    let mut logits = engine.pool.scratch(k * v);
    let w = Columns(head.weight.stored(engine));
    let states = Term { a: View::rows(&hc, c), k: c, b: &w, alpha: 1.0 };
    product(&mut logits, v, false, (k, v), &[states], scratch);
    let rows: Vec<loss_rows::Row> =
        chunk.positions.iter().map(|p| loss_rows::Row { target: p.target, a: p.a }).collect();
    let first = stats.len();
    stats.resize(first + k, RowStats::default());
    kernel::units(&mut logits, v, &rows, &chunk.units, head.softcap, dh.is_some(), &mut stats[first..]);
    let Some(dh) = dh else { return Ok(()) };
    let w = Rows(head.weight.stored(engine));
    let gradient = Term { a: View::rows(&logits, v), k: v, b: &w, alpha: 1.0 };
    product(&mut hc, c, false, (k, c), &[gradient], scratch);
    scale(&mut hc);
    let dh = dh.host_mut();
    for (row, p) in hc.chunks_exact(c).zip(&chunk.positions) {
        dh[p.state as usize * c..(p.state as usize + 1) * c].copy_from_slice(row);
    }
    Ok(())
}

/// A chunk's figures, still on the device: nll, entropy, largest probability, whether the arg-max is right,
/// of each position, then the loss of each mixed unit. Downloading waits for the device, so it is done once
/// for all chunks.
struct Figures {
    chunk: Chunk,
    values: Tensor,
}

impl Figures {
    fn read(engine: &Engine, all: &[Figures]) -> Result<Vec<RowStats>> {
        let mut stats = Vec::new();
        let parts: Vec<&Tensor> = all.iter().map(|f| &f.values).collect();
        if parts.is_empty() {
            return Ok(stats);
        }
        let values = engine.download::<f32>(Transfer::Loss, &Tensor::cat(&parts, 0)?)?;
        let mut rest = &values[..];
        for chunk in all.iter().map(|f| &f.chunk) {
            let k = chunk.positions.len();
            let (first, mixed) = (stats.len(), chunk.mixed().count());
            let (here, later) = rest.split_at(4 * k + mixed);
            stats.extend((0..k).map(|i| RowStats {
                nll: here[i] as f64,
                prob: libm::exp(-here[i] as f64) as f32,
                max_prob: here[2 * k + i],
                correct: here[3 * k + i] == 1.0,
                entropy: here[k + i],
                mix_nll: 0.0,
            }));
            for (u, &l) in chunk.mixed().zip(&here[4 * k..]) {
                stats[first + u.first].mix_nll = l as f64;
            }
            rest = later;
        }
        Ok(stats)
    }
}

fn portable(engine: &Engine, head: &Head, h: &Tensor, chunk: Chunk, dh: Option<&mut Buf>) -> Result<Figures> {
    let (v, k) = (head.rows(), chunk.positions.len());
    let states = engine.upload(Transfer::Loss, &chunk.states(), k)?;
    let w = head.weight.tensor();
    let raw = h.index_select(&states, 0)?.matmul(&w.t()?)?.to_dtype(DType::F32)?.affine(head.scale as f64, 0.0)?;
    let (r, slope) = cap(raw.clone(), head.softcap)?;
    let targets: Vec<u32> = chunk.positions.iter().map(|p| p.target).collect();
    let targets = engine.upload(Transfer::Loss, &targets, (k, 1))?;
    let log_p = log_softmax(&r)?;
    let p = log_p.exp()?;
    let nll = log_p.gather(&targets, 1)?.neg()?.flatten_all()?;
    let entropy = (&p * &log_p)?.sum(D::Minus1)?.neg()?;
    let correct = r.argmax_keepdim(D::Minus1)?.eq(&targets)?.to_dtype(DType::F32)?.flatten_all()?;
    let mut figures = vec![nll, entropy, p.max(D::Minus1)?, correct];
    let e = one_hot(&targets, v)?;
    let a: Vec<f32> = chunk.positions.iter().map(|p| p.a).collect();
    let mut g = (p - &e)?.broadcast_mul(&engine.upload(Transfer::Loss, &a, (k, 1))?)?;
    if let Some(slope) = slope {
        g = (g * slope)?;
    }
    let mixed: Vec<(usize, Mix)> = chunk.mixed().filter_map(|u| Some((u.first, u.mix?))).collect();
    if !mixed.is_empty() {
        let m = mixed.len();
        let pick = |plus: usize| {
            let at: Vec<u32> = mixed.iter().map(|(first, _)| (first + plus) as u32).collect();
            engine.upload(Transfer::Loss, &at, m)
        };
        let of = |f: &dyn Fn(&Mix) -> f32| {
            let values: Vec<f32> = mixed.iter().map(|(_, mix)| f(mix)).collect();
            engine.upload(Transfer::Loss, &values, (m, 1))
        };
        let (c_at, u_at) = (pick(0)?, pick(1)?);
        let (l, rest) = (of(&|x| x.lambda)?, of(&|x| 1.0 - x.lambda)?);
        let blend = |x: &Tensor| -> Result<Tensor> {
            let (c, u) = (x.index_select(&c_at, 0)?, x.index_select(&u_at, 0)?);
            Ok((c.broadcast_mul(&l)? + u.broadcast_mul(&rest)?)?)
        };
        let (blended, slope) = cap(blend(&raw)?, head.softcap)?;
        let log_m = log_softmax(&blended)?;
        let y = blend(&e)?;
        figures.push((&log_m * &y)?.sum(D::Minus1)?.neg()?);
        let q = (log_m.exp()? - y)?.broadcast_mul(&of(&|x| x.b)?)?;
        let q = slope.map_or(Ok(q.clone()), |slope| q * slope)?;
        g = g.index_add(&c_at, &q.broadcast_mul(&l)?, 0)?.index_add(&u_at, &q.broadcast_mul(&rest)?, 0)?;
    }
    if let Some(Buf::Dev(dh)) = dh {
        let rows = g.affine(head.scale as f64, 0.0)?.to_dtype(w.dtype())?.matmul(w)?;
        *dh = dh.index_add(&states, &rows, 0)?;
    }
    Ok(Figures { chunk, values: Tensor::cat(&figures, 0)? })
}

/// `[K,V]` of zeros but for a one at each row's target `[K,1]`.
fn one_hot(targets: &Tensor, v: usize) -> Result<Tensor> {
    let k = targets.dim(0)?;
    let ones = Tensor::ones((k, 1), DType::F32, targets.device())?;
    Ok(Tensor::zeros((k, v), DType::F32, targets.device())?.scatter_add(targets, &ones, 1)?)
}

fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?;
    Ok(shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?)
}

/// Logits `[S,V]` of states `h[S,C]`, on the host: for generation and tests.
pub fn logits(engine: &Engine, head: &Head, h: &Buf) -> Result<Vec<f32>> {
    match h {
        Buf::Host(h) => {
            let (v, c) = (head.rows(), head.cols());
            let mut out = vec![0f32; h.len() / c * v];
            if h.len() == c {
                head.weight.multiply_few(engine, h, None, &mut out);
                elementwise::scale(&mut out, head.scale);
            } else {
                for r0 in (0..v).step_by(panel_rows(c)) {
                    let r1 = (r0 + panel_rows(c)).min(v);
                    head.weight.with_rows(engine, r0..r1, |w| {
                        let shape = (h.len() / c, r1 - r0, c);
                        gemm(&mut out[r0..], v, false, shape, head.scale, View::rows(h, c), View::transposed(w, c))
                    });
                }
            }
            if let Some(c) = head.softcap {
                elementwise::softcap(&mut out, c);
            }
            Ok(out)
        }
        Buf::Dev(h) => {
            let raw = h.matmul(&head.weight.tensor().t()?)?.to_dtype(DType::F32)?.affine(head.scale as f64, 0.0)?;
            let (logits, _) = cap(raw, head.softcap)?;
            engine.download(Transfer::Output, &logits)
        }
    }
}
