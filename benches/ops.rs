//! Single operations in the fused form, at the shapes of SmolLM2-135M and Llama 3.2 1B.
//!
//!     cargo bench --bench ops                          # all: about ten minutes
//!     cargo bench --bench ops -- linear/135m           # those whose name holds this
//!     cargo bench --bench ops -- 1b/down_proj --quick  # a look
//!
//! Throughput is in GiB of operands read and written, or in "elements", which here are floating-point
//! operations: Gelem/s is GFLOP/s, to be compared with the rate that `sftmix bench` prints. Operations are
//! counted as the floor of a step counts them (src/bench/mod.rs), so what a kernel computes twice is not in them.
//! All cores are used; `taskset -c 0` takes one. Weights are bf16 in a mapped file, as models have them.

use std::collections::HashMap;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{criterion_group, criterion_main, BatchSize, BenchmarkGroup, Criterion, Throughput};
use half::bf16;
use safetensors::tensor::{serialize_to_file, Dtype, TensorView};
use sftmix::internal::ops::elementwise::Gate;
use sftmix::internal::ops::head_loss::{Head, Supervised, Unit};
use sftmix::internal::ops::linear::{Call, Kept, Linear, Slot, SlotGrad};
use sftmix::internal::ops::{adamw, adapted, attention, elementwise, head_loss, linear, rms_norm, rope};
use sftmix::internal::ops::{Buf, Engine, EngineOptions, Layout, Matrix, Param};
use sftmix::internal::weights::{Weight, WeightStore};
use sftmix::Result;

/// Tokens of a micro-batch.
const N: usize = 512;
/// Rank.
const R: usize = 16;
/// Supervised positions.
const S: usize = 128;

/// Sizes by the letters of `sftmix::internal::ops`.
struct Sizes {
    name: &'static str,
    layers: usize,
    c: usize,
    f: usize,
    h: usize,
    h_kv: usize,
    d: usize,
    v: usize,
}

const SIZES: [Sizes; 2] = [
    Sizes { name: "135m", layers: 30, c: 576, f: 1536, h: 9, h_kv: 3, d: 64, v: 49_152 },
    Sizes { name: "1b", layers: 16, c: 2048, f: 8192, h: 32, h_kv: 8, d: 64, v: 128_256 },
];

impl Sizes {
    /// The linears of a block that differ in shape: name, out, in.
    fn linears(&self) -> [(&'static str, usize, usize); 4] {
        [
            ("q_proj", self.h * self.d, self.c),
            ("k_proj", self.h_kv * self.d, self.c),
            ("gate_proj", self.f, self.c),
            ("down_proj", self.c, self.f),
        ]
    }

    /// Parameters of an adapter on all seven linears.
    fn adapter(&self) -> usize {
        let [q, k, gate, down] = self.linears().map(|(_, out, inp)| out + inp);
        self.layers * R * (2 * q + 2 * k + 2 * gate + down)
    }
}

/// Numbers spread evenly over ±`bound`.
fn numbers(n: usize, bound: f32) -> Vec<f32> {
    let spread = |i: u32| i.wrapping_mul(2_654_435_769) as f32 / 4_294_967_296.0;
    (0..n as u32).map(|i| (2.0 * spread(i) - 1.0) * bound).collect()
}

fn buf(engine: &Engine, rows: usize, cols: usize) -> Buf {
    engine.parameter(rows, cols, &numbers(rows * cols, 1.0)).unwrap()
}

/// A frozen matrix; the map goes before the folder it is of.
struct Frozen {
    matrix: Matrix,
    _dir: tempfile::TempDir,
}

impl Frozen {
    fn new(engine: &Engine, rows: usize, cols: usize) -> Frozen {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> =
            numbers(rows * cols, 0.035).iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        let view = TensorView::new(Dtype::BF16, vec![rows, cols], &bytes).unwrap();
        let tensors = HashMap::from([("w", view)]);
        serialize_to_file(&tensors, None, &dir.path().join("model.safetensors")).unwrap();
        let store = WeightStore::open(dir.path()).unwrap();
        let matrix = Matrix::new(engine, store.get("w", &[rows, cols]).unwrap()).unwrap();
        Frozen { matrix, _dir: dir }
    }
}

/// Times `step` on the engine's threads. What it works on is made once, and only where the name was asked for.
fn bench<T: Send>(
    group: &mut BenchmarkGroup<WallTime>,
    engine: &Engine,
    name: String,
    throughput: Throughput,
    make: impl Fn() -> T,
    step: impl Fn(&mut T) -> Result<()> + Sync,
) {
    let mut made = None;
    group.throughput(throughput).bench_function(name, |b| {
        let state = made.get_or_insert_with(&make);
        let timed = engine.run(|| {
            b.iter(|| step(state).unwrap());
            Ok(())
        });
        timed.unwrap();
    });
}

fn flop(n: usize) -> Throughput {
    Throughput::Elements(n as u64)
}

fn floats(n: usize) -> Throughput {
    Throughput::Bytes(4 * n as u64)
}

/// A linear under an adapter, and what its backward pass reads and writes.
struct Adapted {
    lin: Linear,
    slot: Slot,
    grad: SlotGrad,
    layout: Layout,
    x: Buf,
    t: Kept,
    g: Buf,
    dx: Buf,
    _weight: Frozen,
}

impl Adapted {
    fn new(engine: &Engine, out: usize, inp: usize) -> Adapted {
        let weight = Frozen::new(engine, out, inp);
        let module = String::from("model.layers.0.linear");
        let lin = Linear { id: 0, layer: 0, module: module.clone(), weight: weight.matrix.clone(), bias: None };
        let slot = Slot {
            module,
            key: 0,
            r: R,
            in_features: inp,
            out_features: out,
            scale: 2.0,
            dropout: 0.0,
            lr_factor: 1.0,
            a: buf(engine, R, inp),
            b: buf(engine, out, R),
            dora: None,
        };
        let grad = SlotGrad { a: engine.zeros(R, inp).unwrap(), b: engine.zeros(out, R).unwrap(), m: None };
        Adapted {
            lin,
            slot,
            grad,
            layout: layout(N),
            x: buf(engine, N, inp),
            t: Kept { t: buf(engine, N, R), z: None },
            g: buf(engine, N, out),
            dx: engine.zeros(N, inp).unwrap(),
            _weight: weight,
        }
    }
}

fn layout(row: usize) -> Layout {
    Layout::new(vec![0, row as u32], vec![0])
}

fn linears(criterion: &mut Criterion) {
    let (engine, mut group) = start(criterion, "linear");
    for s in SIZES {
        for (name, out, inp) in s.linears() {
            let make = || Adapted::new(&engine, out, inp);
            let (product, adapter) = (2 * N * out * inp, 2 * N * R * (out + inp));
            let title = |pass: &str| format!("{}/{name}/{pass}", s.name);
            bench(&mut group, &engine, title("forward"), flop(product + adapter), make, |m| {
                let call = Call { layout: &m.layout, dropout: None };
                adapted::forward(&engine, &m.lin, Some(&m.slot), &m.x, call).map(drop)
            });
            bench(&mut group, &engine, title("backward"), flop(product + 2 * adapter), make, |m| {
                let call = Call { layout: &m.layout, dropout: None };
                let saved = linear::Saved { x: &m.x, t: Some(&m.t) };
                let slot = Some((&m.slot, &mut m.grad));
                adapted::backward(&engine, &m.lin, slot, saved, &m.g, call, Some((&mut m.dx, false)))
            });
        }
    }
}

fn attentions(criterion: &mut Criterion) {
    let (engine, mut group) = start(criterion, "attention");
    for s in SIZES {
        for n in [N, 4 * N] {
            let shape = attention::Shape {
                heads: s.h,
                kv_heads: s.h_kv,
                head_dim: s.d,
                scale: 1.0 / (s.d as f32).sqrt(),
                softcap: None,
                window: None,
                tile: engine.options.attention_tile,
            };
            let make = || {
                let (q, k, v) =
                    (buf(&engine, n, s.h * s.d), buf(&engine, n, s.h_kv * s.d), buf(&engine, n, s.h_kv * s.d));
                let (o, lse) = attention::forward(&engine, shape, &layout(n), &q, &k, &v).unwrap();
                (layout(n), q, k, v, o, lse, buf(&engine, n, s.h * s.d))
            };
            // A product of half a square: 2·D·n²/2 a head.
            let product = s.h * s.d * n * n;
            let title = |pass: &str| format!("{}/{n}/{pass}", s.name);
            bench(&mut group, &engine, title("forward"), flop(2 * product), make, |(at, q, k, v, ..)| {
                attention::forward(&engine, shape, at, q, k, v).map(drop)
            });
            bench(&mut group, &engine, title("backward"), flop(4 * product), make, |(at, q, k, v, o, lse, g)| {
                attention::backward(&engine, shape, at, attention::Saved { q, k, v, o, lse }, g).map(drop)
            });
        }
    }
}

fn elementwises(criterion: &mut Criterion) {
    let (engine, mut group) = start(criterion, "elementwise");
    for s in SIZES {
        let title = |name: &str| format!("{}/{name}", s.name);
        let (nc, nf, nq) = (N * s.c, N * s.f, N * s.h * s.d);

        let make = || {
            let w = Param::new(&engine, &Weight::from_vec("w", &[s.c], vec![1.0; s.c])).unwrap();
            (w, buf(&engine, N, s.c), buf(&engine, N, s.c), engine.zeros(N, s.c).unwrap())
        };
        bench(&mut group, &engine, title("rms_norm/forward"), floats(2 * nc), make, |(w, x, ..)| {
            rms_norm::forward(&engine, x, w, 1e-5).map(drop)
        });
        bench(&mut group, &engine, title("rms_norm/backward"), floats(3 * nc), make, |(w, x, g, dx)| {
            rms_norm::backward(&engine, x, w, 1e-5, g, dx, false)
        });

        let make = || (buf(&engine, N, s.f), buf(&engine, N, s.f));
        bench(&mut group, &engine, title("silu_mul/forward"), floats(3 * nf), make, |(gate, up)| {
            elementwise::gate_mul(&engine, Gate::Silu, gate, up).map(drop)
        });
        // In place, so each time wants its operands again: repeated on its own results it would drift into
        // numbers that are slow to compute with.
        let operands = numbers(N * s.f, 1.0);
        let make = || [(); 3].map(|()| engine.parameter(N, s.f, &operands).unwrap());
        group.throughput(floats(5 * nf)).bench_function(title("silu_mul/backward"), |b| {
            let backward = |[gate, up, g]: &mut [Buf; 3]| {
                elementwise::gate_mul_backward(&engine, Gate::Silu, gate, up, g).unwrap()
            };
            let timed = engine.run(|| {
                b.iter_batched_ref(make, backward, BatchSize::PerIteration);
                Ok(())
            });
            timed.unwrap();
        });

        let frequencies: Vec<f32> = (0..s.d / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / s.d as f32)).collect();
        let make = || (rope::Table::new(&engine, &frequencies, N).unwrap(), layout(N), buf(&engine, N, s.h * s.d));
        bench(&mut group, &engine, title("rope"), floats(2 * nq), make, |(table, at, x)| {
            rope::rotate(&engine, x, s.h, table, at, false)
        });
    }
}

fn head_losses(criterion: &mut Criterion) {
    let (engine, mut group) = start(criterion, "head_loss");
    for s in SIZES {
        let make = || {
            let single = |i: usize| Unit::Single(Supervised { state: i as u32, target: i as u32, a: 1.0 / S as f32 });
            (
                Head::plain(Frozen::new(&engine, s.v, s.c).matrix.clone()),
                buf(&engine, S, s.c),
                (0..S).map(single).collect::<Vec<_>>(),
            )
        };
        let product = 2 * s.c * s.v * S;
        let title = |pass: &str| format!("{}/{pass}", s.name);
        bench(&mut group, &engine, title("forward"), flop(product), make, |(head, h, units)| {
            head_loss::forward_backward(&engine, head, h, units, false).map(drop)
        });
        bench(&mut group, &engine, title("forward_backward"), flop(2 * product), make, |(head, h, units)| {
            head_loss::forward_backward(&engine, head, h, units, true).map(drop)
        });
    }
}

fn optimizers(criterion: &mut Criterion) {
    let (engine, mut group) = start(criterion, "adamw");
    for s in SIZES {
        let n = s.adapter();
        let step = adamw::Step {
            decay: 1.0 - 2e-6,
            beta1: 0.9,
            beta2: 0.999,
            rest: (0.1, 0.001),
            step_size: 2e-4,
            inv_sqrt_bias2: 1.0,
            eps: 1e-8,
            grad_scale: 1.0,
        };
        let make = || {
            let zeros = || engine.zeros(1, n).unwrap();
            (buf(&engine, 1, n), zeros(), zeros(), buf(&engine, 1, n))
        };
        bench(&mut group, &engine, format!("{}/update", s.name), floats(7 * n), make, |(p, m, v, g)| {
            adamw::update(&engine, p, m, v, g, step)
        });
        bench(&mut group, &engine, format!("{}/sum_squares", s.name), floats(n), make, |(.., g)| {
            adamw::sum_squares(&engine, &[g]).map(drop)
        });
    }
}

fn start<'a>(criterion: &'a mut Criterion, name: &str) -> (Engine, BenchmarkGroup<'a, WallTime>) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    (Engine::new(EngineOptions::default()).unwrap(), group)
}

criterion_group!(benches, linears, attentions, elementwises, head_losses, optimizers);
criterion_main!(benches);
