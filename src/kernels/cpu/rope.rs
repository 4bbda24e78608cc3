//! Rotary position embedding in Hugging Face's two-halves order: with angle θ = position·f_i,
//! `(x_i, x_{i+R/2}) → (x_i cos θ − x_{i+R/2} sin θ, x_{i+R/2} cos θ + x_i sin θ)` over the first R features of
//! a head. Backward rotates by −θ.

use super::for_rows;

/// Rotates `x[N, heads·D]` in place. `cos`, `sin` are `[rows, R/2]`, `rows[N]` index them; `inverse` rotates by
/// −θ.
pub fn rotate(x: &mut [f32], heads: usize, (cos, sin): (&[f32], &[f32]), half: usize, rows: &[u32], inverse: bool) {
    if rows.is_empty() {
        return;
    }
    let d = x.len() / (heads * rows.len());
    let sign = if inverse { -1.0 } else { 1.0 };
    for_rows(x, heads * d, |r0, tokens| {
        for (token, &p) in tokens.chunks_exact_mut(heads * d).zip(&rows[r0..]) {
            let at = p as usize * half;
            let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
            for head in token.chunks_exact_mut(d) {
                let (lo, hi) = head[..2 * half].split_at_mut(half);
                for (((lo, hi), &c), &s) in lo.iter_mut().zip(hi).zip(cos).zip(sin) {
                    let s = s * sign;
                    let (a, b) = (*lo, *hi);
                    *lo = a * c - b * s;
                    *hi = b * c + a * s;
                }
            }
        }
    });
}
