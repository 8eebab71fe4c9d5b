"""The account of a corpus as one page with pictures: what came in, what was kept, where the rest went.

In: a folder that prepare_dataset.py finished (manifest.json, timings.json; tokens/ if pack_tokens.py was there, too).
Out: report.html beside them, one file without scripts or outside parts, drawn with inline SVG.

    python data_prep/report.py dataset_train_val
"""

import html
import itertools
import json
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

from data_prep.cli import EXIT_DONE, Parser, UserError, atomic_write, duration, run
from data_prep.records import NEW_ID, OLD_ID, REASONS

WIDTH_PX = 860  # of the page's text and of each picture
KEPT, DROPPED, FAINT, INK = "#2f6f9f", "#d98c5f", "#e9e6df", "#22252a"
LETTER_PX = 7.2  # about the width of a letter of 12 px type
MAX_DETAIL_CHARS = 120  # of a rejected paper in the table of reasons
NUM_CATEGORIES = 24  # drawn; the rest is summed up
STYLE = f"""
body {{ max-width: {WIDTH_PX}px; margin: 2.5em auto; padding: 0 1em; color: {INK}; background: #fffefb;
  font: 16px/1.5 Georgia, "Times New Roman", serif; }}
h1 {{ font-size: 1.7em; margin-bottom: .2em; }} h2 {{ font-size: 1.2em; margin: 2.2em 0 .4em; }}
p.lead {{ font-size: 1.15em; }} p.note, figcaption {{ color: #5c5f66; font-size: .92em; }}
figure {{ margin: 1em 0; }} svg {{ width: 100%; height: auto; font: 13px system-ui, sans-serif; fill: {INK}; }}
table {{ border-collapse: collapse; width: 100%; font-size: .92em; }}
th, td {{ text-align: left; padding: .3em .6em .3em 0; vertical-align: top; border-bottom: 1px solid {FAINT}; }}
table.reasons td:first-child {{ width: 34%; }} td.n + td {{ padding-left: 1em; }} th.n + th {{ padding-left: 1em; }}
td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
code {{ font: .92em ui-monospace, monospace; overflow-wrap: anywhere; }} a {{ color: {KEPT}; }}
.key {{ display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 .8em; }}
"""


# Small parts --------------------------------------------------------------------------------------------------------------


def percent(part: float, whole: float) -> str:
    """12, 253 -> '4.7%'; of nothing '-'."""
    return f"{part / whole:.1%}" if whole else "-"


def short(number: float) -> str:
    """1234567 -> '1.23 M', 950 -> '950': three figures, for labels in pictures."""
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:g}"


def text(x: float, y: float, content: object, anchor: str = "start", **attributes: object) -> str:
    """An SVG text; y is its baseline."""
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{html.escape(str(content))}</text>'


def bar(x: float, y: float, width: float, height: float, colour: str, title: str = "") -> str:
    """An SVG rectangle, with a tooltip where `title` says something."""
    tip = f"<title>{html.escape(title)}</title>" if title else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" fill="{colour}">{tip}</rect>'


def figure(height: float, parts: Iterable[str], label: str, caption: str) -> str:
    """A picture of WIDTH_PX by `height`, with what it shows for those who cannot see it, and a caption."""
    svg = f'<svg viewBox="0 0 {WIDTH_PX} {height:.0f}" role="img" aria-label="{html.escape(label)}">{"".join(parts)}</svg>'
    return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"


def key(*entries: tuple[str, str]) -> str:
    """The meaning of colours, for a caption."""
    return "".join(f'<span class="key" style="background:{colour}"></span>{name}' for colour, name in entries)


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], numeric: frozenset[int] = frozenset(), kind: str = ""
) -> str:
    """An HTML table; the cells are HTML already, the columns in `numeric` stand to the right."""

    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{' class=n' if i in numeric else ''}>{cell}</{tag}>" for i, cell in enumerate(cells))

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return f"<table class='{kind}'><thead><tr>{row(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def paper_link(paper_id: str) -> str:
    """An id, linked to its page at arXiv if it is one of arXiv's."""
    name = html.escape(paper_id)
    is_arxiv = NEW_ID.fullmatch(paper_id) or OLD_ID.fullmatch(paper_id)
    return f'<a href="https://arxiv.org/abs/{name}">{name}</a>' if is_arxiv else name


# Pictures -----------------------------------------------------------------------------------------------------------------


def draw_funnel(stages: Sequence[Mapping[str, Any]]) -> str:
    """One row for each stage: a bar for what is left, a lighter one for what it dropped, and the reasons."""
    left, right, y = 110.0, 150.0, 6.0
    scale = (WIDTH_PX - left - right) / max(stages[0]["in"], 1)
    parts = []
    for stage in stages:
        dropped = stage["in"] - stage["left"]
        parts += [
            text(left - 10, y + 15, stage["stage"], "end"),
            bar(left, y, stage["left"] * scale, 20, KEPT, f"{stage['left']:,} left after {stage['stage']}"),
            bar(left + stage["left"] * scale, y, dropped * scale, 20, DROPPED, f"{dropped:,} dropped"),
            text(WIDTH_PX, y + 15, f"{stage['left']:,} left" + (f", −{dropped:,}" if dropped else ""), "end"),
        ]
        reasons = ", ".join(
            f"{reason} {count:,}" for reason, count in sorted(stage["dropped"].items(), key=lambda r: -r[1])
        )
        y += 34
        for line in textwrap.wrap(reasons, int((WIDTH_PX - left) / LETTER_PX), break_on_hyphens=False) or [""]:
            parts.append(text(left, y, line, fill="#5c5f66", font_size=12))
            y += 15
    caption = f"E-prints by stage. {key((KEPT, 'left'), (DROPPED, 'dropped by this stage'))}"
    return figure(y, parts, "funnel of e-prints by stage", caption)


def draw_columns(
    labels: Sequence[str],
    kept: Sequence[float],
    dropped: Sequence[float],
    what: str,
    caption: str,
    plot_px: float = 220.0,
) -> str:
    """Columns side by side, the kept below, the dropped on top, with an axis of round numbers."""
    left, top = 60.0, 10.0
    most = max((a + b for a, b in zip(kept, dropped, strict=True)), default=0) or 1
    step = (WIDTH_PX - left) / max(len(labels), 1)
    column_px, every = min(step * 0.8, 60.0), max(1, -(-len(labels) * 44 // int(WIDTH_PX - left)))
    parts = []
    for tick in round_ticks(most):
        y = top + plot_px * (1 - tick / most)
        parts += [bar(left, y, WIDTH_PX - left, 0.7, FAINT), text(left - 8, y + 4, short(tick), "end")]
    for i, (label, good, bad) in enumerate(zip(labels, kept, dropped, strict=True)):
        x, good_px, bad_px = left + (i + 0.5) * step - column_px / 2, plot_px * good / most, plot_px * bad / most
        tip = (
            f"{label}: {good:,} kept of {good + bad:,} {what} ({percent(good, good + bad)})"
            if any(dropped)
            else f"{label}: {good:,}"
        )
        parts += [
            bar(x, top + plot_px - good_px, column_px, good_px, KEPT, tip),
            bar(x, top + plot_px - good_px - bad_px, column_px, bad_px, DROPPED, tip),
        ]
        if i % every == 0:
            parts.append(text(left + (i + 0.5) * step, top + plot_px + 18, label, "middle"))
    return figure(top + plot_px + 28, parts, f"columns of {what}", caption)


def round_ticks(most: float) -> list[int]:
    """Up to seven round whole numbers from 0 to `most`: 253 -> [0, 50, 100, 150, 200, 250]."""
    steps = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
    step = next(step for step in steps if most / step <= 6)
    return list(range(0, int(most) + 1, step))


def draw_categories(categories: Mapping[str, Mapping[str, int]]) -> str:
    """A row for each of the largest primary categories: kept and dropped e-prints, and the kept share."""
    ordered = sorted(categories.items(), key=lambda pair: (-pair[1]["in"], pair[0]))
    rows = [(name, tally["kept"], tally["in"]) for name, tally in ordered[:NUM_CATEGORIES]]
    if rest := ordered[NUM_CATEGORIES:]:
        rows.append(
            (f"{len(rest)} others", sum(tally["kept"] for _, tally in rest), sum(tally["in"] for _, tally in rest))
        )
    left, right, row_px = 165.0, 170.0, 22
    scale = (WIDTH_PX - left - right) / max((num_in for _, _, num_in in rows), default=1)
    parts = []
    for number, (name, kept, num_in) in enumerate(rows):
        y = number * row_px + 4
        parts += [
            text(left - 10, y + 12, name, "end"),
            bar(left, y, kept * scale, 15, KEPT),
            bar(left + kept * scale, y, (num_in - kept) * scale, 15, DROPPED),
            text(WIDTH_PX, y + 12, f"{kept:,} of {num_in:,} ({percent(kept, num_in)})", "end"),
        ]
    caption = f"E-prints by primary category. {key((KEPT, 'kept'), (DROPPED, 'rejected'))}"
    return figure(len(rows) * row_px + 6, parts, "e-prints by category", caption)


def draw_lengths(bins: Sequence[Mapping[str, int]]) -> str:
    """How long the kept papers are."""
    shown = [(short(entry["from_chars"]), entry["papers"]) for entry in bins]
    while len(shown) > 1 and shown[0][1] == 0:
        shown.pop(0)
    while len(shown) > 1 and shown[-1][1] == 0:
        shown.pop()
    caption = (
        "Kept papers by the length of their text in characters: each column from its label to the next. The bins grow."
    )
    return draw_columns(
        [label for label, _ in shown], [count for _, count in shown], [0] * len(shown), "kept papers", caption
    )


def draw_years(years: Mapping[str, Mapping[str, int]]) -> str:
    """Kept and rejected e-prints by the year of the first version; years without any are shown empty."""
    numbers = [int(year) for year in years if year.isdecimal()]
    labels = [str(year) for year in range(min(numbers), max(numbers) + 1)] if numbers else []
    labels += [year for year in years if not year.isdecimal()]
    none = {"kept": 0, "in": 0}
    kept = [years.get(label, none)["kept"] for label in labels]
    dropped = [years.get(label, none)["in"] - years.get(label, none)["kept"] for label in labels]
    labels = [label if label.isdecimal() else "?" for label in labels]
    caption = (
        f"E-prints by the year of their first version (?: not known). {key((KEPT, 'kept'), (DROPPED, 'rejected'))}"
    )
    shares = [round(100 * good / (good + bad), 1) if good + bad else 0 for good, bad in zip(kept, dropped, strict=True)]
    return draw_columns(labels, kept, dropped, "e-prints", caption) + draw_columns(
        labels, shares, [0] * len(shares), "% kept", "Kept, as a percentage of the year's e-prints.", plot_px=90
    )


# The page -----------------------------------------------------------------------------------------------------------------


def reasons_table(manifest: Mapping[str, Any]) -> str:
    """All reasons that occurred, most frequent first, with what they mean and three papers each."""
    rows = []
    for reason, count in sorted(manifest["reasons"].items(), key=lambda pair: (-pair[1], pair[0])):
        samples = "<br>".join(
            f"{paper_link(sample['id'])} {html.escape(textwrap.shorten(sample['detail'], MAX_DETAIL_CHARS, placeholder=' …'))}"
            for sample in manifest["samples"][reason]
        )
        meaning = html.escape(REASONS.get(reason, ""))
        rows.append((f"<b>{reason}</b><br>{meaning}", f"{count:,}", percent(count, manifest["papers"]["in"]), samples))
    return table(("reason", "e-prints", "share", "for example"), rows, frozenset({1, 2}), "reasons")


def tokens_sentence(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Real tokens if the corpus is packed, else the estimate."""
    packed = [json.loads(path.read_text()) for path in sorted((folder / "tokens").glob("*.json"))]
    counts = [facts.get("num_tokens") for facts in packed if facts.get("part") == "text"]  # parts repeat the text
    found = [count for count in counts if isinstance(count, int)]
    if found:
        return f"{sum(found):,} tokens"
    return f"about {short(manifest['tokens_out_estimated'])} tokens (estimated; packing counts them)"


def lead(folder: Path, manifest: Mapping[str, Any]) -> str:
    """The corpus in three sentences."""
    papers = manifest["papers"]
    return (
        f"<p class=lead>{papers['in']:,} e-prints came in ({manifest['bytes_in'] / 1e6:,.1f} MB). {papers['kept']:,} were kept "
        f"({percent(papers['kept'], papers['in'])}): {papers['train']:,} to train, {papers['val']:,} to validate, "
        f"{short(manifest['chars_out'])} characters, {tokens_sentence(folder, manifest)}. {papers['rejected']:,} were rejected, "
        "each for one reason below.</p>"
    )


def facts(manifest: Mapping[str, Any], timings: Mapping[str, Any]) -> str:
    """What the corpus was made of and how: metadata, time, settings, files."""
    metadata = manifest["metadata"]
    rejected = ", ".join(f"{reason} {count:,}" for reason, count in metadata["rejected"].items())
    about_metadata = (
        f"{metadata['lines']:,} lines hold {metadata['ids']:,} papers; the metadata filter keeps {metadata['kept']:,}"
        f"{f' and rejects {rejected}' if rejected else ''}. Papers without an e-print here: {metadata['ids_without_eprint']:,}."
    )
    parts = [
        f"<h2>Metadata</h2><p>{about_metadata}</p>",
        *(f"<p class=note>{html.escape(sentence)}</p>" for sentence in metadata["odd"]),
        f"<h2>Leaks</h2><p>{html.escape(manifest['leak_check'].capitalize())}.</p>",
    ]
    if timings:
        seconds = timings["cpu_seconds"]
        total_s = sum(seconds.values())
        about_time = (
            f"{duration(total_s)} of CPU time, {manifest['papers']['in'] / (total_s or 1):,.0f} e-prints a second and core; the "
            f"largest worker held {timings['worker_peak_rss_bytes'] / 2**20:,.0f} MiB."
        )
        rows = [(stage, f"{stage_s:,.1f}", percent(stage_s, total_s)) for stage, stage_s in seconds.items()]
        parts += [
            f"<h2>Time</h2><p>{about_time}</p>",
            table(("stage", "CPU seconds", "share"), rows, frozenset({1, 2})),
        ]
    settings = [
        (html.escape(name), f"<code>{html.escape(json.dumps(value))}</code>")
        for name, value in manifest["settings"].items()
    ]
    files = [
        (html.escape(name), f"{file['lines']:,}", f"{file['bytes']:,}", f"<code>{file['sha256']}</code>")
        for name, file in manifest["files"].items()
    ]
    return "".join(
        [
            *parts,
            "<h2>Settings</h2>",
            table(("setting", "value"), settings),
            "<h2>Files</h2>",
            table(("file", "lines", "bytes", "SHA-256"), files, frozenset({1, 2})),
        ]
    )


def page(folder: Path, manifest: Mapping[str, Any], timings: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = [
        "<h1>Where the papers went</h1>",
        lead(folder, manifest),
        "<h2>The funnel</h2>",
        draw_funnel(manifest["funnel"]),
        "<h2>By year</h2>",
        draw_years(manifest["years"]),
        "<h2>By category</h2>",
        draw_categories(manifest["categories"]),
        "<h2>Lengths</h2>",
        draw_lengths(manifest["lengths"]),
        "<h2>Reasons</h2>",
        reasons_table(manifest),
        facts(manifest, timings),
    ]
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>Corpus report</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no file."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); make the corpus again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object; make the corpus again")
    return content


def main(argv: Sequence[str] | None = None) -> int:
    """Write report.html into the corpus' folder."""
    parser = Parser(prog="report.py", description=__doc__)
    parser.add_argument("dataset", type=Path, nargs="?", default=Path("dataset_train_val"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=None, help="default: report.html in the folder")
    args = parser.parse_args(argv)
    manifest = read_json(args.dataset / "manifest.json")
    if "funnel" not in manifest:
        raise UserError(
            f"{args.dataset} holds no finished corpus (manifest.json); run data_prep/prepare_dataset.py first"
        )
    out = args.out or args.dataset / "report.html"
    with atomic_write(out) as file:
        file.write(page(args.dataset, manifest, read_json(args.dataset / "timings.json")))
    print(out)
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
