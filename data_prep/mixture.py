"""Which tokens a training run draws, from which sources, in which order: the mixture and the curriculum.

In: mixture.json and the packed tokens of its sources. Out: `Curriculum`, whose rows are a pure function of their number.

    python data_prep/mixture.py --mixture recipes/kitefish-a1/mixture.json --tokens 52.18e9

prints what such a run would draw: tokens and passes of each source, by stage. mixture.json has two tables:

    {"sources": {"arxiv": {"stage": "pretraining", "weight": 2.0, "dataset": "dataset_train_val", "gold_factor": 2.0}, ...},
     "curriculum": [{"name": "textual warm-up", "share": 0.1, "reads": "prose"}, ...]}

A weight acts when sequences are drawn, never by copying text: an epoch passes twice over a source of weight 2.0. `gold_factor`
multiplies the weight of a source's gold documents (see `is_gold`). A stage of the curriculum has a share of the token budget and reads
"prose" (abstract, introduction, conclusion), "full" (whole documents) or "balanced" (whole documents, as many tokens from
formula-heavy ones as from wordy ones). KiteFish-A1 names the weights in its Table 1 and the three stages in section 5.1; the
stages' shares and the gold rule are ours, because the paper gives none.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from data_prep.cli import EXIT_DONE, Parser, UserError, run
from data_prep.mathematics import formula_share
from data_prep.token_files import FULL_TEXT, Batch, TokenFile, TokenSequences, data_fingerprint, open_split, read_json

STAGES = ("pretraining", "post-training")
# Table 1 of KiteFish-A1, and the data of its siblings: in which stage a source belongs, and its weight there.
KNOWN_SOURCES: dict[str, tuple[str, float]] = {
    "arxiv": ("pretraining", 2.0),
    "openwebmath": ("pretraining", 1.0),
    "slimpajama": ("pretraining", 1.0),
    "stackexchange": ("post-training", 1.0),
    "mathinstruct": ("post-training", 1.0),
    "ultrachat": ("post-training", 1.0),
    "metamathqa": ("post-training", 1.0),
    "gsm8k": ("post-training", 1.0),
    "dolly": ("post-training", 1.0),
    "oasst1": ("post-training", 1.0),
}
READS = ("prose", "full", "balanced")
DEFAULT_CURRICULUM = (
    {"name": "textual warm-up", "share": 0.1, "reads": "prose"},
    {"name": "symbolic integration", "share": 0.6, "reads": "full"},
    {"name": "balanced mixture", "share": 0.3, "reads": "balanced"},
)
NO_CURRICULUM = ({"name": "full bodies", "share": 1.0, "reads": "full"},)
SHARE_TOLERANCE = 1e-6  # three thirds written with seven digits still make one

# The gold rule. Longer bodies are theses and books, shorter ones notes; a paper between them has one subject and proves it.
GOLD_BODY_CHARS = (8_000, 400_000)
GOLD_STRUCTURES = ("theorem", "proof")
FORMULA_HEAVY_SHARE = (
    0.2  # of characters: the median of the cleaned e-prints of ../shared is 0.203, so the halves are even
)


# --- what a record knows ---


def is_gold(record: Mapping[str, Any]) -> bool:
    """Published (a DOI or a journal reference), with theorems and proofs, of a paper's length, and cleaned without a warning."""
    text = str(record.get("text") or "")
    return (
        bool(record.get("doi") or record.get("journal_ref"))
        and not record.get("warnings")
        and GOLD_BODY_CHARS[0] <= len(text) <= GOLD_BODY_CHARS[1]
        and all(f"\\begin{{{name}}}" in text.lower() for name in GOLD_STRUCTURES)
    )


def group_of(record: Mapping[str, Any]) -> str:
    """The group whose token file a document goes to: "gold" or "plain", then "formulas" or "words"."""
    heavy = formula_share(str(record.get("text") or "")) >= FORMULA_HEAVY_SHARE
    return f"{'gold' if is_gold(record) else 'plain'}-{'formulas' if heavy else 'words'}"


# --- the mixture file ---


@dataclass(frozen=True)
class Source:
    """One source of the mixture: where its packed tokens lie, and how often it is passed relative to the others."""

    name: str
    stage: str
    weight: float
    dataset: Path
    gold_factor: float = 1.0


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum: its share of the token budget, what it reads, and weights that replace the sources' own."""

    name: str
    share: float
    reads: str
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Mixture:
    """What mixture.json says, checked."""

    sources: tuple[Source, ...]
    curriculum: tuple[Stage, ...]

    def of_stage(self, stage: str) -> tuple[Source, ...]:
        """The sources of "pretraining" or "post-training"; a UserError if there are none."""
        chosen = tuple(source for source in self.sources if source.stage == stage)
        if not chosen:
            raise UserError(f"the mixture has no source with stage {stage!r}; it names {', '.join(self.names())}")
        return chosen

    def names(self) -> list[str]:
        """The sources' names, in the order of the file."""
        return [source.name for source in self.sources]


def checked_keys(entry: Any, where: str, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """An object of the mixture file with known keys only; a UserError that names the first other."""
    if not isinstance(entry, dict):
        raise UserError(f"{where} is {type(entry).__name__}, a JSON object is needed")
    for key in entry:
        if key not in (*required, *optional):
            raise UserError(f"{where} has an unknown key {key!r}; known are {', '.join((*required, *optional))}")
    for key in required:
        if key not in entry:
            raise UserError(f"{where} lacks {key!r}")
    return entry


def checked_number(value: Any, what: str, low: float = 0.0) -> float:
    """A finite number above `low`; else a UserError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < float("inf"):
        raise UserError(f"{what} is {value!r}; a number above {low:g} is needed")
    return float(value)


def read_mixture(path: Path, *, allow: bool = False, curriculum: bool = True) -> Mixture:
    """The mixture of a file; `curriculum=False` replaces its stages by one over full bodies.

    UserError, before any work: an unknown key or stage, a weight that is not above 0, shares that do not sum to 1, and a source of
    post-training in the pretraining stage (`allow` lets it in). Relative datasets are relative to the current folder, as on a
    command line.
    """
    content = checked_keys(read_json(path, "mixture"), str(path), ("sources",), ("curriculum",))
    sources = tuple(checked_source(name, entry, path, allow) for name, entry in content["sources"].items())
    if not sources:
        raise UserError(f"{path} names no source")
    entries = content.get("curriculum", DEFAULT_CURRICULUM) if curriculum else NO_CURRICULUM
    stages = tuple(checked_stage(entry, path, [source.name for source in sources]) for entry in entries)
    total = sum(stage.share for stage in stages)
    if abs(total - 1) > SHARE_TOLERANCE:
        shares = " + ".join(f"{stage.share:g}" for stage in stages)
        raise UserError(f"{path}: the curriculum's shares are {shares} = {total:g}; they must sum to 1")
    return Mixture(sources, stages)


def checked_source(name: str, entry: Any, path: Path, allow: bool) -> Source:
    """One entry of "sources"."""
    where = f"{path}, source {name!r}"
    entry = checked_keys(entry, where, ("stage", "weight", "dataset"), ("gold_factor",))
    if entry["stage"] not in STAGES:
        raise UserError(f"{where}: stage {entry['stage']!r}; it must be one of {', '.join(STAGES)}")
    home = KNOWN_SOURCES.get(name, (entry["stage"],))[0]
    if entry["stage"] == "pretraining" and home == "post-training" and not allow:
        raise UserError(f"{where} belongs to post-training but stands in pretraining; give --allow if that is meant")
    weight = checked_number(entry["weight"], f"{where}: weight")
    gold_factor = checked_number(entry.get("gold_factor", 1.0), f"{where}: gold_factor")
    return Source(name, entry["stage"], weight, Path(entry["dataset"]), gold_factor)


def checked_stage(entry: Any, path: Path, names: Sequence[str]) -> Stage:
    """One entry of "curriculum"."""
    entry = checked_keys(entry, f"{path}, curriculum", ("name", "share", "reads"), ("weights",))
    where = f"{path}, stage {entry['name']!r}"
    if entry["reads"] not in READS:
        raise UserError(f"{where} reads {entry['reads']!r}; it must be one of {', '.join(READS)}")
    weights = checked_keys(entry.get("weights", {}), f"{where}: weights", (), names)
    weights = {name: checked_number(value, f"{where}: weight of {name!r}") for name, value in weights.items()}
    return Stage(str(entry["name"]), checked_number(entry["share"], f"{where}: share"), entry["reads"], weights)


def default_mixture(dataset: Path, *, curriculum: bool = True) -> Mixture:
    """Without a mixture file: all pretraining sources packed under `dataset`, each with its weight of Table 1 (else 1.0)."""
    names = sorted({file.source for file in open_split(dataset, "train")})
    pretraining = [name for name in names if KNOWN_SOURCES.get(name, STAGES)[0] == "pretraining"]
    if not pretraining:
        raise UserError(
            f"{dataset} holds post-training sources alone ({', '.join(names)}); give a --mixture with --allow"
        )
    sources = [Source(name, "pretraining", KNOWN_SOURCES.get(name, ("", 1.0))[1], dataset) for name in pretraining]
    entries = DEFAULT_CURRICULUM if curriculum else NO_CURRICULUM
    return Mixture(tuple(sources), tuple(checked_stage(entry, dataset, pretraining) for entry in entries))


# --- what a run draws ---


class Drawn(NamedTuple):
    """What a stage draws of one source: `tokens` of it, which are `share` of the stage and `epochs` passes over what it reads."""

    stage: str
    source: str
    tokens: float
    share: float
    epochs: float


@dataclass(frozen=True)
class Segment:
    """A stage as rows: [first_row, first_row + num_rows) of the run come from `sequences`."""

    stage: Stage
    first_row: int
    num_rows: int
    sequences: TokenSequences
    weights: tuple[float, ...]


class Curriculum:
    """All rows of a run, in stages. Row g is a pure function of (mixture, tokens, seq_len, seed, steps, g), for any number of ranks.

    It answers `rows(indices)` as TokenSequences does. A stage ends where a step ends, so a step belongs to one stage.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        steps: int,
        rows_per_step: int,
        seq_len: int,
        seed: int,
        tokenizer: Path | None = None,
    ) -> None:
        self.seq_len = seq_len
        packed = {source: source_files(source, tokenizer) for source in mixture.of_stage("pretraining")}
        edges = (
            np.rint(np.cumsum([0.0] + [stage.share for stage in mixture.curriculum]) * steps).astype(int)
            * rows_per_step
        )
        self.segments: list[Segment] = []
        for number, stage in enumerate(mixture.curriculum):
            files, weights = weighted_files(packed, stage)
            sequences = TokenSequences(files, weights, seq_len=seq_len, seed=seed + number)
            self.segments.append(
                Segment(stage, int(edges[number]), int(edges[number + 1] - edges[number]), sequences, tuple(weights))
            )
        self.starts = [segment.first_row for segment in self.segments]

    def segment_of(self, row: int) -> Segment:
        """The stage that a row of the run belongs to; rows behind the last stage go on with it."""
        return self.segments[int(np.searchsorted(self.starts, row, side="right")) - 1]

    def rows(self, indices: Sequence[int] | range) -> Batch:
        """The rows of these numbers, counted since the start of the run: see TokenSequences.rows."""
        wanted = np.asarray(indices, dtype=np.int64)
        owner = np.searchsorted(self.starts, wanted, side="right") - 1
        batch = Batch(*(np.empty((len(wanted), self.seq_len), dtype=np.int64) for _ in Batch._fields))
        for number in np.unique(owner):
            segment = self.segments[number]
            chosen = owner == number
            part = segment.sequences.rows((wanted[chosen] - segment.first_row).tolist())
            for whole, piece in zip(batch, part, strict=True):
                whole[chosen] = piece
        return batch

    def files(self) -> list[TokenFile]:
        """All token files that the run draws from, each once."""
        found = {file.path: file for segment in self.segments for file in segment.sequences.files}
        return [found[path] for path in sorted(found)]

    def num_tokens(self) -> int:
        """Tokens of the full text of all sources, each counted once."""
        return sum(file.header.num_tokens for file in self.files() if file.part == FULL_TEXT)

    def fingerprint(self) -> str:
        """12 hexadecimal digits that change with the stages, their files and weights, and the packed tokens."""
        stages = [[segment.stage.share, segment.stage.reads, segment.weights] for segment in self.segments]
        facts = json.dumps([stages, data_fingerprint(self.files())])
        return hashlib.sha256(facts.encode()).hexdigest()[:12]

    def drawn(self) -> list[Drawn]:
        """For each stage and source: tokens drawn, share of the stage, passes over the tokens that the stage can read."""
        table = []
        for segment in self.segments:
            rows: dict[str, float] = {}
            tokens: dict[str, int] = {}
            for file, drawn in zip(segment.sequences.files, segment.sequences.rows_drawn, strict=True):
                rows[file.source] = rows.get(file.source, 0.0) + drawn / segment.sequences.rows_per_epoch
                tokens[file.source] = tokens.get(file.source, 0) + file.header.num_tokens
            for source, share in rows.items():
                drawn_tokens = share * segment.num_rows * self.seq_len
                table.append(Drawn(segment.stage.name, source, drawn_tokens, share, drawn_tokens / tokens[source]))
        return table

    def sentences(self) -> list[str]:
        """The plan for a person: a line a stage and source."""
        lines = []
        for segment in self.segments:
            tokens = segment.num_rows * self.seq_len
            reads = segment.stage.reads
            lines.append(
                f"stage {segment.stage.name!r} reads {reads}: {segment.stage.share:.0%} of the run, {tokens:,} tokens"
            )
            lines += [
                f"  {entry.source}: {entry.share:.1%} of its tokens, {entry.tokens:,.0f}, {entry.epochs:.2f} passes"
                for entry in self.drawn()
                if entry.stage == segment.stage.name
            ]
        return lines


def source_files(source: Source, tokenizer: Path | None) -> list[TokenFile]:
    """The token files of a source, all parts and groups; a UserError if it has no tokens."""
    files = [
        file for file in open_split(source.dataset, "train", part=None, tokenizer=tokenizer) if file.header.num_tokens
    ]
    own = [file for file in files if file.source == source.name]
    if not own:
        others = ", ".join(sorted({file.source for file in files})) or "none"
        raise UserError(
            f"source {source.name!r} has no tokens in {source.dataset}, which holds {others}; pack it with "
            f"data_prep/pack_tokens.py --dataset {source.dataset}"
        )
    return own


def weighted_files(packed: Mapping[Source, Sequence[TokenFile]], stage: Stage) -> tuple[list[TokenFile], list[float]]:
    """The token files that a stage reads, each with its weight; a UserError if no source has any.

    A source whose documents have no prose part (web pages have no abstract) is left out of a stage that reads prose.
    """
    part = "prose" if stage.reads == "prose" else FULL_TEXT
    files: list[TokenFile] = []
    weights: list[float] = []
    for source, own in packed.items():
        weight = stage.weights.get(source.name, source.weight)
        for file in own:
            if file.part == part:
                files.append(file)
                weights.append(weight * (source.gold_factor if file.group.startswith("gold") else 1.0))
    if not files:
        raise UserError(
            f"stage {stage.name!r} reads {stage.reads}, of which no source has tokens; pack again with "
            "data_prep/pack_tokens.py --parts text prose, or give --curriculum none"
        )
    if not all(file.group for file in files) and stage.reads == "balanced":
        raise UserError(
            f"stage {stage.name!r} parts formula-heavy documents from wordy ones, but the tokens were packed in one group; pack "
            "again with data_prep/pack_tokens.py --groups, or give --curriculum none"
        )
    return files, balanced(files, weights) if stage.reads == "balanced" else weights


def balanced(files: Sequence[TokenFile], weights: Sequence[float]) -> list[float]:
    """Weights under which formula-heavy and wordy documents give as many tokens, and all together as many as before."""
    heavy = [file.group.endswith("formulas") for file in files]
    tokens = [weight * file.header.num_tokens for file, weight in zip(files, weights, strict=True)]
    total = {
        kind: sum(count for count, is_heavy in zip(tokens, heavy, strict=True) if is_heavy == kind)
        for kind in (True, False)
    }
    if not all(total.values()):
        return list(weights)  # one kind is all there is
    half = sum(total.values()) / 2
    return [weight * half / total[kind] for weight, kind in zip(weights, heavy, strict=True)]


# --- the command ---


def main(argv: Sequence[str] | None = None) -> int:
    """Print what a run over this mixture draws."""
    parser = Parser(prog="mixture.py", description=__doc__)
    parser.add_argument("--mixture", type=Path, default=None, help="mixture.json (default: Table 1 over --dataset)")
    parser.add_argument("--dataset", type=Path, default=Path("dataset_train_val"), help="used without --mixture")
    parser.add_argument("--tokens", type=float, default=52.18e9, help="token budget (default: %(default)g)")
    parser.add_argument("--global-batch", type=int, default=2_048, help="sequences a step (default: %(default)s)")
    parser.add_argument("--seq-len", type=int, default=768, help="tokens a sequence (default: %(default)s)")
    parser.add_argument(
        "--curriculum", choices=("stages", "none"), default="stages", help="none: full bodies throughout"
    )
    parser.add_argument("--allow", action="store_true", help="let post-training sources into pretraining")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    args = parser.parse_args(argv)
    staged = args.curriculum == "stages"
    if args.mixture is None:
        mixture = default_mixture(args.dataset, curriculum=staged)
    else:
        mixture = read_mixture(args.mixture, allow=args.allow, curriculum=staged)
    steps = -(-int(args.tokens) // (args.global_batch * args.seq_len))
    curriculum = Curriculum(mixture, steps=steps, rows_per_step=args.global_batch, seq_len=args.seq_len, seed=0)
    if args.json:
        print(json.dumps([entry._asdict() for entry in curriculum.drawn()], indent=2))
    else:
        print("\n".join(curriculum.sentences()))
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
