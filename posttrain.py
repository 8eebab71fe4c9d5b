"""From a base model to one that answers: fine-tuning on conversations (sft), on preferences (dpo), on verified answers (grpo).

In: a Hugging Face folder and folders with train.jsonl (and val.jsonl) as data_prep/external.py writes them: conversations for sft (--as
messages), pairs of a better and a worse answer for dpo (--as preferences), conversations with an "answer" for grpo (GSM8K, MATH). Out,
in --out: hf/ (a folder of the same kind, which generate.py --chat, evaluate.py and export.py read), metrics.jsonl, checkpoints/.

sft: the loss is on the assistant's tokens only, each answer and the <|im_end|> that ends it. Conversations are packed, and attention
stays within each. One that is longer than the context is cut after its last answer that fits, or left out; both are counted and said.
dpo: the chosen answer becomes likelier than the rejected one, measured against the model of the start.
grpo: the model writes several answers to each question, until <|im_end|>; one whose final answer math-verify finds equal to the
reference is worth 1, every other 0. There is no reward for form: an answer counts where it stands in \\boxed{}, after #### or after
"answer is" (data_prep/answers.py), so the form is learned with the right answers, and nothing is earned by form alone.

All weights or LoRA, which is merged in float32 and rounded once, because merging in bfloat16 costs 0.7% of the logits. Training is TRL's
(pip install trl peft). Killed at any moment, the same command goes on from its last checkpoint. Stages are runs one after the other:
mathematics first, chat last. `plan` says what the mixture of a recipe comes to.

Examples:
    python posttrain.py plan --mixture recipes/kitefish-a1/mixture.json
    python posttrain.py sft --model runs/pretrain/hf --data dataset_train_val/mathinstruct --out runs/sft-math
    python posttrain.py grpo --model runs/sft-math/hf --data dataset_train_val/gsm8k --out runs/grpo
    deepspeed posttrain.py sft --model runs/grpo/hf --data dataset_train_val/ultrachat --out runs/sft-chat
    python posttrain.py dpo --model runs/sft-chat/hf --data dataset_train_val/ultrafeedback --lora --out runs/dpo
"""

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.answers import Verifier, final_answer
from data_prep.cli import Parser, UserError, atomic_write, duration, need_file, run
from data_prep.records import CHARS_PER_TOKEN, json_line, read_jsonl
from evaluate import positive, weights_sha256
from generate import END_OF_TURN, check_checkpoint, load_checkpoint, training_facts

ROOT = Path(__file__).resolve().parent
NEVER_LABEL = -100  # the label that a loss passes over, as everywhere in PyTorch
ROLES = ("system", "user", "assistant")
TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json")
# What becomes of a record that is not taken as it is, in words for the report.
FATES = {
    "cut": "cut after the last answer that fits",
    "too-long": "left out: not even the first answer fits",
    "pair-too-long": "left out: one of the two answers does not fit",
    "prompt-too-long": "left out: the question leaves no room for --max-new-tokens",
    "no-answer": "left out: no answer of an assistant",
    "same": "left out: both answers are the same",
    "unreadable": "left out: no reference answer that math-verify can read",
    "empty": "left out: a message without text",
    "special": "left out: holds the text of a special token",
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What every method has. Rank and alpha of LoRA are KodaLite's."""

    epochs: float = 1.0
    lr: float = 2e-5
    warmup_frac: float = 0.03
    micro_batch: int = 8
    accumulation: int = 4
    lora_rank: int | None = None  # None: all weights are trained
    lora_alpha: int = 32
    save_every: int = 100
    log_every: int = 10
    seed: int = 0


@dataclass(frozen=True)
class SftSettings(Settings):
    """Learning rate and epochs are TinyMathReason's."""

    epochs: float = 2.0
    packing: bool = True


@dataclass(frozen=True)
class DpoSettings(Settings):
    """Learning rate, warm-up and beta are Zephyr's (arXiv 2310.16944)."""

    lr: float = 5e-7
    warmup_frac: float = 0.1
    beta: float = 0.1


@dataclass(frozen=True)
class GrpoSettings(Settings):
    """Learning rate, beta and generations are TinyMathReason's (its model card). A micro-batch counts completions, not prompts."""

    lr: float = 5e-6
    beta: float = 0.01  # weight of the divergence from the model of the start
    generations: int = 8  # completions of a prompt, whose rewards are compared with each other
    max_new_tokens: int = 512  # the longest solution of GSM8K has 1,146 characters, 95% of MATH's have fewer than 1,367
    temperature: float = 1.0


# --- records to rows ---


def check_messages(
    record: Mapping[str, Any], where: str, field: str = "messages", form: str = "messages"
) -> list[dict[str, str]]:
    """The messages in a field of a record; a UserError if they are none."""
    messages = record.get(field)
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise UserError(f"{where} has no {field}; data_prep/external.py --as {form} writes such records")
    for one in messages:
        if one.get("role") not in ROLES or not isinstance(one.get("content"), str):
            raise UserError(
                f"{where} has a message of role {one.get('role')!r}; {', '.join(ROLES)} with a content are needed"
            )
    return messages


def stripped(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Messages without white space at their edges: a line end there would melt with the template's into one token that no prompt ends with."""
    return [{"role": one["role"], "content": one["content"].strip()} for one in messages]


def encode(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> tuple[list[int], list[int]]:
    """Ids and labels of a conversation in the tokenizer's chat template; NEVER_LABEL except on what the assistant says.

    The template marks an answer and the <|im_end|> after it, so that the model learns to answer and to end.
    """
    coded = tokenizer.apply_chat_template(
        stripped(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, said = coded["input_ids"], coded["assistant_masks"]
    return list(ids), [index if mask else NEVER_LABEL for index, mask in zip(ids, said, strict=True)]


def prompt_text(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """The messages as generation sees them: the chat template's text up to where the assistant's answer begins.

    Without the template's BOS if the tokenizer puts one before any text, as ours does: TRL would give the model two.
    """
    text = str(tokenizer.apply_chat_template(stripped(messages), add_generation_prompt=True, tokenize=False))
    return text.removeprefix(tokenizer.bos_token) if tokenizer("")["input_ids"] else text


def fault(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str | None:
    """Why messages can be no part of a chat (a key of FATES), or None."""
    if any(token in one["content"] for one in messages for token in tokenizer.all_special_tokens):
        return "special"
    return None if all(one["content"].strip() for one in messages) else "empty"


def encode_to_fit(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], context: int
) -> tuple[tuple[list[int], list[int]] | None, str | None]:
    """(ids and labels, or None if left out; a key of FATES, or None if taken whole)."""
    if fate := fault(tokenizer, messages):
        return None, fate
    ends = [index + 1 for index, one in enumerate(messages) if one["role"] == "assistant"]
    for end in reversed(ends):
        ids, labels = encode(tokenizer, messages[:end])
        if len(ids) <= context:
            return (ids, labels), None if end == ends[-1] else "cut"
    return None, "too-long" if ends else "no-answer"


def sft_row(
    record: Mapping[str, Any], where: str, tokenizer: Any, context: int, settings: Settings
) -> tuple[Row | None, str | None]:
    """{"input_ids", "labels"} of a conversation, or None; what became of it, a key of FATES, or None if it was taken whole."""
    pair, fate = encode_to_fit(tokenizer, check_messages(record, where), context)
    return None if pair is None else {"input_ids": pair[0], "labels": pair[1]}, fate


def dpo_row(
    record: Mapping[str, Any], where: str, tokenizer: Any, context: int, settings: Settings
) -> tuple[Row | None, str | None]:
    """{"prompt", "chosen", "rejected"} as text: the template up to the answer, and two answers with the <|im_end|> that ends each."""
    sides = {name: check_messages(record, where, name, "preferences") for name in ("prompt", "chosen", "rejected")}
    row = {"prompt": prompt_text(tokenizer, sides["prompt"])}
    for name in ("chosen", "rejected"):
        if [one["role"] for one in sides[name]] != ["assistant"]:
            raise UserError(f"{where}: {name} is no single message of the assistant, as --as preferences writes it")
        messages = [*sides["prompt"], *sides[name]]
        if fate := fault(tokenizer, messages):
            return None, fate
        if len(encode(tokenizer, messages)[0]) > context:
            return None, "pair-too-long"
        row[name] = sides[name][0]["content"].strip() + END_OF_TURN
    return (None, "same") if row["chosen"] == row["rejected"] else (row, None)


def grpo_row(
    record: Mapping[str, Any], where: str, tokenizer: Any, context: int, settings: Settings
) -> tuple[Row | None, str | None]:
    """{"prompt", "answer"}: the template's text up to the last answer, and the reference that the model's answers are compared with."""
    assert isinstance(settings, GrpoSettings)
    messages = check_messages(record, where)
    if messages[-1:] and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if fate := fault(tokenizer, messages):
        return None, fate
    prompt = prompt_text(tokenizer, messages)
    if len(tokenizer(prompt)["input_ids"]) + settings.max_new_tokens > context:
        return None, "prompt-too-long"
    reference = record.get("answer")
    return ({"prompt": prompt, "answer": reference}, None) if isinstance(reference, str) else (None, "unreadable")


def keep_readable(rows: Sequence[Row], fates: Counter[str], verifier: Verifier) -> list[Row]:
    """The rows whose reference math-verify finds equal to itself: what it cannot read would reward nobody."""
    readable = {answer: verifier.equal(answer, answer) for answer in sorted({row["answer"] for row in rows})}
    kept = [row for row in rows if readable[row["answer"]]]
    fates["whole"] -= len(rows) - len(kept)
    fates["unreadable"] += len(rows) - len(kept)
    return kept


def encode_split(
    folders: Mapping[Path, float], split: str, to_row: Callable[..., tuple[Row | None, str | None]], *how: Any
) -> tuple[list[Row], Counter[str]]:
    """The rows of a split, and how many records met each fate ("whole", or a key of FATES).

    A folder's weight is how often an epoch passes over it: 2.5 is twice all and once a half, drawn with a fixed seed.
    """
    rows: list[Row] = []
    fates = Counter[str]()
    for folder, weight in folders.items():
        path = folder / f"{split}.jsonl"
        if split == "val" and not path.exists():
            continue
        found = []
        for number, record in enumerate(read_jsonl(path), 1):
            row, fate = to_row(record, f"{path}, record {number}", *how)
            fates[fate or "whole"] += 1
            found += [] if row is None else [row]
        times, part = divmod(weight if split == "train" else 1.0, 1.0)
        rows += found * int(times) + random.Random(0).sample(found, round(part * len(found)))
    return rows, fates


def describe(rows: Sequence[Row], fates: Mapping[str, int], context: int, settings: Settings) -> Iterator[str]:
    """What became of the records, in sentences with their arithmetic."""
    said = f"{sum(fates.values()):,} records in, {len(rows):,} trained on"
    if isinstance(settings, SftSettings):
        num_tokens = sum(len(row["input_ids"]) for row in rows)
        num_said = sum(label != NEVER_LABEL for row in rows for label in row["labels"])
        said += f": {num_tokens:,} tokens, of which {num_said:,} ({num_said / max(num_tokens, 1):.0%}) are the assistant's and have a loss"
    yield f"{said}; context {context:,}."
    for fate, words in FATES.items():
        if fates.get(fate):
            yield f"{fates[fate]:,} {words}."
    if isinstance(settings, GrpoSettings):
        per_step = num_processes() * settings.micro_batch * settings.accumulation
        yield (
            f"A step: {num_processes()} x {settings.micro_batch} completions x {settings.accumulation} accumulation = {per_step}, "
            f"{settings.generations} to each of {per_step // settings.generations} prompts, {settings.max_new_tokens} tokens at most."
        )


# --- training ---


def trainer_settings(settings: Settings, out: Path, deepspeed: dict[str, Any] | None) -> dict[str, Any]:
    """The arguments that all of TRL's trainers share; everything that is not ours to say is its default."""
    import torch

    return {
        "output_dir": str(out / "checkpoints"),
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.lr,
        "lr_scheduler_type": "cosine",
        "warmup_steps": settings.warmup_frac,  # below 1: a share of all steps
        "per_device_train_batch_size": settings.micro_batch,
        "gradient_accumulation_steps": settings.accumulation,
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


def sft_trainer(settings: SftSettings, context: int, common: Mapping[str, Any], **parts: Any) -> Any:
    """TRL's trainer for supervised fine-tuning."""
    from trl import SFTConfig, SFTTrainer

    args = SFTConfig(**common, max_length=context, packing=settings.packing, eval_packing=False)
    return SFTTrainer(args=args, **parts)


def dpo_trainer(settings: DpoSettings, context: int, common: Mapping[str, Any], **parts: Any) -> Any:
    """TRL's trainer for direct preference optimization; its reference is the model of --model, or the base under LoRA."""
    from trl import DPOConfig, DPOTrainer

    return DPOTrainer(args=DPOConfig(**common, max_length=context, beta=settings.beta), **parts)


def grpo_trainer(settings: GrpoSettings, context: int, common: Mapping[str, Any], **parts: Any) -> Any:
    """TRL's trainer for group relative policy optimization, whose only reward is that the answer is right."""
    from trl import GRPOConfig, GRPOTrainer

    args = GRPOConfig(
        **common,
        beta=settings.beta,
        num_generations=settings.generations,
        max_completion_length=settings.max_new_tokens,
        temperature=settings.temperature,
    )
    parts.pop("eval_dataset")  # no loss of held-out data says how good it is; evaluate.py benchmarks does
    return GRPOTrainer(args=args, reward_funcs=[correctness(Verifier())], **parts)


def correctness(verifier: Verifier) -> Callable[..., list[float]]:
    """The reward of TRL's form: 1.0 for each completion whose final answer equals the reference, else 0.0.

    Logs the share of completions that give an answer at all ("answered"), right or wrong.
    """

    def correct(completions: Sequence[str], answer: Sequence[str], log_metric: Any, **_: Any) -> list[float]:
        given = [final_answer(text) for text in completions]
        log_metric("answered", sum(one is not None for one in given) / len(given))
        pairs = zip(answer, given, strict=True)
        return [float(one is not None and verifier.equal(reference, one)) for reference, one in pairs]

    return correct


class Method(NamedTuple):
    """What one of the three subcommands is made of."""

    help: str
    settings: type[Settings]
    to_row: Callable[..., tuple[Row | None, str | None]]
    trainer: Callable[..., Any]
    packages: Mapping[str, str]  # module: the name to install


TRAINERS = {"trl": "trl", "peft": "peft"}
METHODS = {
    "sft": Method("supervised fine-tuning on conversations", SftSettings, sft_row, sft_trainer, TRAINERS),
    "dpo": Method("preference optimization on pairs of answers", DpoSettings, dpo_row, dpo_trainer, TRAINERS),
    "grpo": Method(
        "policy optimization with answers that math-verify checks",
        GrpoSettings,
        grpo_row,
        grpo_trainer,
        {**TRAINERS, "math_verify": "math-verify"},
    ),
}


def num_processes() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


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
    """Write the model as a folder like the base's: weights in the base's dtype, its config and tokenizer, training.json.

    The config is the base's own file: a trainer has set in the model's what it needed, say another end of text.
    """
    import torch

    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    dtype = getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, state_dict={name: value.to(dtype) for name, value in model.state_dict().items()})
    (partial / "generation_config.json").unlink(missing_ok=True)
    for name in (*TOKENIZER_FILES, "config.json", "generation_config.json"):
        if (base / name).exists():
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


def fingerprints(model: Path, rows: Sequence[Row]) -> dict[str, str]:
    """12 digits that change when the weights to start from do, and 12 for the conversations in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json_line(row).encode())
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


def check_settings(settings: Settings) -> None:
    """Raise UserError for numbers that do not go together, before anything is loaded."""
    if isinstance(settings, GrpoSettings):
        per_step = num_processes() * settings.micro_batch * settings.accumulation
        if settings.generations < 2 or per_step % settings.generations:
            raise UserError(
                f"{num_processes()} x --micro-batch {settings.micro_batch} x --accumulation {settings.accumulation} = {per_step} "
                f"completions a step cannot be shared out by --generations {settings.generations}; give 2 or more that divide it"
            )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model that can be taught to chat: its template marks answers, and <|im_end|> is one token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not tokenizer.chat_template or "generation" not in tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of {folder} has no chat template that marks what the assistant says; "
            "data_prep/train_tokenizer.py writes one"
        )
    if END_OF_TURN not in tokenizer.get_vocab():
        raise UserError(
            f"the tokenizer of {folder} has no piece {END_OF_TURN}, which ends an answer; data_prep/train_tokenizer.py makes one"
        )
    return tokenizer


def folders_of(flags: Any) -> dict[Path, float]:
    """The folders to read with their weights: those of --data once each, or the post-training sources of --mixture."""
    if (flags.mixture is None) == (flags.data is None):
        raise UserError("give the data: either --data with folders, or --mixture with a file")
    if flags.data is not None:
        return dict.fromkeys(flags.data, 1.0)
    return {source.dataset: source.weight for source in sources_of(flags.mixture, flags.subject)}


def post_train(flags: Any) -> int:
    """The subcommands sft, dpo and grpo: read, encode, train, merge, save."""
    method = METHODS[flags.command]
    for module, package in method.packages.items():
        if importlib.util.find_spec(module) is None:
            raise UserError(
                f"post-training needs the package {package}, which is not installed; pip install {' '.join(method.packages.values())}"
            )
    settings = method.settings(**{one.name: getattr(flags, one.name) for one in dataclasses.fields(method.settings)})
    check_settings(settings)
    folders = folders_of(flags)
    config = check_checkpoint(flags.model, flags.model)
    context = flags.context_tokens or config["max_position_embeddings"]
    if context > config["max_position_embeddings"]:
        raise UserError(
            f"--context-tokens {context} is more than the model's max_position_embeddings {config['max_position_embeddings']}"
        )
    tokenizer = load_tokenizer(flags.model)
    rows, fates = encode_split(folders, "train", method.to_row, tokenizer, context, settings)
    if isinstance(settings, GrpoSettings):
        rows = keep_readable(rows, fates, Verifier())
    for sentence in describe(rows, fates, context, settings):
        print(sentence, file=sys.stderr)
    if not rows:
        raise UserError(f"nothing in {', '.join(map(str, folders))} can be trained on; the counts stand above")
    decides = {"method": flags.command, **dataclasses.asdict(settings), "context_tokens": context}
    check_same_run(flags.out, {**decides, **fingerprints(flags.model, rows)})
    if (flags.out / "hf").is_dir():
        print(f"{flags.out / 'hf'} is there: nothing to do", file=sys.stderr)
        return 0
    val, _ = encode_split(folders, "val", method.to_row, tokenizer, context, settings)
    stage = {**decides, "data": [str(folder) for folder in folders], "conversations": dict(fates)}
    train(flags, settings, tokenizer, rows, val, stage)
    return 0


def train(flags: Any, settings: Settings, tokenizer: Any, rows: list[Row], val: list[Row], stage: Row) -> None:
    """Run the trainer from its last checkpoint, or the start, to the end, and save the model. `stage` goes into training.json."""
    from datasets import Dataset
    from peft import LoraConfig

    started_s = time.monotonic()
    flags.out.mkdir(parents=True, exist_ok=True)
    model, _ = load_checkpoint(flags.model, device="cpu", dtype="float32")
    lora = None
    if settings.lora_rank is not None:
        lora = LoraConfig(
            r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    if flags.command != "sft":
        tokenizer.eos_token = END_OF_TURN  # for TRL: what ends an answer; the saved tokenizer is the base's
    trainer = METHODS[flags.command].trainer(
        settings,
        stage["context_tokens"],
        trainer_settings(settings, flags.out, deepspeed_settings(flags.deepspeed_config)),
        model=model,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(val) if val else None,
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[metrics_writer(flags.out / "metrics.jsonl")],
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(flags.out / "checkpoints"))
    val_loss = trainer.evaluate()["eval_loss"] if val and trainer.eval_dataset is not None else None
    if not trainer.is_world_process_zero():
        return
    hours = (time.monotonic() - started_s) / 3600
    facts = training_facts(flags.model)
    done = {**stage, "num_steps": trainer.state.global_step, "val_loss": val_loss, "hours": hours}
    trained = trainer.accelerator.unwrap_model(trainer.model)
    if lora is not None:
        trained.save_pretrained(flags.out / "adapter")
        trained = merge(flags.out / "adapter", flags.model)
    save(trained, flags.out / "hf", flags.model, {**facts, "post_training": [*facts.get("post_training", []), done]})
    print(f"the model is in {flags.out / 'hf'}, {duration(time.monotonic() - started_s)}", file=sys.stderr)


# --- the plan ---

# Which part of a mixture comes first: mathematics, then chat, so that the last thing learned is how to talk.
SUBJECTS = {
    "mathematics": ("stackexchange", "mathinstruct", "metamathqa", "gsm8k", "math"),
    "chat": ("ultrachat", "dolly", "oasst1"),
}
PAPERS_TOKENS = 5e9  # KiteFish-A1's post-training mixture


def sources_of(mixture: Path, subject: str | None) -> list[Any]:
    """The post-training sources of a mixture.json, all or those of one subject, in the order of the file."""
    from data_prep.mixture import read_mixture

    sources = read_mixture(mixture).of_stage("post-training")
    chosen = [source for source in sources if subject is None or source.name in SUBJECTS[subject]]
    if not chosen:
        raise UserError(
            f"{mixture} has no post-training source of {subject}; it names {', '.join(one.name for one in sources)}"
        )
    return chosen


def num_chars(path: Path) -> int:
    """The characters of all messages of a file of conversations."""
    records = enumerate(read_jsonl(path), 1)
    return sum(
        len(one["content"]) for number, record in records for one in check_messages(record, f"{path}, record {number}")
    )


def plan(flags: Any) -> int:
    """The subcommand: what the post-training sources of a mixture hold, how often --tokens pass over them, and the commands."""
    sources = sources_of(flags.mixture, None)
    present = {one.name: one for one in sources if (one.dataset / "train.jsonl").is_file()}
    tokens = {name: num_chars(one.dataset / "train.jsonl") / CHARS_PER_TOKEN for name, one in present.items()}
    per_epoch = sum(tokens[name] * one.weight for name, one in present.items())
    epochs = flags.tokens / per_epoch if per_epoch else None
    print(f"{'source':16}{'weight':>8}{'tokens (estimated)':>22}{'passes':>10}")
    for one in sources:
        if one.name in present:
            print(f"{one.name:16}{one.weight:>8.1f}{tokens[one.name]:>22,.0f}{(epochs or 0) * one.weight:>10.2f}")
        else:
            print(
                f"{one.name:16}{one.weight:>8.1f}{'none':>22}   (python data_prep/external.py {one.name} --input ... --out {one.dataset})"
            )
    if epochs is not None:
        print(f"{flags.tokens:,.0f} tokens / {per_epoch:,.0f} tokens an epoch = {epochs:.2f} epochs of what is there")
    model = Path("runs/pretrain/hf")
    for subject, names in SUBJECTS.items():
        if any(one.name in names for one in sources):
            out = Path("runs") / f"sft-{subject}"
            words = f"--mixture {flags.mixture} --subject {subject} --epochs {epochs or SftSettings.epochs:.3g}"
            print(f"deepspeed posttrain.py sft --model {model} {words} --out {out}")
            model = out / "hf"
    return 0


# --- the command line ---


def add_method(commands: Any, name: str) -> Parser:
    """The subcommand of a method with the flags that all three have; defaults are those of its settings."""
    method = METHODS[name]
    default = method.settings
    one: Parser = commands.add_parser(name, help=method.help, description=__doc__)
    one.add_argument("--model", type=Path, required=True, metavar="DIR", help="Hugging Face folder to start from")
    one.add_argument("--data", type=Path, nargs="+", metavar="DIR", help="folders with train.jsonl")
    one.add_argument("--mixture", type=Path, metavar="FILE", help="mixture.json whose post-training sources are read")
    one.add_argument("--subject", choices=SUBJECTS, help="take only these sources of the mixture")
    one.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for hf/, metrics.jsonl and checkpoints/"
    )
    one.add_argument("--epochs", type=float, default=default.epochs, help="passes over the data (default %(default)s)")
    one.add_argument("--lr", type=float, default=default.lr, help="learning rate at its highest (default %(default)s)")
    one.add_argument(
        "--warmup-frac", type=float, default=default.warmup_frac, help="share of the steps (default %(default)s)"
    )
    one.add_argument(
        "--micro-batch",
        type=positive,
        default=default.micro_batch,
        help="rows at once on each GPU (default %(default)s)",
    )
    one.add_argument(
        "--accumulation",
        type=positive,
        default=default.accumulation,
        help="micro-batches per step (default %(default)s)",
    )
    one.add_argument("--context-tokens", type=positive, help="longest sequence (default: the model's positions)")
    one.add_argument(
        "--lora", dest="lora_rank", action="store_const", const=16, help="train LoRA of rank 16 instead of all weights"
    )
    one.add_argument("--lora-rank", type=positive, help="train LoRA of this rank instead of all weights")
    one.add_argument("--lora-alpha", type=positive, default=default.lora_alpha, help="(default %(default)s)")
    one.add_argument(
        "--save-every",
        type=positive,
        default=default.save_every,
        help="steps between checkpoints (default %(default)s)",
    )
    one.add_argument(
        "--log-every",
        type=positive,
        default=default.log_every,
        help="steps between lines of metrics (default %(default)s)",
    )
    one.add_argument("--seed", type=int, default=default.seed, help="(default %(default)s)")
    one.add_argument(
        "--deepspeed-config",
        type=Path,
        default=ROOT / "ds_config.json",
        help="used under deepspeed (default: ds_config.json)",
    )
    one.set_defaults(work=post_train)
    return one


def parser() -> Parser:
    """The command line."""
    words = Parser(prog="posttrain.py", description=__doc__)
    words.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # deepspeed's launcher adds it
    commands = words.add_subparsers(dest="command", required=True, metavar="COMMAND")
    sft, dpo, grpo = (add_method(commands, name) for name in METHODS)
    sft.add_argument("--no-packing", dest="packing", action="store_false", help="one conversation a row, padded")
    dpo.add_argument(
        "--beta", type=float, default=DpoSettings.beta, help="how near to the start it stays (default %(default)s)"
    )
    grpo.add_argument(
        "--beta", type=float, default=GrpoSettings.beta, help="how near to the start it stays (default %(default)s)"
    )
    grpo.add_argument(
        "--generations",
        type=positive,
        default=GrpoSettings.generations,
        help="completions of a prompt (default %(default)s)",
    )
    grpo.add_argument(
        "--max-new-tokens",
        type=positive,
        default=GrpoSettings.max_new_tokens,
        help="of a completion (default %(default)s)",
    )
    grpo.add_argument(
        "--temperature", type=float, default=GrpoSettings.temperature, help="of drawing (default %(default)s)"
    )
    show = commands.add_parser("plan", help="what a mixture's post-training comes to", description=__doc__)
    show.add_argument(
        "--mixture",
        type=Path,
        default=ROOT / "recipes" / "kitefish-a1" / "mixture.json",
        metavar="FILE",
        help="(default: %(default)s)",
    )
    show.add_argument("--tokens", type=float, default=PAPERS_TOKENS, help="(default: %(default).0f, the paper's)")
    show.set_defaults(work=plan)
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the docstring of this file."""
    flags = parser().parse_args(argv)
    return int(flags.work(flags))


if __name__ == "__main__":
    run(main)
