"""From a base model to one that answers: supervised fine-tuning (SFT) on conversations, all weights or LoRA.

In: a Hugging Face folder and folders with train.jsonl (and val.jsonl) of conversations, as data_prep/external.py --as messages writes
them. Out, in --out: hf/ (a folder of the same kind, which generate.py --chat, evaluate.py and export.py read), metrics.jsonl,
checkpoints/.

The loss is on the assistant's tokens only: each answer and the <|im_end|> that ends it. Conversations are packed, and attention stays
within each. One that is longer than the context is cut after its last answer that fits, or left out; both are counted and said.
LoRA is merged in float32 and rounded once, because merging in bfloat16 costs 0.7% of the logits. Training is TRL's SFTTrainer
(pip install trl peft). Killed at any moment, the same command goes on from its last checkpoint. Stages are runs one after
the other: mathematics first, chat last.

Examples:
    python posttrain.py sft --model runs/pretrain/hf --data dataset_train_val/mathinstruct --out runs/sft-math
    deepspeed posttrain.py sft --model runs/sft-math/hf --data dataset_train_val/ultrachat --out runs/sft-chat
    python posttrain.py sft --model runs/pretrain/hf --data dataset_train_val/dolly dataset_train_val/oasst1 --lora --out runs/lora
"""

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.cli import Parser, UserError, atomic_write, duration, need_file, run
from data_prep.records import json_line, read_jsonl
from evaluate import positive, weights_sha256
from generate import check_checkpoint, load_checkpoint, training_facts

ROOT = Path(__file__).resolve().parent
NEVER_LABEL = -100  # the label that a loss passes over, as everywhere in PyTorch
ROLES = ("system", "user", "assistant")
TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json")
# Why a conversation is not trained on as it is, in words for the report.
FATES = {
    "cut": "cut after the last answer that fits",
    "too-long": "left out: not even the first answer fits",
    "no-answer": "left out: no answer of an assistant",
    "empty": "left out: a message without text",
    "special": "left out: holds the text of a special token",
}


@dataclass(frozen=True)
class Settings:
    """The run. Learning rate and epochs are TinyMathReason's; rank and alpha of LoRA KodaLite's."""

    epochs: float = 2.0
    lr: float = 2e-5
    warmup_frac: float = 0.03
    micro_batch: int = 8
    accumulation: int = 4
    lora_rank: int | None = None  # None: all weights are trained
    lora_alpha: int = 32
    packing: bool = True
    save_every: int = 100
    log_every: int = 10
    seed: int = 0


# --- conversations to tokens ---


def check_messages(record: Mapping[str, Any], where: str) -> list[dict[str, str]]:
    """The messages of a record; a UserError if it is no conversation."""
    messages = record.get("messages")
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise UserError(f"{where} has no messages; data_prep/external.py --as messages writes such records")
    for one in messages:
        if one.get("role") not in ROLES or not isinstance(one.get("content"), str):
            raise UserError(
                f"{where} has a message of role {one.get('role')!r}; {', '.join(ROLES)} with a content are needed"
            )
    return messages


def encode(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> tuple[list[int], list[int]]:
    """Ids and labels of a conversation in the tokenizer's chat template; NEVER_LABEL except on what the assistant says.

    The template marks an answer and the <|im_end|> after it, so that the model learns to answer and to end. White space at the
    edges of a message goes: a line end there would melt with the template's into one token that no prompt ends with.
    """
    bare = [{"role": one["role"], "content": one["content"].strip()} for one in messages]
    coded = tokenizer.apply_chat_template(bare, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    ids, said = coded["input_ids"], coded["assistant_masks"]
    return list(ids), [index if mask else NEVER_LABEL for index, mask in zip(ids, said, strict=True)]


def encode_to_fit(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], context: int
) -> tuple[tuple[list[int], list[int]] | None, str | None]:
    """(ids and labels, or None if left out; a key of FATES, or None if taken whole)."""
    if any(token in one["content"] for one in messages for token in tokenizer.all_special_tokens):
        return None, "special"
    if not all(one["content"].strip() for one in messages):
        return None, "empty"
    ends = [index + 1 for index, one in enumerate(messages) if one["role"] == "assistant"]
    for end in reversed(ends):
        ids, labels = encode(tokenizer, messages[:end])
        if len(ids) <= context:
            return (ids, labels), None if end == ends[-1] else "cut"
    return None, "too-long" if ends else "no-answer"


def encode_split(
    folders: Sequence[Path], split: str, tokenizer: Any, context: int
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The conversations of a split as {"input_ids", "labels"}, and how many met each fate ("whole", or a key of FATES)."""
    rows, fates = [], Counter[str]()
    for folder in folders:
        path = folder / f"{split}.jsonl"
        if split == "val" and not path.exists():
            continue
        for number, record in enumerate(read_jsonl(path), 1):
            pair, fate = encode_to_fit(tokenizer, check_messages(record, f"{path}, record {number}"), context)
            fates[fate or "whole"] += 1
            if pair is not None:
                rows.append({"input_ids": pair[0], "labels": pair[1]})
    return rows, fates


def describe(rows: Sequence[Mapping[str, Any]], fates: Mapping[str, int], context: int) -> Iterator[str]:
    """What became of the conversations, in sentences with their arithmetic."""
    num_tokens = sum(len(row["input_ids"]) for row in rows)
    num_said = sum(label != NEVER_LABEL for row in rows for label in row["labels"])
    yield (
        f"{sum(fates.values()):,} conversations in, {len(rows):,} trained on: {num_tokens:,} tokens, of which {num_said:,} "
        f"({num_said / max(num_tokens, 1):.0%}) are the assistant's and have a loss; context {context:,}."
    )
    for fate, words in FATES.items():
        if fates.get(fate):
            yield f"{fates[fate]:,} {words}."


# --- training ---


def trainer_settings(settings: Settings, out: Path, context: int, deepspeed: dict[str, Any] | None) -> dict[str, Any]:
    """The arguments of TRL's SFTConfig; everything that is not ours to say is its default."""
    import torch

    return {
        "output_dir": str(out / "checkpoints"),
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.lr,
        "lr_scheduler_type": "cosine",
        "warmup_steps": settings.warmup_frac,  # below 1: a share of all steps
        "per_device_train_batch_size": settings.micro_batch,
        "gradient_accumulation_steps": settings.accumulation,
        "max_length": context,
        "packing": settings.packing,
        "eval_packing": False,
        "bf16": torch.cuda.is_available() or deepspeed is not None,
        "use_cpu": not torch.cuda.is_available(),
        "activation_checkpointing": torch.cuda.is_available(),
        "save_steps": settings.save_every,
        "save_total_limit": 2,
        "logging_steps": settings.log_every,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "deepspeed": deepspeed,
        "report_to": "none",
        "disable_tqdm": not sys.stderr.isatty(),
    }


def deepspeed_settings(path: Path) -> dict[str, Any] | None:
    """DeepSpeed's settings if its launcher started us, else None; what the trainer decides is left to it ("auto")."""
    if "LOCAL_RANK" not in os.environ:
        return None
    settings = json.loads(need_file(path, "DeepSpeed's settings").read_text(encoding="utf-8"))
    auto = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    return {**settings, **dict.fromkeys(auto, "auto")}


def metrics_writer(path: Path) -> Any:
    """A callback of the trainer that appends each log as a JSON line {"kind", "step", ...} to `path`.

    What an earlier run logged after the checkpoint that this one goes on from is taken out first.
    """
    from transformers import TrainerCallback

    class Writer(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                kept = [one for one in read_jsonl(path) if one["step"] <= state.global_step] if path.exists() else []
                with atomic_write(path) as file:
                    file.writelines(json_line(one) for one in kept)

        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
            if state.is_world_process_zero and logs:
                kind = "val" if "eval_loss" in logs else "train" if "loss" in logs else "end"
                with path.open("a", encoding="utf-8") as file:
                    file.write(json_line({"kind": kind, "step": state.global_step, **logs}))

    return Writer()


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint of an earlier run of this command, if there is one."""
    found = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return str(max(found, key=lambda path: int(path.name.rpartition("-")[2]))) if found else None


def save(model: Any, folder: Path, base: Path, facts: Mapping[str, Any]) -> None:
    """Write the model as a folder like the base's: weights in the base's dtype, its tokenizer, training.json."""
    import torch

    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    dtype = getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.config.dtype = dtype
    model.save_pretrained(partial, state_dict={name: value.to(dtype) for name, value in model.state_dict().items()})
    for name in TOKENIZER_FILES:
        shutil.copyfile(base / name, partial / name)
    with atomic_write(partial / "training.json") as file:
        json.dump(facts, file, indent=1)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def merge(adapter: Path, base: Path) -> Any:
    """The base model in float32 with the adapter's product added to its matrices."""
    from peft import PeftModel

    model, _ = load_checkpoint(base, device="cpu", dtype="float32")
    return PeftModel.from_pretrained(model, adapter).merge_and_unload()


def fingerprints(model: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """12 digits that change when the weights to start from do, and 12 for the conversations in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row["input_ids"], row["labels"]]).encode())
    return {"model": weights_sha256(model)[:12], "conversations": digest.hexdigest()[:12]}


def check_same_run(out: Path, wanted: Mapping[str, Any]) -> None:
    """Write what decides a run into OUT/run.json; where an earlier run left one, a UserError names the first difference."""
    path = out / "run.json"
    wanted = {name: value for name, value in wanted.items() if name not in ("save_every", "log_every")}
    if path.exists():
        for name, before in json.loads(path.read_text(encoding="utf-8")).items():
            if wanted.get(name) != before:
                raise UserError(
                    f"{out} holds a run with {name} {before}, this one has {wanted.get(name)}; give another --out, or the same"
                )
    elif os.environ.get("RANK", "0") == "0":  # one of DeepSpeed's processes is enough
        with atomic_write(path) as file:
            json.dump(wanted, file, indent=1)


def sft(flags: Any) -> int:
    """The subcommand: encode, train, merge, save."""
    for name in ("trl", "peft"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"post-training needs the package {name}, which is not installed; pip install trl peft")
    settings = Settings(**{one.name: getattr(flags, one.name) for one in dataclasses.fields(Settings)})
    config = check_checkpoint(flags.model, flags.model)
    context = flags.context_tokens or config["max_position_embeddings"]
    if context > config["max_position_embeddings"]:
        raise UserError(
            f"--context-tokens {context} is more than the model's max_position_embeddings {config['max_position_embeddings']}"
        )
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(flags.model, local_files_only=True)
    if not tokenizer.chat_template or "generation" not in tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of {flags.model} has no chat template that marks what the assistant says; "
            "data_prep/train_tokenizer.py writes one"
        )
    rows, fates = encode_split(flags.data, "train", tokenizer, context)
    for sentence in describe(rows, fates, context):
        print(sentence, file=sys.stderr)
    if not rows:
        raise UserError(
            f"no conversation in {', '.join(map(str, flags.data))} has an answer to train on; the counts stand above"
        )
    check_same_run(
        flags.out, {**dataclasses.asdict(settings), "context_tokens": context, **fingerprints(flags.model, rows)}
    )
    if (flags.out / "hf").is_dir():
        print(f"{flags.out / 'hf'} is there: nothing to do", file=sys.stderr)
        return 0
    train(flags, settings, tokenizer, rows, fates, context)
    return 0


def train(
    flags: Any, settings: Settings, tokenizer: Any, rows: list[dict[str, Any]], fates: Mapping[str, int], context: int
) -> None:
    """Run the trainer from its last checkpoint, or the start, to the end, and save the model."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    started_s = time.monotonic()
    flags.out.mkdir(parents=True, exist_ok=True)
    val, _ = encode_split(flags.data, "val", tokenizer, context)
    model, _ = load_checkpoint(flags.model, device="cpu", dtype="float32")
    lora = None
    if settings.lora_rank is not None:
        lora = LoraConfig(
            r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    deepspeed = deepspeed_settings(flags.deepspeed_config)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**trainer_settings(settings, flags.out, context, deepspeed)),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(val) if val else None,
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[metrics_writer(flags.out / "metrics.jsonl")],
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(flags.out / "checkpoints"))
    val_loss = trainer.evaluate()["eval_loss"] if val else None
    if not trainer.is_world_process_zero():
        return
    stage = {
        "method": "sft",
        "data": [str(folder) for folder in flags.data],
        "conversations": dict(fates),
        "num_steps": trainer.state.global_step,
        "val_loss": val_loss,
        "context_tokens": context,
        "hours": (time.monotonic() - started_s) / 3600,
        **dataclasses.asdict(settings),
    }
    facts = training_facts(flags.model)
    facts = {**facts, "post_training": [*facts.get("post_training", []), stage]}
    trained = trainer.accelerator.unwrap_model(trainer.model)
    if lora is not None:
        trained.save_pretrained(flags.out / "adapter")
        trained = merge(flags.out / "adapter", flags.model)
    save(trained, flags.out / "hf", flags.model, facts)
    print(f"the model is in {flags.out / 'hf'}, {duration(time.monotonic() - started_s)}", file=sys.stderr)


def parser() -> Parser:
    """The command line."""
    words = Parser(prog="posttrain.py", description=__doc__)
    words.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # deepspeed's launcher adds it
    commands = words.add_subparsers(dest="command", required=True, metavar="COMMAND")
    one = commands.add_parser("sft", help="supervised fine-tuning on conversations", description=__doc__)
    one.add_argument("--model", type=Path, required=True, metavar="DIR", help="Hugging Face folder to start from")
    one.add_argument(
        "--data", type=Path, required=True, nargs="+", metavar="DIR", help="folders with train.jsonl of conversations"
    )
    one.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for hf/, metrics.jsonl and checkpoints/"
    )
    one.add_argument("--epochs", type=float, default=Settings.epochs, help="passes over the data (default %(default)s)")
    one.add_argument("--lr", type=float, default=Settings.lr, help="learning rate at its highest (default %(default)s)")
    one.add_argument(
        "--warmup-frac", type=float, default=Settings.warmup_frac, help="share of the steps (default %(default)s)"
    )
    one.add_argument(
        "--micro-batch", type=positive, default=Settings.micro_batch, help="packed rows at once (default %(default)s)"
    )
    one.add_argument(
        "--accumulation",
        type=positive,
        default=Settings.accumulation,
        help="micro-batches per step (default %(default)s)",
    )
    one.add_argument("--context-tokens", type=positive, help="length of a row (default: the model's positions)")
    one.add_argument(
        "--lora", dest="lora_rank", action="store_const", const=16, help="train LoRA of rank 16 instead of all weights"
    )
    one.add_argument("--lora-rank", type=positive, help="train LoRA of this rank instead of all weights")
    one.add_argument("--lora-alpha", type=positive, default=Settings.lora_alpha, help="(default %(default)s)")
    one.add_argument("--no-packing", dest="packing", action="store_false", help="one conversation a row, padded")
    one.add_argument(
        "--save-every",
        type=positive,
        default=Settings.save_every,
        help="steps between checkpoints (default %(default)s)",
    )
    one.add_argument(
        "--log-every",
        type=positive,
        default=Settings.log_every,
        help="steps between lines of metrics (default %(default)s)",
    )
    one.add_argument("--seed", type=int, default=Settings.seed, help="(default %(default)s)")
    one.add_argument(
        "--deepspeed-config",
        type=Path,
        default=ROOT / "ds_config.json",
        help="used under deepspeed (default: ds_config.json)",
    )
    one.set_defaults(work=sft)
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the docstring of this file."""
    flags = parser().parse_args(argv)
    return int(flags.work(flags))


if __name__ == "__main__":
    run(main)
