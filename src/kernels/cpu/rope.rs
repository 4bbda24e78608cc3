//! Rotary position embedding in Hugging Face's two-halves order: with angle θ = position·f_i,
//! `(x_i, x_{i+D/2}) → (x_i cos θ − x_{i+D/2} sin θ, x_{i+D/2} cos θ + x_i sin θ)`. Backward rotates by −θ.

use super::for_rows;

/// Rotates `x[N, heads·D]` in place. `cos`, `sin` are `[positions, D/2]`, `positions[N]` index them;
/// `inverse` rotates by −θ.
pub fn rotate(x: &mut [f32], heads: usize, cos: &[f32], sin: &[f32], half: usize, positions: &[u32], inverse: bool) {
    let d = 2 * half;
    let sign = if inverse { -1.0 } else { 1.0 };
    for_rows(x, heads * d, |r0, rows| {
        for (row, &p) in rows.chunks_exact_mut(heads * d).zip(&positions[r0..]) {
            let at = p as usize * half;
            let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
            for head in row.chunks_exact_mut(d) {
                let (lo, hi) = head.split_at_mut(half);
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
