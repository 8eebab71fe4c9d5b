"""A small whole checkpoint for the tests of what comes after pretraining: 2 layers, a tokenizer of our own, no network.

In: nothing. Out: tiny_checkpoint(), a Hugging Face folder made once a session, which knows one chat by heart.
"""

import atexit
import contextlib
import functools
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from data_prep import train_tokenizer

QUESTION, ANSWER = "What is $2 + 3$?", "It is $5$, since $2 + 3 = 5$."
CONVERSATION = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
CONTEXT_TOKENS = 128

TEXTS = [
    r"""\section{Primes} Let $p$ be a prime number. Then $p$ divides $\binom{p}{k}$ for $0 < k < p$, since
\[ \binom{p}{k} = \frac{p!}{k!\,(p-k)!} \] and $p$ divides the numerator, but not the denominator. Hence $(a+b)^p \equiv a^p + b^p$.""",
    r"""\begin{theorem} Every continuous function on a compact interval is bounded. \end{theorem}
\begin{proof} Suppose that it is not. Then there is $x_n$ with \(|f(x_n)| > n\); a subsequence converges, a contradiction. \end{proof}""",
    r"""The harmonic oscillator has the energy \begin{equation} E = \frac{1}{2} m v^2 + \frac{1}{2} k x^2, \end{equation} which is conserved.
A café in Köln costs 5\$; the naïve Schrödinger equation reads $i\hbar\,\partial_t\psi = H\psi$.""",
    r"""Sorting $n$ numbers by comparisons takes at least $\log_2 n!$ steps, because a tree with $n!$ leaves is at least that deep.
By Stirling, $\log_2 n! = n \log_2 n - O(n)$. Merge sort reaches $O(n \log n)$, so it is optimal up to a constant.""",
]


def record(index: int, text: str, categories: list[str]) -> dict[str, Any]:
    """A record of train.jsonl as records.Record describes it."""
    return {
        "id": f"2401.{index:05d}",
        "version": 1,
        "source": "arxiv",
        "title": f"Note {index}",
        "abstract": "",
        "text": text,
        "categories": categories,
        "year": 2024,
        "licence": None,
        "doi": None,
        "journal_ref": None,
        "parts": {},
        "warnings": [],
    }


def write_dataset(folder: Path) -> Path:
    """train.jsonl and val.jsonl of the texts above, in two subjects."""
    records = [record(i, text, ["cs.DS"] if i == 3 else ["math.NT", "cs.DS"]) for i, text in enumerate(TEXTS)]
    for split in ("train", "val"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return folder


@functools.cache
def tiny_checkpoint() -> Path:
    """A LlamaForCausalLM of 0.2 million parameters with its tokenizer, trained until it answers QUESTION with ANSWER."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    base = Path(tempfile.mkdtemp(prefix="tiny-checkpoint-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    folder = base / "hf"
    dataset = write_dataset(base)
    with contextlib.redirect_stdout(io.StringIO()):
        train_tokenizer.main(["--input", str(dataset / "train.jsonl"), "--vocab-size", "480", "--out", str(folder)])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,  # more rows than the tokenizer has pieces, as a recipe that pads has
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT_TOKENS,
            rms_norm_eps=1e-6,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=3,
            tie_word_embeddings=False,
        )
    )
    chat = tokenizer.apply_chat_template(CONVERSATION, tokenize=True, return_dict=False)
    ids = torch.tensor([chat])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder
