#!/usr/bin/env python3
"""How time and memory of a step grow: `sftmix bench`, one factor at a time around SmolLM2-135M, one packed row of
512 tokens, rank 16, two threads. Writes the raw reports, a Markdown table and plots.

    growth.py [--again] [--short]      length, batch, rank, threads, model
    growth.py --limits                 what --memory-limit costs in speed, both models
    growth.py [--limits] --draw        table and plots from the stored results alone

A point whose report is stored is not measured again, so an interrupted run goes on where it was. The line "floor"
is the step's floor at the rate of the machine's fastest f32 product, timed beside the step. Needs matplotlib.
"""

import argparse
import pathlib
import sys

from measure import BINARY, MIB, ROOT, Refused, load, save, sftmix_bench, stamp, table

BASE = {"shape": "smollm2-135m", "seq": 512, "batch-size": 1, "lora-r": 16, "threads": 2}
BIG = {**BASE, "shape": "llama-3.2-1b"}
NAMES = {"smollm2-135m": "135M", "llama-3.2-1b": "1B", "tiny": "tiny"}
UNITS = {"seq": "tokens of a row", "batch-size": "rows of a step", "lora-r": "rank", "threads": "threads"}
MIB_LIMITS = [100, 150, 200, 250, 300, 400, 500, 600, 800, 1000, 1200, 1600, 2000, 2500]


def doubling(first, last):
    return [first << i for i in range((last // first).bit_length())]


def sweeps(short):
    """(factor, series): a series is the points that one line of a plot joins."""
    def series(base, factor, values):
        return [{**base, factor: value} for value in values]

    if short:
        base = {**BASE, "shape": "tiny", "seq": 64}
        values = {"seq": [64, 128], "batch-size": [1, 2], "lora-r": [4, 16], "threads": [1, 2]}
        return [(factor, [series(base, factor, v)]) for factor, v in values.items()]
    return [
        ("seq", [series(BASE, "seq", doubling(128, 4096)), series(BIG, "seq", doubling(128, 2048))]),
        ("batch-size", [series(BASE, "batch-size", doubling(1, 32))]),
        ("lora-r", [series(BASE, "lora-r", doubling(4, 64))]),
        ("threads", [series(BASE, "threads", [1, 2])]),
    ]


def key(point):
    return " ".join(f"{name}={value}" for name, value in point.items())


def measure(args, results, point):
    if key(point) in results and not args.again:
        return
    arguments = [a for name, value in point.items() for a in (f"--{name}", value)]
    try:
        report = sftmix_bench(args.binary, ["--packed", "--steps", args.steps, *arguments])
        said = f"{report['step_seconds_median']:.3f} s, {(report['peak_anonymous_bytes'] or 0) / MIB:.0f} MiB"
    except Refused as e:
        # A limit that nothing fits in is a result too.
        if "memory-limit" not in point:
            raise SystemExit(f"{key(point)}: {e}")
        report = {"refused": str(e)}
        said = f"refused: {e}"
    results[key(point)] = {**stamp(), "report": report}
    save(args.stored, results)
    print(f"{key(point)}: {said}", file=sys.stderr, flush=True)


def floor_seconds(report):
    return report["floor_gflop"] / report["sgemm_gflops"]


def peak_mib(report):
    return (report["peak_anonymous_bytes"] or 0) / MIB


def below(results):
    """What stands under a table: where the points were measured."""
    parts = sorted({f"{r['machine']}; {r['date']}, commit {r['commit']}" for r in results.values()})
    return "\n" + "\n".join(parts) + "\n"


def cells(report):
    return [
        f"{report['step_seconds_median']:.3f}",
        f"{report['real_tokens_per_second']:.1f}",
        f"{floor_seconds(report):.3f}",
        f"{report['floor_share']:.3f}",
        f"{peak_mib(report):,.0f}",
        f"{100 * report['blocks_kept']:.0f}",
    ]


HEAD = ["step s", "tok/s", "floor s", "share of floor", "peak anonymous MiB", "blocks kept %"]


def stored(results, points):
    """(point, report) of those that are measured."""
    return [(p, results[key(p)]["report"]) for p in points if key(p) in results]


def growth_table(results, short):
    rows, seen = [], set()
    for _, all_series in sweeps(short):
        for point, report in (pair for s in all_series for pair in stored(results, s)):
            if key(point) in seen:
                continue
            seen.add(key(point))
            row = [NAMES[point["shape"]], *(point[n] for n in ("seq", "batch-size", "lora-r", "threads"))]
            rows.append([*row, *cells(report)])
    return table(["model", "length", "batch", "rank", "threads", *HEAD], rows) + below(results)


def axes(title, x_label):
    """Two plots side by side; text stays text and nothing but the numbers changes the file."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "sftmix", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    figure, pair = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    figure.suptitle(title)
    for a in pair:
        a.set_xlabel(x_label)
        a.grid(True, which="both", linewidth=0.3)
    return figure, pair


def logarithmic(a, values):
    """Ticks of x at the points themselves, of y at 1, 2 and 5, written out."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    a.set(xscale="log")
    a.xaxis.set_ticks(values, [str(v) for v in values])
    a.xaxis.set_minor_locator(NullLocator())
    if a.get_yscale() == "log":
        a.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        a.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        a.yaxis.set_minor_formatter(NullFormatter())


def draw_growth(results, args):
    for factor, all_series in sweeps(args.short):
        found = [stored(results, s) for s in all_series]
        found = [f for f in found if len(f) > 2 or args.short and f]
        if not found or factor == "threads":
            continue
        figure, (time, memory) = axes(f"a training step by {UNITS[factor]}", UNITS[factor])
        for color, points in enumerate(found):
            name, color = NAMES[points[0][0]["shape"]], f"C{color}"
            x = [p[factor] for p, _ in points]
            time.plot(x, [r["step_seconds_median"] for _, r in points], color=color, marker="o", label=f"{name}, step")
            time.plot(x, [floor_seconds(r) for _, r in points], color=color, linestyle="--", label=f"{name}, floor")
            memory.plot(x, [peak_mib(r) for _, r in points], color=color, marker="o", label=name)
        ticks = sorted({p[factor] for points in found for p, _ in points})
        for a, label in ((time, "seconds"), (memory, "peak anonymous MiB")):
            a.set(ylabel=label)
            if factor == "lora-r":
                # The rank moves little: from 0, so that the plot does not make a hill of it.
                a.set_ylim(0, 1.15 * a.dataLim.y1)
            else:
                a.set_yscale("log")
            logarithmic(a, ticks)
            a.legend()
        finish(figure, args.results / f"growth-{factor}.svg")


def finish(figure, path):
    figure.savefig(path, metadata={"Date": None})


def limit_points(results, base):
    """Those limits that bind: without one the step takes what it takes."""
    free = stored(results, [base])
    peak = peak_mib(free[0][1]) if free else 0
    limits = [5, 10, 20] if base["shape"] == "tiny" else MIB_LIMITS
    return [{**base, "memory-limit": f"{mib}MiB"} for mib in limits if mib < peak]


def limit_bases(short):
    return [{**BASE, "shape": "tiny", "seq": 64, "batch-size": 64}] if short else [BASE, BIG]


def limits_table(results, short):
    rows = []
    for base in limit_bases(short):
        for point, report in stored(results, [*limit_points(results, base), base]):
            row = [NAMES[base["shape"]], point.get("memory-limit", "none")]
            # What would be needed is the same under every limit that is refused: the last one says it.
            refused = None
            if "refused" in report:
                needs = report["refused"].partition("at least ")[2].partition(" are needed")[0]
                refused = [f"refused: needs {needs}" if needs else report["refused"], *["–"] * (len(HEAD) - 1)]
                rows = [r for r in rows if r[0] != row[0] or r[2] != refused[0]]
            rows.append([*row, *(refused or cells(report))])
    return table(["model", "limit", *HEAD], rows) + below(results)


def draw_limits(results, args):
    figure, pair = axes("between small and fast", "peak anonymous MiB")
    for base, plot in zip(limit_bases(args.short), pair):
        found = stored(results, [*limit_points(results, base), base])
        found = sorted((r for _, r in found if "refused" not in r), key=peak_mib)
        plot.plot([peak_mib(r) for r in found], [r["floor_share"] for r in found], marker="o")
        # Matrix units go beyond the floor, which is f32's.
        top = 1.1 * max([1.0, *(r["floor_share"] for r in found)])
        plot.set(title=NAMES[base["shape"]], ylabel="share of the floor", ylim=(0, top), xlim=(0, None))
    finish(figure, args.results / "limits.svg")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limits", action="store_true", help="sweep --memory-limit instead")
    parser.add_argument("--again", action="store_true", help="measure stored points again")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    parser.add_argument("--short", action="store_true", help="the tiny shape, one step, results in target/")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--binary", type=pathlib.Path, default=BINARY)
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / "docs" / "performance")
    args = parser.parse_args()
    if args.short:
        args.steps, args.results = 1, ROOT / "target" / "performance-short"
    name = "limits" if args.limits else "growth"
    args.stored = args.results / f"{name}.json"
    results = load(args.stored)
    if not args.draw:
        if args.limits:
            for base in limit_bases(args.short):
                measure(args, results, base)
                for point in limit_points(results, base):
                    measure(args, results, point)
        else:
            points = {key(p): p for _, all_series in sweeps(args.short) for s in all_series for p in s}
            for point in points.values():
                measure(args, results, point)
    text = limits_table(results, args.short) if args.limits else growth_table(results, args.short)
    (args.results / f"{name}.md").write_text(text)
    (draw_limits if args.limits else draw_growth)(results, args)
    print(text, end="")


if __name__ == "__main__":
    main()
