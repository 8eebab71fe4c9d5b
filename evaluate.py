"""How good a checkpoint is: bits per byte of text that it never saw, accuracy on public benchmarks, two results compared.

In: a Hugging Face folder; for `perplexity` the val.jsonl of a dataset, for `benchmarks` local files or the hub. Out: tables on stdout,
the same and every document's or question's result as JSON with --out; --compare pairs two such files.

perplexity: bits per byte first, because token perplexity depends on the tokenizer: longer tokens make it larger. All documents, by
subject, prose against mathematics, by length of the context, each with a 95% confidence interval. Each document is BOS + its
text. Windows slide over it, so that every byte of the text is predicted exactly once, with as much context as the window
allows. The end-of-text token is no byte of the text and is not counted.

benchmarks: lm-evaluation-harness asks (pip install lm_eval; for MATH math-verify, too), with BOS before each prompt. Beside each figure
stand those that the cards of KodaLite-1.3B and TinyMathReason-1B have published.

Examples:
    python evaluate.py perplexity --model runs/pretrain/hf --dataset dataset_train_val
    python evaluate.py perplexity --model runs/pretrain/hf --dataset dataset_train_val --context-tokens 4096 --max-documents 500
    python evaluate.py benchmarks --model runs/pretrain/hf --out bench.json --tasks arc_easy piqa --data ../shared/datasets
    python evaluate.py benchmarks --model runs/grpo/hf --out bench.json --tasks gsm8k --shots 8
    python evaluate.py --compare bench-a.json bench-b.json
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.cli import Parser, Progress, UserError, atomic_write, duration, need_file, run
from data_prep.mathematics import math_spans
from data_prep.records import read_jsonl, training_text
from data_prep.token_files import load_encoder
from generate import check_checkpoint, load_checkpoint, training_facts

if TYPE_CHECKING:
    import numpy as np
    import torch

NUM_BOOTSTRAPS = 2_000  # resamples of the documents: the ends of a 95% interval then rest on 50 of them each
DOCUMENTS_AT_ONCE = 64  # tokenized and sorted by length together: enough to fill batches, little to hold in memory
LOGITS_AT_ONCE = 2_048  # rows of logits held in float32: x 102,400 entries x 4 bytes = 0.84 GB
FIRST_CONTEXT_EDGE = 32  # the table by length of context starts with 0-31 tokens and doubles

LAST_POINT_OF_WIDTH = (0x7F, 0x7FF, 0xFFFF)  # UTF-8: the last code points of 1, 2 and 3 bytes


@dataclass(frozen=True)
class Document:
    """A text as tokens. `ids`: int64 [n], BOS first; `num_bytes`, `is_math` [n - 1]: of the tokens after BOS."""

    id: str
    subject: str
    source: str
    ids: "np.ndarray[Any, Any]"
    num_bytes: "np.ndarray[Any, Any]"
    is_math: "np.ndarray[Any, Any]"


def to_document(record: Mapping[str, Any], encoder: Any, bos_id: int) -> Document:
    """A record of val.jsonl as a Document, tokenized as pack_tokens.py does it. Its tokens' bytes add up to its text's bytes.

    A token's bytes are those from its start to the next token's start; of several byte tokens of one character the last has
    them all, which changes no sum.
    """
    import numpy as np

    text = training_text(record)
    coded = encoder.encode(text, add_special_tokens=False)
    starts = np.array([start for start, _ in coded.offsets] + [len(text)], dtype=np.int64)
    starts[0] = 0
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    widths = np.searchsorted(LAST_POINT_OF_WIDTH, points) + 1
    bytes_before = np.concatenate([[0], np.cumsum(widths)])
    is_formula = np.zeros(len(text), dtype=np.int64)
    for start, end in math_spans(text):
        is_formula[start:end] = 1
    math_chars_before = np.concatenate([[0], np.cumsum(is_formula)])
    ends = np.maximum(starts[1:], starts[:-1] + 1)  # byte tokens share one character
    categories = record.get("categories") or ["none"]
    return Document(
        id=str(record.get("id", "")),
        subject=str(categories[0]).split(".")[0],
        source=str(record.get("source", "")),
        ids=np.array([bos_id, *coded.ids], dtype=np.int64),
        num_bytes=np.diff(bytes_before[starts]),
        is_math=math_chars_before[np.minimum(ends, len(text))] > math_chars_before[starts[:-1]],
    )


def windows(num_tokens: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, first): a window feeds tokens [start, end) and is scored on the tokens [first, end + 1).

    `num_tokens` counts BOS; every token after it is scored once. windows(8, 4, 2) -> (0, 4, 1), (2, 6, 5), (3, 7, 7).
    """
    end = min(context, num_tokens - 1)
    yield 0, end, 1
    while end < num_tokens - 1:
        first, end = end + 1, min(end + stride, num_tokens - 1)
        yield end - context, end, first


def score(model: Any, inputs: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
    """Negative log-likelihood in nats, float32 [n], of the targets that are not -100, in reading order.

    inputs, targets: int64 [batch, length]; target [i, j] follows input [i, j]. Rows are padded on the right, where causal
    attention never looks. Logits exist for LOGITS_AT_ONCE positions at a time.
    """
    import torch
    from torch.nn.functional import cross_entropy

    hidden = model.get_decoder()(input_ids=inputs, use_cache=False).last_hidden_state
    wanted = targets != -100
    hidden, labels = hidden[wanted], targets[wanted]
    parts = [
        cross_entropy(model.lm_head(rows).float(), label, reduction="none")
        for rows, label in zip(torch.split(hidden, LOGITS_AT_ONCE), torch.split(labels, LOGITS_AT_ONCE), strict=True)
    ]
    return torch.cat(parts)


def batches(
    windows_of_all: list[tuple[int, int, int, int]], batch_tokens: int
) -> Iterator[list[tuple[int, int, int, int]]]:
    """Windows (document, start, end, first) in batches of like length, at most `batch_tokens` with their padding."""
    batch: list[tuple[int, int, int, int]] = []
    for window in sorted(windows_of_all, key=lambda one: (one[1] - one[2], one)):  # longest first
        if batch and (batch[0][2] - batch[0][1]) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def score_documents(
    model: Any, documents: Sequence[Document], context: int, stride: int, batch_tokens: int
) -> list[tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]]:
    """Of each document: nats float64 [n - 1] of its tokens after BOS, and the tokens of context that each was given."""
    import numpy as np
    import torch

    nats = [np.full(len(one.ids) - 1, np.nan) for one in documents]
    given = [np.zeros(len(one.ids) - 1, dtype=np.int64) for one in documents]
    todo = [(i, *window) for i, one in enumerate(documents) for window in windows(len(one.ids), context, stride)]
    for batch in batches(todo, batch_tokens):
        longest = max(end - start for _, start, end, _ in batch)
        inputs = np.zeros((len(batch), longest), dtype=np.int64)
        targets = np.full((len(batch), longest), -100, dtype=np.int64)
        for row, (i, start, end, first) in enumerate(batch):
            inputs[row, : end - start] = documents[i].ids[start:end]
            targets[row, first - 1 - start : end - start] = documents[i].ids[first : end + 1]
        with torch.inference_mode():
            device = model.device
            found = (
                score(model, torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)).cpu().numpy()
            )
        pos = 0
        for i, start, end, first in batch:
            count = end + 1 - first
            nats[i][first - 1 : end] = found[pos : pos + count]
            given[i][first - 1 : end] = np.arange(first - start, end - start + 1)
            pos += count
    return list(zip(nats, given, strict=True))


def context_edges(context: int) -> list[int]:
    """Where the rows of the table by length of context begin: 256 -> [1, 32, 64, 128]."""
    edges = [1]
    edge = FIRST_CONTEXT_EDGE
    while edge < context:
        edges.append(edge)
        edge *= 2
    return edges


@dataclass
class Tally:
    """What was measured: a row per document, [bits, bytes, tokens] for each part of it.

    `parts` names the parts: "all", "prose", "mathematics", then one for each range of context lengths.
    """

    context: int
    ids: list[str] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    rows: list["np.ndarray[Any, Any]"] = field(default_factory=list)

    @property
    def parts(self) -> list[str]:
        """The names of the parts, in the order of the rows' first axis."""
        edges = context_edges(self.context)
        ranges = [f"{low}-{high - 1}" for low, high in itertools.pairwise([*edges, self.context + 1])]
        return ["all", "prose", "mathematics", *ranges]

    def add(self, document: Document, nats: "np.ndarray[Any, Any]", given: "np.ndarray[Any, Any]") -> None:
        """Count one document; every byte stands in exactly one of prose and mathematics and in one range of context."""
        import numpy as np

        bucket = np.searchsorted(context_edges(self.context), given, side="right") - 1
        masks = [np.ones(len(nats), dtype=bool), ~document.is_math, document.is_math]
        masks += [bucket == index for index in range(len(self.parts) - 3)]
        bits = nats / math.log(2)
        row = [[bits[mask].sum(), document.num_bytes[mask].sum(), mask.sum()] for mask in masks]
        self.ids.append(document.id)
        self.subjects.append(document.subject)
        self.sources.append(document.source)
        self.rows.append(np.array(row, dtype=np.float64))


def interval(bits: "np.ndarray[Any, Any]", num_bytes: "np.ndarray[Any, Any]", seed: int) -> list[float] | None:
    """The 95% bootstrap interval of sum(bits) / sum(bytes), by drawing documents with replacement; None of fewer than 2.

    Documents, not tokens, are what a new sample would bring: the tokens of one paper resemble each other.
    """
    import numpy as np

    count = len(bits)
    if count < 2:
        return None
    rng = np.random.default_rng(seed)
    ratios: list[Any] = []
    at_once = max(1, 4_000_000 // count)  # 32 MB of draws
    for done in range(0, NUM_BOOTSTRAPS, at_once):
        draws = rng.multinomial(count, np.full(count, 1 / count), size=min(at_once, NUM_BOOTSTRAPS - done))
        ratios.append((draws @ bits) / (draws @ num_bytes))
    low, high = np.quantile(np.concatenate(ratios), [0.025, 0.975])
    return [float(low), float(high)]


def table_row(name: str, rows: "np.ndarray[Any, Any]", seed: int) -> dict[str, Any] | None:
    """One line of a table from [bits, bytes, tokens] per document [d, 3]; None where there is nothing to count."""
    rows = rows[rows[:, 1] > 0]
    if not len(rows):
        return None
    bits, num_bytes, num_tokens = rows.sum(axis=0)
    return {
        "name": name,
        "bits_per_byte": bits / num_bytes,
        "interval": interval(rows[:, 0], rows[:, 1], seed),
        "token_perplexity": 2 ** (bits / num_tokens),
        "num_bytes": int(num_bytes),
        "num_tokens": int(num_tokens),
        "num_documents": len(rows),
    }


def tables(tally: Tally, seed: int) -> dict[str, list[dict[str, Any]]]:
    """The tables: all, prose against mathematics, by subject, by source where there are several, by context length."""
    import numpy as np

    rows = np.stack(tally.rows)
    whole = rows[:, 0]

    def grouped(labels: Sequence[str]) -> list[dict[str, Any] | None]:
        picks = np.array(labels)
        return [table_row(label, whole[picks == label], seed) for label in sorted(set(labels))]

    by_part = [table_row(name, rows[:, index], seed) for index, name in enumerate(tally.parts)]
    found = {
        "all": by_part[:1],
        "kind": by_part[1:3],
        "subject": grouped(tally.subjects),
        "source": grouped(tally.sources) if len(set(tally.sources)) > 1 else [],
        "context": by_part[3:],
    }
    return {name: [line for line in lines if line is not None] for name, lines in found.items()}


TABLE_TITLES = {
    "all": "",
    "kind": "prose and mathematics",
    "subject": "subject (of the first category)",
    "source": "source",
    "context": "tokens of context that the model was given",
}


def print_tables(found: Mapping[str, list[dict[str, Any]]]) -> None:
    """The tables as aligned text on stdout."""
    print(f"{'':24}{'bits/byte':>10}  {'95% interval':^18}{'token ppl':>12}{'bytes':>14}{'documents':>11}")
    for name, lines in found.items():
        if lines and TABLE_TITLES[name]:
            print(TABLE_TITLES[name])
        for line in lines:
            ends = "-" if line["interval"] is None else "[{:.4f}, {:.4f}]".format(*line["interval"])
            label = line["name"] if name == "all" else "  " + line["name"]
            print(
                f"{label:24}{line['bits_per_byte']:>10.4f}  {ends:^18}{line['token_perplexity']:>12,.2f}"
                f"{line['num_bytes']:>14,}{line['num_documents']:>11,}"
            )


def pick_records(path: Path, max_documents: int | None, seed: int) -> tuple[Iterator[dict[str, Any]], int]:
    """The records to evaluate, streaming, and their number: all, or `max_documents` drawn with the seed, in file order."""
    count = sum(1 for _ in read_jsonl(path))
    if not count:
        raise UserError(f"{path} holds no document; prepare a dataset with a larger validation share")
    if max_documents is None or max_documents >= count:
        return read_jsonl(path), count
    picked = set(random.Random(seed).sample(range(count), max_documents))
    return (record for index, record in enumerate(read_jsonl(path)) if index in picked), max_documents


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of at most `size` items."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def weights_sha256(folder: Path) -> str:
    """A fingerprint of a model's weights: SHA-256 over its *.safetensors in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def choose_context(flags: Any, config: Mapping[str, Any]) -> tuple[int, int]:
    """Window and stride in tokens. Default: the length the model was trained with, and half of it.

    Positions that training never showed are predicted badly, so a window beyond that length is measured only when asked for.
    """
    limit = config["max_position_embeddings"]
    context = flags.context_tokens or min(training_facts(flags.model).get("seq_len", limit), limit)
    if not 2 <= context <= limit:
        raise UserError(f"--context-tokens {context}: 2 up to the model's max_position_embeddings {limit} is needed")
    stride = flags.stride_tokens or context // 2
    if not 1 <= stride <= context:
        raise UserError(f"--stride-tokens {stride}: 1 up to the context of {context} is needed")
    return context, stride


def perplexity(flags: Any) -> int:
    """The subcommand: score, print, write."""
    config = check_checkpoint(flags.model, flags.tokenizer or flags.model)
    context, stride = choose_context(flags, config)
    split = need_file(flags.dataset / f"{flags.split}.jsonl", f"the {flags.split} split")
    records, count = pick_records(split, flags.max_documents, flags.seed)
    encoder = load_encoder(flags.tokenizer or flags.model)
    model, _ = load_checkpoint(flags.model, tokenizer=flags.tokenizer, device=flags.device, dtype=flags.dtype)
    batch_tokens = flags.batch_tokens or (65_536 if model.device.type == "cuda" else 8_192)
    started_s = time.monotonic()
    tally = Tally(context)
    with Progress("perplexity", total=count, unit="documents") as progress:
        for chunk in chunks(records, DOCUMENTS_AT_ONCE):
            documents = [to_document(record, encoder, config["bos_token_id"]) for record in chunk]
            for document, found in zip(
                documents, score_documents(model, documents, context, stride, batch_tokens), strict=True
            ):
                tally.add(document, *found)
                progress.update()
    result = {
        "model": str(flags.model),
        "weights_sha256": weights_sha256(flags.model),
        "dataset": str(split),
        "context_tokens": context,
        "stride_tokens": stride,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "seed": flags.seed,
        "tables": tables(tally, flags.seed),
    }
    seconds = time.monotonic() - started_s
    report_perplexity(result, seconds)
    if flags.out is not None:
        documents_out = [
            {"id": name, "bits": row[0][0], "num_bytes": int(row[0][1]), "num_tokens": int(row[0][2])}
            for name, row in zip(tally.ids, tally.rows, strict=True)
        ]
        with atomic_write(flags.out) as file:
            json.dump({**result, "documents": documents_out}, file, indent=1)
            file.write("\n")
    return 0


def report_perplexity(result: Mapping[str, Any], seconds: float) -> None:
    """What was done in a sentence with its arithmetic on stderr, then the tables on stdout."""
    whole = result["tables"]["all"][0]
    bits = whole["bits_per_byte"] * whole["num_bytes"]
    print(
        f"{whole['num_documents']:,} documents, {whole['num_tokens']:,} tokens, each predicted once from up to "
        f"{result['context_tokens']:,} tokens of context, {result['dtype']} on {result['device']}, {duration(seconds)}\n"
        f"{bits:,.0f} bits / {whole['num_bytes']:,} bytes = {whole['bits_per_byte']:.4f} bits per byte; "
        f"2 ^ ({bits:,.0f} bits / {whole['num_tokens']:,} tokens) = {whole['token_perplexity']:,.2f} token perplexity",
        file=sys.stderr,
    )
    print_tables(result["tables"])


# --- benchmarks ---

CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{query}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
WINOGRANDE = {  # one ending after two beginnings: the harness takes an index for text to mean this
    **CHOICE,
    "doc_to_text": "{{gold}}",
    "doc_to_choice": "{{context_options}}",
    "doc_to_target": "{{continuation}}",
    "metric_list": [{"metric": "acc"}],
}
PIQA = {**CHOICE, "doc_to_text": "{{query}}Answer:"}
BOOLQ = {**CHOICE, "metric_list": [{"metric": "acc"}]}
OPENBOOKQA = {**CHOICE, "doc_to_text": "{{query}}"}
LAMBADA = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{context}}",
    "doc_to_target": "{{' ' + continuation}}",
    "metric_list": [{"metric": "acc"}],
}
GSM8K = {  # the harness's own prompt and filters: the number after ####, or the last number
    "output_type": "generate_until",
    "fewshot_split": "train",
    "num_fewshot": 5,
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{answer}}",
    "metric_list": [
        {"metric": "exact_match", "ignore_case": True, "regexes_to_ignore": [",", "\\$", "(?s).*#### ", "\\.$"]}
    ],
    "generation_kwargs": {"until": ["Question:", "</s>", "<|im_end|>"], "do_sample": False, "temperature": 0.0},
    "filter_list": [
        {
            "name": "strict-match",
            "filter": [{"function": "regex", "regex_pattern": "#### (\\-?[0-9\\.\\,]+)"}, {"function": "take_first"}],
        },
        {
            "name": "flexible-extract",
            "filter": [
                {"function": "regex", "group_select": -1, "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)"},
                {"function": "take_first"},
            ],
        },
    ],
}


def need_judge_of_math() -> None:
    """Raise UserError unless the packages are there with which the harness judges MATH; it wants this very antlr."""
    try:
        from math_verify import verify  # noqa: F401

        fits = importlib.metadata.version("antlr4-python3-runtime").startswith("4.11.")
    except (ImportError, importlib.metadata.PackageNotFoundError):
        fits = False
    if not fits:
        raise UserError(
            "minerva_math needs two packages: pip install math-verify antlr4-python3-runtime==4.11.0; or give --tasks without it"
        )


def minerva_settings() -> dict[str, Any]:
    """The harness's own task for MATH, its prompt of four examples and its two judges, over rows of a local file."""
    need_judge_of_math()
    from lm_eval.tasks.minerva_math import utils

    def with_its_names(rows: Any) -> Any:
        return utils.process_docs(rows.rename_columns({"context": "problem", "chain_of_thought": "solution"}))

    return {
        "output_type": "generate_until",
        "process_docs": with_its_names,
        "doc_to_text": utils.doc_to_text,
        "doc_to_target": "{{answer if few_shot is undefined else solution}}",
        "process_results": utils.process_results,
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("exact_match", "math_verify")
        ],
        "generation_kwargs": {"until": ["Problem:"], "do_sample": False, "temperature": 0},
        "num_fewshot": 4,
        "fewshot_config": {"sampler": "first_n", "samples": utils.list_fewshot_samples},
    }


@dataclass(frozen=True)
class Benchmark:
    """A benchmark under the harness's name: what guessing scores, and how local files of it are asked (None: hub only).

    `max_shots`: how many examples a local file can give; None is any number, from its own training questions.
    """

    chance: float
    files: Mapping[str, str] | None = None
    settings: Callable[[], Mapping[str, Any]] = dict
    max_shots: int | None = 0


# KodaLite's eight and TinyMathReason's, as the harness names them. Local files are in the form of llm-foundry's evaluation data.
BENCHMARKS = {
    "hellaswag": Benchmark(0.25),
    "arc_easy": Benchmark(0.25, {"test": "benchmarks/arc_easy.jsonl.gz"}, lambda: CHOICE),
    "arc_challenge": Benchmark(0.25, {"test": "benchmarks/arc_challenge.jsonl.gz"}, lambda: CHOICE),
    "winogrande": Benchmark(0.5, {"test": "benchmarks/winogrande.jsonl.gz"}, lambda: WINOGRANDE),
    "piqa": Benchmark(0.5, {"test": "benchmarks/piqa.jsonl.gz"}, lambda: PIQA),
    "boolq": Benchmark(0.5, {"test": "benchmarks/boolq.jsonl.gz"}, lambda: BOOLQ),
    "openbookqa": Benchmark(0.25, {"test": "benchmarks/openbook_qa.jsonl.gz"}, lambda: OPENBOOKQA),
    "lambada_openai": Benchmark(0.0, {"test": "benchmarks/lambada_openai.jsonl.gz"}, lambda: LAMBADA),
    "gsm8k": Benchmark(0.0, {"test": "gsm8k/test.jsonl.gz", "train": "gsm8k/train.jsonl.gz"}, lambda: GSM8K, None),
    "minerva_math": Benchmark(0.0, {"test": "benchmarks/math.jsonl.gz"}, minerva_settings, 4),
    "mmlu": Benchmark(0.25),
}
ACCURACIES = ("acc", "acc_norm", "exact_match", "math_verify")  # the metrics that are 0 or 1 for each question
GENERATING = ("gsm8k", "minerva_math")  # which want a text, not a choice
GENERATED_TOKENS = 256  # the harness's own limit for these texts
PARTS_OF = (
    "minerva_math",
    "mmlu",
)  # which the harness asks in parts from the hub, minerva_math_algebra and so on; here they are one

# What the siblings' cards say, in %, with the number of examples that each figure was measured with. Read on 2026-11-21:
# huggingface.co/YoAbriel/KodaLite-1.3B (asked by a script of its own, not by the harness) and
# huggingface.co/himanshunakrani9/TinyMathReason-1B-grpo (which does not say whether acc or acc_norm; GSM8K after GRPO is the last number).
PUBLISHED: dict[str, dict[str, tuple[float, int]]] = {
    "KodaLite": {
        "hellaswag": (25.65, 0),
        "arc_easy": (32.79, 0),
        "arc_challenge": (21.50, 0),
        "winogrande": (49.57, 0),
        "piqa": (58.92, 0),
        "boolq": (44.34, 0),
        "openbookqa": (25.00, 0),
        "lambada_openai": (18.22, 0),
    },
    "TMR base": {
        "gsm8k": (1.0, 8),
        "minerva_math": (0.0, 4),
        "arc_challenge": (21.7, 25),
        "mmlu": (23.5, 5),
        "hellaswag": (25.8, 10),
    },
    "TMR SFT": {
        "gsm8k": (1.0, 8),
        "minerva_math": (0.0, 4),
        "arc_challenge": (24.7, 25),
        "mmlu": (24.6, 5),
        "hellaswag": (26.7, 10),
    },
    "TMR GRPO": {
        "gsm8k": (2.2, 8),
        "minerva_math": (2.0, 4),
        "arc_challenge": (22.8, 25),
        "mmlu": (23.6, 5),
        "hellaswag": (26.3, 10),
    },
}


def choose_tasks(names: Sequence[str] | None, data: Path | None, shots: int | None = None) -> list[Any]:
    """What the harness is asked: names of its own tasks, or with `data` tasks that read the local files of that folder.

    Without names: all, or all that have their files. UserError for an unknown name, one without local files, or more `shots`
    than these can give.
    """
    for name in names or ():
        if name not in BENCHMARKS:
            raise UserError(f"{name} is no benchmark that we know; give some of {', '.join(BENCHMARKS)}")
    if data is None:
        if "minerva_math" in (names or BENCHMARKS):
            need_judge_of_math()
        return list(names or BENCHMARKS)
    tasks = []
    for name in names or BENCHMARKS:
        files = {split: data / file for split, file in (BENCHMARKS[name].files or {}).items()}
        absent = [path for path in files.values() if not path.is_file()]
        if files and not absent:
            limit = BENCHMARKS[name].max_shots
            if shots is not None and limit is not None and shots > limit:
                raise UserError(
                    f"{name}: its local file can give {limit} examples, not {shots}; give other --tasks or --shots"
                )
            data_files = {split: str(path) for split, path in files.items()}
            tasks.append(
                {
                    "task": name,
                    "dataset_path": "json",
                    "dataset_kwargs": {"data_files": data_files},
                    "test_split": "test",
                    **BENCHMARKS[name].settings(),
                }
            )
        elif names:
            reason = f"{absent[0]} is absent" if absent else "we read no local file of it"
            raise UserError(f"{name}: {reason}; leave --data out to take it from the hub")
    if not tasks:
        raise UserError(f"{data} holds no file of a benchmark, say {data / 'benchmarks/arc_easy.jsonl.gz'}")
    return tasks


def benchmarks(flags: Any) -> int:
    """The subcommand: lm-evaluation-harness asks, we count, print and write each question's result.

    Killed and started again with the same --out, it takes the answers that it has from a cache beside it.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("benchmarks need the package lm_eval, which is not installed; pip install lm_eval")
    config = check_checkpoint(flags.model, flags.tokenizer or flags.model)
    context, _ = choose_context(flags, config)
    tasks = choose_tasks(flags.tasks, flags.data, flags.shots)
    names = [task if isinstance(task, str) else task["task"] for task in tasks]
    if context <= GENERATED_TOKENS and (generating := [name for name in names if name in GENERATING]):
        raise UserError(
            f"{' and '.join(generating)} want texts of {GENERATED_TOKENS} tokens, which leave no room for a question in a context of "
            f"{context}; give --tasks without them, or a larger --context-tokens"
        )
    if flags.data is not None:
        os.environ["HF_HUB_OFFLINE"] = "1"  # local files only: no look at the hub for newer ones
    model, tokenizer = load_checkpoint(flags.model, tokenizer=flags.tokenizer, device=flags.device, dtype=flags.dtype)
    weights = weights_sha256(flags.model)
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    asked = HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=flags.batch_size, max_length=context, add_bos_token=True
    )
    cache = flags.out.with_name(f"{flags.out.name}.cache-{weights[:12]}-{context}")
    found = lm_eval.simple_evaluate(
        asked,
        tasks=tasks,
        num_fewshot=flags.shots,
        limit=flags.limit,
        bootstrap_iters=0,
        use_cache=str(cache),
        log_samples=True,
    )
    parts = parts_by_name(found["samples"])
    result = {
        "model": str(flags.model),
        "weights_sha256": weights,
        "data": "hub" if flags.data is None else str(flags.data),
        "harness": lm_eval.__version__,
        "context_tokens": context,
        "limit": flags.limit,
        "benchmarks": {
            name: count_answers(name, found["n-shot"].get(part[0], 0), [found["samples"][one] for one in part])
            for name, part in parts.items()
        },
        "published": {
            model: {
                name: {"percent": figure[0], "num_shots": figure[1]}
                for name, figure in figures.items()
                if name in parts
            }
            for model, figures in PUBLISHED.items()
        },
    }
    with atomic_write(flags.out) as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    for path in cache.parent.glob(cache.name + "*"):
        path.unlink()
    print_benchmarks(result)
    return 0


def parts_by_name(names: Iterable[str]) -> dict[str, list[str]]:
    """The harness's tasks by benchmark: {"mmlu": ["mmlu_anatomy", "mmlu_astronomy"], "piqa": ["piqa"]}, sorted within each."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        whole = next((whole for whole in PARTS_OF if name.startswith(whole + "_")), name)
        found.setdefault(whole, []).append(name)
    return {name: found[name] for name in sorted(found, key=list(BENCHMARKS).index)}


def count_answers(name: str, num_shots: int, parts: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Each question's result by metric (0 or 1), in the order of the questions, and what they were asked as (a hash).

    Where the harness reads an answer in two ways (GSM8K), the strict one has the metric's name and the other its own.
    """
    asked = hashlib.sha256()
    answers: dict[str, list[int]] = {}
    for samples in parts:
        for one in sorted(samples, key=lambda one: int(one["doc_id"])):
            asked.update((str(one["doc_hash"]) + str(one["prompt_hash"])).encode())
            reading = one.get("filter", "none")
            for metric in ACCURACIES:
                if metric in one:
                    label = metric if reading in ("none", "strict-match") else reading
                    answers.setdefault(label, []).append(int(one[metric]))
    return {
        "num_shots": num_shots,
        "chance": BENCHMARKS[name].chance,
        "questions_sha256": asked.hexdigest(),
        "answers": answers,
    }


def print_benchmarks(result: Mapping[str, Any]) -> None:
    """A line for each benchmark and metric: accuracy with its standard error, what guessing scores, what others have published.

    `0.0220@8` is a published accuracy of 2.2% with 8 examples; an empty cell means that the card has no such figure.
    """
    published = "".join(f"{model:>11}" for model in PUBLISHED)
    print(f"{'':16}{'shots':>6}{'metric':>17}{'accuracy':>10}{'+/-':>8}{'chance':>8}{'questions':>11}{published}")
    for name, one in result["benchmarks"].items():
        cells = [
            f"{figures[name][0] / 100:.4f}@{figures[name][1]}" if name in figures else ""
            for figures in PUBLISHED.values()
        ]
        for metric, answers in one["answers"].items():
            count, share = len(answers), sum(answers) / len(answers)
            error = math.sqrt(share * (1 - share) / count)
            print(
                f"{name:16}{one['num_shots']:>6}{metric:>17}{share:>10.4f}{error:>8.4f}{one['chance']:>8.2f}{count:>11,}"
                + "".join(f"{cell:>11}" for cell in cells).rstrip()
            )
            cells = []  # they stand once, beside the benchmark's first metric
    print(
        "KodaLite is KodaLite-1.3B, TMR TinyMathReason-1B: the figures of their cards, @ the number of examples, "
        "to be compared with the same number only.",
        file=sys.stderr,
    )


# --- two results against each other ---


def compare(paths: Sequence[Path]) -> int:
    """--compare: the same documents or questions, paired; a line for each figure, second minus first."""
    first, second = (read_result(path) for path in paths)
    if ("benchmarks" in first) != ("benchmarks" in second):
        raise UserError(
            f"{paths[0]} and {paths[1]} are of different kinds; give two of perplexity or two of benchmarks"
        )
    if "benchmarks" in first:
        compare_benchmarks(first, second)
    else:
        compare_perplexity(first, second)
    return 0


def read_result(path: Path) -> dict[str, Any]:
    """What --out of `perplexity` or `benchmarks` wrote."""
    try:
        result = json.loads(need_file(path, "the result").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); give a file that --out wrote") from None
    if not isinstance(result, dict) or not {"benchmarks", "documents"} & result.keys():
        raise UserError(f"{path} holds no result; give a file that evaluate.py wrote with --out")
    return result


def compare_perplexity(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Bits per byte, second minus first, with the 95% interval of drawing the documents anew, the same for both."""
    import numpy as np

    pairs = [{one["id"]: one for one in result["documents"]} for result in (first, second)]
    sizes = [{name: one["num_bytes"] for name, one in by_id.items()} for by_id in pairs]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"the results are of {len(sizes[0]):,} and {len(sizes[1]):,} documents that are not the same; evaluate both on one dataset"
        )
    bits = [np.array([by_id[name]["bits"] for name in sizes[0]]) for by_id in pairs]
    num_bytes = np.array(list(sizes[0].values()), dtype=np.float64)
    rates = [one.sum() / num_bytes.sum() for one in bits]
    ends = interval(bits[1] - bits[0], num_bytes, seed=0)
    said = "no interval of fewer than 2 documents" if ends is None else f"95% interval [{ends[0]:+.4f}, {ends[1]:+.4f}]"
    print(
        f"bits/byte {rates[0]:.4f} -> {rates[1]:.4f}: {rates[1] - rates[0]:+.4f}, {said}, {len(num_bytes):,} documents"
    )


def compare_benchmarks(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Accuracies, second minus first, with the p of McNemar's exact test on the questions that only one of them got right."""
    print(f"{'':16}{'metric':>17}{'first':>9}{'second':>9}{'change':>9}{'only 1st':>10}{'only 2nd':>10}{'p':>10}")
    for name, one in first["benchmarks"].items():
        other = second["benchmarks"].get(name)
        if other is None:
            continue
        if one["questions_sha256"] != other["questions_sha256"]:
            raise UserError(
                f"{name}: the two results are of other questions or prompts; run both with the same --data and --limit"
            )
        for metric, answers in one["answers"].items():
            pairs = list(zip(answers, other["answers"][metric], strict=True))
            only_first, only_second = pairs.count((1, 0)), pairs.count((0, 1))
            shares = [sum(side) / len(pairs) for side in zip(*pairs, strict=True)]
            p = mcnemar(only_first, only_second)
            print(
                f"{name:16}{metric:>17}{shares[0]:>9.4f}{shares[1]:>9.4f}{shares[1] - shares[0]:>+9.4f}"
                f"{only_first:>10,}{only_second:>10,}{p:>10.2g}"
            )


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p that a fair coin splits only_first + only_second at least as unevenly. mcnemar(1, 9) -> 0.0215."""
    total = only_first + only_second
    tail = sum(math.comb(total, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * tail / 2**total))


def positive(text: str) -> int:
    """A whole number of 1 or more, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number, 1 or more, is needed")
    return int(text)


def parser() -> Parser:
    """The command line."""
    words = Parser(prog="evaluate.py", description=__doc__)
    words.add_argument(
        "--compare", type=Path, nargs=2, metavar=("A", "B"), help="two results of --out, paired: is the second better?"
    )
    commands = words.add_subparsers(dest="command", metavar="COMMAND")
    one = commands.add_parser("perplexity", help="bits per byte and token perplexity on a split", description=__doc__)
    one.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="Hugging Face folder, say runs/pretrain/hf"
    )
    one.add_argument("--dataset", type=Path, required=True, metavar="DIR", help="folder with val.jsonl")
    one.add_argument("--split", choices=["val", "train"], default="val", help="(default %(default)s)")
    one.add_argument("--tokenizer", type=Path, metavar="DIR", help="tokenizer folder (default: the model's own)")
    one.add_argument("--out", type=Path, metavar="FILE", help="write tables and each document's bits as JSON")
    one.add_argument("--context-tokens", type=int, help="window (default: the length trained with, else the model's)")
    one.add_argument(
        "--stride-tokens", type=int, help="tokens scored in each further window (default: half the window)"
    )
    one.add_argument("--max-documents", type=positive, help="evaluate this many, drawn with the seed (default: all)")
    one.add_argument(
        "--batch-tokens", type=positive, help="tokens in a batch (default: 65,536 on a GPU, 8,192 on a CPU)"
    )
    one.add_argument("--seed", type=int, default=0, help="of drawn documents and intervals (default %(default)s)")
    one.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default %(default)s)")
    one.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="(default %(default)s)")
    one.set_defaults(work=perplexity)
    two = commands.add_parser("benchmarks", help="accuracy on public benchmarks", description=__doc__)
    two.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="Hugging Face folder, say runs/pretrain/hf"
    )
    two.add_argument("--out", type=Path, required=True, metavar="FILE", help="write each question's result as JSON")
    two.add_argument("--tasks", nargs="+", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    two.add_argument(
        "--data", type=Path, metavar="DIR", help="read local files (benchmarks/arc_easy.jsonl.gz, ...), not the hub"
    )
    two.add_argument("--shots", type=int, help="examples before each question (default: each benchmark's own number)")
    two.add_argument("--limit", type=positive, help="ask the first so many questions of each (default: all)")
    two.add_argument("--batch-size", type=positive, default=8, help="questions at once (default %(default)s)")
    two.add_argument("--tokenizer", type=Path, metavar="DIR", help="tokenizer folder (default: the model's own)")
    two.add_argument(
        "--context-tokens", type=int, help="longest prompt (default: the length trained with, else the model's)"
    )
    two.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default %(default)s)")
    two.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="(default %(default)s)")
    two.set_defaults(work=benchmarks, stride_tokens=None)
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the docstring of this file."""
    flags = parser().parse_args(argv)
    if (flags.compare is None) == (flags.command is None):
        raise UserError("give perplexity, benchmarks or --compare A B; evaluate.py --help explains each")
    return compare(flags.compare) if flags.command is None else int(flags.work(flags))


if __name__ == "__main__":
    run(main)
