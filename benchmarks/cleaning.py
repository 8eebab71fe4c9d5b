"""How fast archives become text on one core, and how time grows on hostile sources.

In: a folder of e-prints (default ../shared/eprints/src). Out: figures on stdout, and the cleaned texts for the scorer.

    python benchmarks/cleaning.py --out /tmp/clean.jsonl
    python ../shared/fidelity/fidelity.py --set ../shared/eprints --texts /tmp/clean.jsonl --worst 20
    python benchmarks/fidelity_mended.py --texts /tmp/clean.jsonl
    python benchmarks/cleaning.py --growth
    python benchmarks/cleaning.py --commands

Both forms of the cleaner are measured, the interpreted one and the compiled one (data_prep/compile_cleaner.py), each in a process of its own;
the SHA-256 of their texts is the same.
MB are those of the TeX files that a paper's text is made of; others in its archive are inflated, but do not count. Times
are CPU seconds of this process; for each e-print the fastest of `--rounds` rounds counts, because what else runs on the
machine can only add. The speeds of a bare Python loop and of gunzip are printed beside them, so that figures from two machines can be
compared: issue 3 asks for 15 MB/s and 150 e-prints/s of a machine on which zlib inflates 315 MB/s.
"""

import contextlib
import gc
import hashlib
import os
import resource
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

from data_prep import cleaner_form, compile_cleaner
from data_prep.cli import Parser, UserError, need_file, run
from data_prep.extraction import Eprint, Extracted, extract_source, iter_eprints
from data_prep.latex_cleaner import Cleaned, clean_latex
from data_prep.latex_macros import TEX_COMMANDS
from data_prep.latex_prose import TOKENS
from data_prep.records import parse_name, write_jsonl
from data_prep.shards import GC_ALLOCATIONS

EPRINTS = Path(__file__).resolve().parent.parent.parent / "shared" / "eprints" / "src"
LOOP_STEPS = 2_000_000  # of the bare loop
GROWTH_COUNTS = (5_000, 10_000, 20_000, 40_000)  # repetitions: time should double with them
PROSE = "Some words of prose stand before the rest of this document. "

GROWTH: dict[str, Callable[[int], str]] = {
    "deep braces": lambda n: "{" * n + "x" + "}" * n,
    "unclosed braces": lambda n: "{ a " * n,
    "100,000 $ and more": lambda n: "$" * (5 * n),
    "$ and open braces": lambda n: "${$ " * n,
    "unclosed \\footnote{": lambda n: "\\footnote{ a" * n,
    "nested \\footnote{}": lambda n: "\\footnote{ a" * n + "}" * n,
    "\\begin{figure}": lambda n: "\\begin{figure} a " * n,
    "\\begin{figure}, one end": lambda n: "\\begin{figure} a " * n + "\\end{figure}",
    "one line": lambda n: "word $x$ \\alpha {y} " * (6 * n),
    "\\iffalse": lambda n: "\\iffalse a " * n,
    "\\iffalse, one \\fi": lambda n: "\\iffalse a " * n + "\\fi",
    "unclosed \\verb": lambda n: "\\verb|a " * n,
    "unclosed verbatim": lambda n: "\\begin{verbatim} a " * n,
    "unclosed \\[": lambda n: "\\[ a \\\\] " * n,
    "billion laughs": lambda n: billion_laughs() + "\\ax " * n,
    "macro calls itself": lambda n: "\\def\\x{\\x\\x}" + "\\x " * n,
    "macros call each other": lambda n: "\\def\\x#1{\\y{#1#1}}\\def\\y#1{\\x{#1}}" + "\\x{a} " * n,
    "long \\def parameters": lambda n: "\\def\\x" + "#1a" * n + "{b}",
    "unclosed arguments": lambda n: "\\newcommand{\\x}[1]{(#1)}" + "\\x{ a " * n,
    "unclosed options": lambda n: "\\newcommand{\\x}[2][d]{#1#2}" + "\\x[ a " * n,
    "nested \\iftoggle": lambda n: "\\newtoggle{x}" + "\\nottoggle{x}{ a " * n + "}{}" * n,
    "\\ifthenelse{\\NOT \\NOT ...": lambda n: "\\ifthenelse{" + "\\NOT " * n + "\\boolean{x}}{a}{b}",
    "unclosed \\SI{1}{": lambda n: "\\SI{1}{ a " * n,
    "acronyms": lambda n: "".join(f"\\acro{{{number}}}[b]{{c}}\\ac{{{number}}} " for number in range(n)),
    "a long acronym": lambda n: "\\acrodef{a}[a]{" + "long " * n + "}" + "\\acl{a} " * n,
    "macros hand on": lambda n: "\\def\\a{\\b}\\def\\b{\\a}\\def\\c#1{\\d}\\def\\d#1{\\c}" + "\\a{x}\\c{y}{z} " * n,
    "comments": lambda n: "a % b\n" * n,
}


def billion_laughs() -> str:
    """Fifteen macros, each of which stands for four of the next."""
    names = "abcdefghijklmnop"
    bodies = (f"\\def\\{name}x{{{f'{chr(92)}{names[number + 1]}x' * 4}}}" for number, name in enumerate(names[:-1]))
    return "".join(bodies) + "\\def\\px{ha}"


# What may follow a command, once and 700 or 2,800 times: arguments of every kind, open, closed and within each other.
FOLLOWERS = (
    "{ a ", "[ a ", "( a ", "{a}", "{", "[", "$ a ", "{a}{b} ", "\n", " = 1 ", "{a}[b]{c} ", " \\x{a} ", "[a]{ a ", "{a}{ ", "*{", "[ {",
)  # fmt: skip
COMMAND_COUNTS = (700, 2_800)
NOTICED_S = 0.06  # below it a growth is not looked into


def bare_loop_s() -> float:
    """CPU seconds of LOOP_STEPS additions: how fast this machine is just now."""
    started, total = time.process_time(), 0
    for step in range(LOOP_STEPS):
        total += step
    return time.process_time() - started


def gunzip_mb_s(sources: Path) -> float:
    """How many MB zlib inflates to in a CPU second, the fastest of three times over the gzipped archives of a folder."""
    archives = [path.read_bytes() for path in sorted(sources.glob("*.gz"))]
    fastest = 0.0
    for _ in range(3):
        started, num_bytes = time.process_time(), 0
        for data in archives:
            with contextlib.suppress(zlib.error):  # broken ones count as far as they go: not at all
                num_bytes += len(zlib.decompressobj(wbits=31).decompress(data))
        fastest = max(fastest, num_bytes / 1e6 / max(time.process_time() - started, 1e-9))
    return fastest


def one_round(sources: Path, texts: dict[str, str]) -> tuple[dict[str, tuple[float, float]], int]:
    """(seconds of reading and extraction, and of cleaning, of each e-print; bytes of TeX); the cleaned texts go to `texts`."""
    seconds: dict[str, tuple[float, float]] = {}
    num_tex_bytes = 0
    eprints = iter_eprints([sources])
    while True:
        started = time.process_time()
        eprint = next(eprints, None)
        if eprint is None:
            return seconds, num_tex_bytes
        if not isinstance(eprint, Eprint):
            continue
        extracted = extract_source(eprint.data, eprint.name)
        middle = time.process_time()
        if isinstance(extracted, Extracted):
            num_tex_bytes += extracted.num_source_bytes
            cleaned = clean_latex(extracted.source)
            if isinstance(cleaned, Cleaned):
                texts[parse_name(eprint.name)[0]] = cleaned.text
        seconds[eprint.name] = middle - started, time.process_time() - middle


def measure(sources: Path, rounds: int, out: Path | None) -> None:
    """Print MB/s, e-prints/s, the 99th percentile and the slowest e-print; write the texts."""
    texts: dict[str, str] = {}
    loop_s = bare_loop_s()
    extraction: dict[str, float] = {}
    cleaning: dict[str, float] = {}
    for _ in range(rounds):
        seconds, num_tex_bytes = one_round(sources, texts)
        loop_s = min(loop_s, bare_loop_s())
        for name, (extracted_s, cleaned_s) in seconds.items():
            extraction[name] = min(extracted_s, extraction.get(name, extracted_s))
            cleaning[name] = min(cleaned_s, cleaning.get(name, cleaned_s))
    ordered = sorted((extraction[name] + cleaning[name], name) for name in extraction)
    total_s, cleaning_s, count = sum(second for second, _ in ordered), sum(cleaning.values()), len(ordered)
    num_mb = num_tex_bytes / 1e6
    print(f"the cleaner is {cleaner_form}")
    print(f"{num_mb:.1f} MB of TeX / {total_s:.2f} s = {num_mb / total_s:.1f} MB/s")
    print(f"{count} e-prints / {total_s:.2f} s = {count / total_s:.0f} e-prints/s; {len(texts)} have text")
    print(f"extraction {total_s - cleaning_s:.2f} s + cleaning {cleaning_s:.2f} s")
    print(f"99% of the e-prints take less than {ordered[int(count * 0.99)][0] * 1e3:.0f} ms")
    print("slowest:", ", ".join(f"{name} {second * 1e3:.0f} ms" for second, name in reversed(ordered[-3:])))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    print(f"a bare loop does {LOOP_STEPS / loop_s / 1e6:.0f} million steps/s on this machine just now")
    if (inflated := gunzip_mb_s(sources)) > 0:
        share = num_mb / total_s / inflated
        print(
            f"zlib inflates {inflated:.0f} MB/s on it: archive to text is {share:.1%} of that; 15 MB/s of 315 MB/s are 4.8%"
        )
    digest = hashlib.sha256("\0".join(f"{name}\0{texts[name]}" for name in sorted(texts)).encode())
    print(f"SHA-256 of all texts: {digest.hexdigest()}")
    if out is not None:
        write_jsonl(out, ({"id": name, "text": text} for name, text in sorted(texts.items())))


def measure_forms(arguments: list[str]) -> int:
    """Measure the interpreted cleaner, then, where it can be compiled, the compiled one."""
    command = [sys.executable, __file__, *arguments, "--this-form"]
    subprocess.run(command, env={**os.environ, "INTERPRETED_CLEANER": "1"}, check=True)
    if cleaner_form != "compiled":
        try:
            compile_cleaner.main([])
        except UserError as error:
            print(f"the compiled cleaner is not measured: {error}")
            return 0
    print()
    subprocess.run(command, check=True)
    return 0


def grow() -> None:
    """Print, for each hostile source, its time at doubling lengths."""
    print(f"{'':26s}{'characters':>12s}" + "".join(f"{count:>10,}" for count in GROWTH_COUNTS) + "   times 4")
    for name, build in GROWTH.items():
        times = []
        for count in GROWTH_COUNTS:
            source = PROSE + build(count)
            started = time.process_time()
            clean_latex(source)
            times.append(time.process_time() - started)
        growth = times[-1] / max(times[-3], 1e-4)
        print(f"{name:26s}{len(source):>12,}" + "".join(f"{second:>9.3f}s" for second in times) + f"{growth:>10.1f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def sweep() -> None:
    """Print the commands that the cleaner knows whose repetition takes more than linear time, with what follows them."""
    names = sorted(
        {*TOKENS, *(f"\\{name}" for name in TEX_COMMANDS), "\\unknown", "\\begin{unknown}", "\\end{unknown}", "\\xref"}
    )
    num_slow = 0
    for name in names:
        for follower in FOLLOWERS:
            for closing in ("", "}", "]"):
                times = []
                for count in COMMAND_COUNTS:
                    started = time.process_time()
                    clean_latex(PROSE + (name + follower) * count + closing * count)
                    times.append(time.process_time() - started)
                    if times[0] < NOTICED_S:
                        break
                if len(times) > 1 and times[1] > 6 * times[0]:
                    num_slow += 1
                    print(
                        f"{name!r} {follower!r} {closing!r}: {times[0]:.2f} s, then {times[1]:.2f} s for 4 times as many"
                    )
    print(f"{len(names):,} commands, {len(FOLLOWERS)} followers: {num_slow} take more than linear time")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--sources", type=Path, default=EPRINTS, help="folder of archives (default: ../shared/eprints/src)"
    )
    parser.add_argument("--out", type=Path, help="write the texts here, as JSON lines with id and text")
    parser.add_argument(
        "--rounds", type=int, default=8, help="how often to measure; the fastest counts, for each e-print"
    )
    parser.add_argument("--growth", action="store_true", help="measure hostile sources instead")
    parser.add_argument(
        "--commands", action="store_true", help="measure every command that the cleaner knows, repeated, instead"
    )
    parser.add_argument(
        "--this-form", action="store_true", help="measure only the form of the cleaner that scripts use now"
    )
    options = parser.parse_args(argv)
    if not options.growth and not options.commands and not options.this_form:
        need_file(options.sources, "folder of e-prints")
        return measure_forms(sys.argv[1:] if argv is None else list(argv))
    gc.set_threshold(GC_ALLOCATIONS)  # as prepare_dataset.py's workers do
    if options.growth:
        grow()
    elif options.commands:
        sweep()
    else:
        measure(need_file(options.sources, "folder of e-prints"), options.rounds, options.out)
    return 0


if __name__ == "__main__":
    run(main)
