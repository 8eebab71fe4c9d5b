"""A small corpus of LaTeX-shaped records and a tokenizer trained on it, for the tests of tokenizing and packing."""

import json
import random
from pathlib import Path
from typing import Any

from data_prep.train_tokenizer import train

WORDS = "let be a the of for every group ring map set if and only then we have proof such that there is an element open".split()
FORMULAS = (
    r"$x_{n+1} = \frac{1}{2}\left(x_n + \frac{a}{x_n}\right)$",
    r"$f \colon \mathbb{R}^n \to \mathbb{R}$",
    r"$\alpha \in \Gamma$",
    r"\[ \sum_{k=0}^{n} \binom{n}{k} = 2^n. \]",
    r"\begin{align*} \partial_t u &= \Delta u, \\ u(0) &= 1729 \end{align*}",
)


def small_records(num: int, seed: int = 0) -> list[dict[str, Any]]:
    """Records of some hundred characters each, the same for the same seed; two sources, in turn three to one."""
    rng = random.Random(seed)
    records = []
    for number in range(num):
        sentences = []
        for _ in range(rng.randint(2, 12)):
            words = " ".join(rng.choices(WORDS, k=rng.randint(4, 12)))
            sentences.append(f"{words.capitalize()}, {rng.choice(FORMULAS)}.")
        text = f"\\section{{Introduction}}\n{' '.join(sentences)}\n\n\\begin{{theorem}}\nThus $n = {rng.randint(0, 9999)}$.\n\\end{{theorem}}\n"
        record = {
            "id": f"9901.{number:05d}",
            "title": f"On {rng.choice(WORDS)}",
            "abstract": "We show it.",
            "text": text,
        }
        parts = {"introduction": [0, text.index("\\begin{theorem}")]}
        source = "web" if number % 4 == 3 else "arxiv"
        records.append(
            record | {"source": source, "categories": ["math.GR", "cs.LG"][number % 2 :], "year": 2001, "parts": parts}
        )
    return records


def write_records(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write records as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def small_tokenizer(folder: Path, vocab_size: int = 600, **options: Any) -> Path:
    """A tokenizer trained on small_records, in `folder`/tokenizer."""
    train([write_records(folder / "corpus.jsonl", small_records(300))], folder / "tokenizer", vocab_size, **options)
    return folder / "tokenizer"
