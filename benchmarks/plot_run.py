"""Draw runs of train.py as one self-contained run.html, laid over each other, as the paper shows its runs 20, 23, 24.

In: folders with metrics.jsonl. Out: an HTML file without scripts or links: loss in training and validation, bits per
byte, gradient norm, learning rate, throughput, MFU, data wait, GPU memory, utilisation and power where they were
recorded, resumes and skipped steps.

example: python benchmarks/plot_run.py runs/pretrain
         python benchmarks/plot_run.py runs/small runs/full --out compare.html --x tokens
"""

import html
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import train
from data_prep.cli import EXIT_DONE, Parser, UserError, atomic_write, run

COLOURS = ("#1f6fb2", "#d1495b", "#2e8b57", "#8e5ea2", "#c77f1a", "#4a4a4a")  # apart in hue and in lightness
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 460, 240, 62, 34, 30


class Panel(NamedTuple):
    """A picture: which kind of line, which value, its title, and whether the axis is logarithmic."""

    kind: str
    value: str
    title: str
    logarithmic: bool = False


PANELS = (
    Panel("train", "loss", "loss in training (nats per token)"),
    Panel("val", "loss", "loss in validation (nats per token)"),
    Panel("val", "bits_per_byte", "bits per byte in validation"),
    Panel("train", "grad_norm", "norm of the gradient", logarithmic=True),
    Panel("train", "lr", "learning rate"),
    Panel("train", "tokens_per_s", "tokens per second"),
    Panel("train", "mfu", "share of the peak (MFU, attention in full)"),
    Panel("train", "data_wait_frac", "share of the time spent waiting for data"),
    Panel("train", "memory_gb", "GPU memory (10⁹ bytes)"),
    Panel("train", "gpu_util_percent", "GPU utilisation (%)"),
    Panel("train", "gpu_power_w", "GPU power (W)"),
    Panel("train", "gpu_temperature_c", "GPU temperature (°C)"),
    Panel("train", "skipped", "steps skipped so far"),
)


class Metrics(NamedTuple):
    """A run: its name, colour and lines."""

    name: str
    colour: str
    lines: list[dict[str, Any]]

    def points(self, panel: Panel, axis: str) -> list[tuple[float, float]]:
        """(x, y) of a panel, without what was not finite."""
        rows = [line for line in self.lines if line["kind"] == panel.kind and line.get(panel.value) is not None]
        return [(float(line.get(axis, line["step"])), float(line[panel.value])) for line in rows]

    def stages(self) -> list[tuple[int, str]]:
        """(step, name) of each stage of the curriculum that has begun."""
        return [
            (line["step"], line["stage"]) for line in self.lines if line["kind"] == "event" and line["event"] == "stage"
        ]

    def events(self, word: str) -> list[int]:
        return [line["step"] for line in self.lines if line["kind"] == "event" and word in line["event"]]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about `count` of them: 1, 2 or 5 times a power of ten apart."""
    raw = (high - low) / count or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [
        first * step + number * step
        for number in range(int((high - low) / step + 1e-9) + 1)
        if first * step + number * step <= high * (1 + 1e-9)
    ]


def log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """(place, label) of 1, 2 and 5 times the powers of ten between 10^low and 10^high."""
    values = [factor * 10.0**power for power in range(math.floor(low), math.ceil(high)) for factor in (1, 2, 5)]
    return [(math.log10(value), label(value)) for value in values if low <= math.log10(value) <= high]


def label(value: float) -> str:
    """12000 -> '12k', 0.0002 -> '0.0002', 3e9 -> '3G'."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.4g}"


def draw(panel: Panel, runs: Sequence[Metrics], axis: str) -> str:
    """The SVG of a panel; an empty string if no run has recorded its value."""
    curves = [(metrics, metrics.points(panel, axis)) for metrics in runs]
    everything = [point for _, points in curves for point in points]
    if panel.logarithmic:
        curves = [(metrics, [(x, math.log10(y)) for x, y in points if y > 0]) for metrics, points in curves]
        everything = [point for _, points in curves for point in points]
    if not everything or (panel.value == "skipped" and not any(y for _, y in everything)):
        return ""
    xs, ys = [x for x, _ in everything], [y for _, y in everything]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    pad = (y1 - y0) * 0.05 or abs(y1) * 0.05 or 0.5
    y0, y1, x1 = y0 - pad, y1 + pad, x1 if x1 > x0 else x0 + 1

    def px(x: float) -> float:
        return LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - 12)

    def py(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - BOTTOM - TOP)

    parts = [f'<text x="{LEFT}" y="16" class="title">{html.escape(panel.title)}</text>']
    for y, shown in log_ticks(y0, y1) if panel.logarithmic else [(y, label(y)) for y in ticks(y0, y1, 4)]:
        at = f"{py(y):.1f}"
        parts.append(
            f'<path d="M{LEFT} {at}H{WIDTH - 12}" class="grid"/><text x="{LEFT - 6}" y="{at}" class="right">{shown}</text>'
        )
    for x in ticks(x0, x1):
        parts.append(f'<text x="{px(x):.1f}" y="{HEIGHT - BOTTOM + 16}" class="middle">{label(x)}</text>')
    parts.append(f'<text x="{WIDTH - 12}" y="{HEIGHT - 10}" class="right">{axis}</text>')
    for step, name in runs[0].stages() if axis == "step" else []:
        if x0 < step <= x1:
            parts.append(
                f'<path d="M{px(step):.1f} {TOP}V{HEIGHT - BOTTOM}" class="stage"><title>{html.escape(name)}</title></path>'
            )
    for metrics, points in curves:
        for step in metrics.events("resume") if axis == "step" else []:
            if x0 <= step <= x1:
                parts.append(
                    f'<path d="M{px(step):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="{metrics.colour}" class="resume"><title>resumed</title></path>'
                )
        line = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{line}" stroke="{metrics.colour}"><title>{html.escape(metrics.name)}</title></polyline>'
        )
        if len(points) < 60:
            parts += [f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="2" fill="{metrics.colour}"/>' for x, y in points]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(panel.title)}">{"".join(parts)}</svg>'
    )


def summary(runs: Sequence[Metrics]) -> str:
    """A table: one row a run, with its last figures."""
    rows = []
    for metrics in runs:
        trained = [line for line in metrics.lines if line["kind"] == "train"]
        validated = [line for line in metrics.lines if line["kind"] == "val"]
        last = trained[-1] if trained else {}
        cells = [
            f'<span style="color:{metrics.colour}">&#9632;</span> {html.escape(metrics.name)}',
            f"{last.get('step', 0):,}",
            label(last.get("tokens", 0)),
            f"{last.get('loss') or math.nan:.4f}",
            f"{validated[-1]['loss']:.4f}" if validated else "",
            f"{validated[-1]['bits_per_byte']:.4f}" if validated else "",
            f"{last.get('hours', 0):.2f}",
            str(len(metrics.events("resume"))),
            str(last.get("skipped", 0)),
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = ("run", "steps", "tokens", "loss", "val loss", "bits per byte", "hours", "resumes", "skipped")
    return "<table><tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>" + "".join(rows) + "</table>"


STYLE = """
body{font:14px/1.4 system-ui,sans-serif;margin:24px;color:#222;background:#fff}h1{font-size:20px}
table{border-collapse:collapse;margin:12px 0 20px}td,th{padding:3px 14px 3px 0;text-align:right}td:first-child,th:first-child{text-align:left}
th{border-bottom:1px solid #999;font-weight:600}.panels{display:flex;flex-wrap:wrap;gap:18px}svg{width:460px;height:240px;background:#fafafa}
text{font-size:11px;fill:#555}.right{dominant-baseline:middle}.title{font-size:13px;fill:#111}.right{text-anchor:end}.middle{text-anchor:middle}.grid{stroke:#e2e2e2}
polyline{fill:none;stroke-width:1.5}.resume{stroke-dasharray:3 3;stroke-opacity:.5}
.stage{stroke:#777;stroke-dasharray:1 4}
"""


def page(runs: Sequence[Metrics], axis: str) -> str:
    """The whole HTML file."""
    pictures = "".join(draw(panel, runs, axis) for panel in PANELS)
    title = ", ".join(metrics.name for metrics in runs)
    notes = []
    if axis == "step" and any(metrics.events("resume") for metrics in runs):
        notes.append("Dashed lines: the run was resumed there.")
    if axis == "step" and len(runs[0].stages()) > 1:
        begun = "; ".join(f"{html.escape(name)} after step {step:,}" for step, name in runs[0].stages())
        notes.append(f"Dotted lines: a stage of the curriculum of {html.escape(runs[0].name)} begins: {begun}.")
    note = "".join(f"<p>{words}</p>" for words in notes)
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'{head}<h1>{html.escape(title)}</h1>{summary(runs)}{note}<div class="panels">{pictures}</div></html>\n'


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="plot_run.py", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders with metrics.jsonl")
    parser.add_argument("--out", type=Path, help="the HTML file (default run.html in the first folder)")
    parser.add_argument(
        "--x", choices=("step", "tokens", "hours"), default="step", help="horizontal axis (default step)"
    )
    args = parser.parse_args(argv)
    runs = []
    for number, folder in enumerate(args.runs):
        lines = train.read_metrics(folder / "metrics.jsonl")
        if not lines:
            raise UserError(f"{folder} has no metrics.jsonl with lines in it; name the --out folder of a run")
        runs.append(Metrics(folder.name, COLOURS[number % len(COLOURS)], lines))
    out = args.out or args.runs[0] / "run.html"
    with atomic_write(out) as file:
        file.write(page(runs, args.x))
    print(out)
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
