"""Text from a checkpoint: a base model goes on with a prompt, a chat model answers.

In: the Hugging Face folder that train.py or posttrain.py wrote, and a prompt. Out: the text on stdout, token by token as it
is drawn; what was done on stderr. Runs with and without a GPU; the same seed gives the same text on the same machine.

Examples:
    python generate.py --model runs/pretrain/hf --prompt "Let $p$ be a prime number. Then"
    python generate.py --model runs/pretrain/hf --prompt - --temperature 0 --max-new-tokens 200 < beginning.tex
    python generate.py --model runs/sft/hf --chat
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.cli import Parser, UserError, run
from data_prep.pack_tokens import check_tokenizer_fits, tokenizer_fingerprint

ARCHITECTURE = "LlamaForCausalLM"  # the one architecture that this repository trains, evaluates and exports
END_OF_TURN = "<|im_end|>"  # ends each message of the chat template; one token, so that every runtime can stop at it
DEFAULT_NEW_TOKENS = 200
UNSHOWN_TOKENS = ("<s>", "</s>", "<pad>", "<|im_start|>", END_OF_TURN)  # structure, not text; <think> is shown


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn. `temperature` 0 takes the likeliest; `top_p` keeps the likeliest tokens of that total mass."""

    max_new_tokens: int = DEFAULT_NEW_TOKENS
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a Hugging Face model folder; a UserError if the folder holds no model that we know."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no config.json; give the Hugging Face folder of a run, say runs/pretrain/hf")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from None
    architectures = config.get("architectures") or [config.get("model_type", "nothing")]
    if architectures != [ARCHITECTURE]:
        raise UserError(f"{path} describes {', '.join(map(str, architectures))}; {ARCHITECTURE} is needed")
    if not list(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder} holds a config.json but no weights (*.safetensors); was the run stopped before its end?"
        )
    return dict(config)


def training_facts(folder: Path) -> dict[str, Any]:
    """What the run wrote about itself into the model folder (training.json), {} where a checkpoint came without it."""
    path = folder / "training.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def check_checkpoint(folder: Path, tokenizer: Path) -> dict[str, Any]:
    """The config of the model, once it is certain that model and tokenizer belong together.

    Raises UserError, naming both values, if the tokenizer does not fit the embedding or is not the one trained with.
    """
    config = read_config(folder)
    check_tokenizer_fits(tokenizer, config)
    trained_with = training_facts(folder).get("tokenizer_fingerprint")
    if trained_with is not None and not (given := tokenizer_fingerprint(tokenizer)).startswith(trained_with):
        raise UserError(
            f"{folder} was trained with the tokenizer {trained_with[:12]}, {tokenizer} is {given[:12]}; give the first"
        )
    return config


def pick_device(wanted: str) -> str:
    """'auto' -> 'cuda' where there is a GPU, else 'cpu'; a GPU that is not there is a UserError."""
    import torch

    num_gpus = torch.cuda.device_count()
    if wanted == "auto":
        return "cuda" if num_gpus else "cpu"
    if wanted not in ("cpu", *["cuda"][:num_gpus], *(f"cuda:{index}" for index in range(num_gpus))):
        raise UserError(
            f"--device {wanted}: torch sees {num_gpus} GPUs here; give cpu, cuda or one of their numbers, cuda:0 the first"
        )
    return wanted


def load_checkpoint(
    folder: Path, *, tokenizer: Path | None = None, device: str = "auto", dtype: str = "auto"
) -> tuple[Any, Any]:
    """The model (in evaluation mode, on its device) and its tokenizer.

    dtype 'auto' is the checkpoint's own on a GPU and float32 on a CPU, where it is both the exact and the fast choice. Raises
    UserError if the files do not belong together, are damaged, or leave any weight at its random start.
    """
    check_checkpoint(folder, tokenizer or folder)
    import torch
    import transformers
    from safetensors import SafetensorError

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    device = pick_device(device)
    if dtype == "auto":
        dtype = "auto" if device.startswith("cuda") else "float32"
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the weights in {folder} cannot be read ({reason}); copy or save the checkpoint again"
        ) from None
    if absent := sorted(report["missing_keys"]) + sorted(report["unexpected_keys"]):
        raise UserError(
            f"the weights in {folder} do not match its config.json: {len(absent)} differ, first {absent[0]}"
        )
    vocabulary = transformers.AutoTokenizer.from_pretrained(tokenizer or folder, local_files_only=True)
    return model.eval().to(torch.device(device)), vocabulary


class Printer:
    """Writes tokens to stdout as text the moment they are drawn; generate() calls put() and end().

    A character of several byte tokens appears once it is whole. `show_first` says whether the prompt is shown, too.
    """

    def __init__(self, tokenizer: Any, show_first: bool) -> None:
        self.tokenizer = tokenizer
        self.unshown = set(tokenizer.convert_tokens_to_ids(list(UNSHOWN_TOKENS)))
        self.show_next = show_first
        self.ids: list[int] = []
        self.num_printed_chars = 0

    def put(self, ids: Any) -> None:
        """Take token ids (a tensor of any shape; the first call brings the prompt) and write what is certain of the text."""
        if self.show_next:
            self.ids += [index for index in ids.flatten().tolist() if index not in self.unshown]
            text = self.tokenizer.decode(self.ids)
            if not text.endswith("\ufffd"):
                self.write(text)
        self.show_next = True

    def end(self) -> None:
        """Write the rest, a broken last character included, and end the line."""
        self.write(self.tokenizer.decode(self.ids) + "\n")

    def write(self, text: str) -> None:
        """Write what `text` adds to the text so far."""
        sys.stdout.write(text[self.num_printed_chars :])
        sys.stdout.flush()
        self.num_printed_chars = len(text)


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """The ids at which a text ends: the model's end of text, and the end of a chat turn."""
    ends = model.config.eos_token_id
    return [*(ends if isinstance(ends, list) else [ends]), tokenizer.convert_tokens_to_ids(END_OF_TURN)]


def draw(model: Any, tokenizer: Any, ids: Sequence[int], how: Sampling, *, show_prompt: bool) -> list[int]:
    """Stream what the model writes after `ids` to stdout and return the new ids, the stop token included.

    Raises UserError if prompt and answer together are longer than the model's context.
    """
    import torch
    from transformers import GenerationConfig

    context = model.config.max_position_embeddings
    if len(ids) + how.max_new_tokens > context:
        raise UserError(
            f"{len(ids):,} tokens of prompt and {how.max_new_tokens:,} new ones exceed the model's context of {context:,}; "
            f"shorten the prompt or give --max-new-tokens {max(context - len(ids), 1)} or less"
        )
    options: dict[str, Any] = {"do_sample": False}
    if how.temperature > 0:
        options = {"do_sample": True, "temperature": how.temperature, "top_p": how.top_p, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=how.max_new_tokens,
        bos_token_id=model.config.bos_token_id,
        eos_token_id=stop_ids(model, tokenizer),
        pad_token_id=model.config.pad_token_id,
        **options,
    )
    torch.manual_seed(how.seed)
    prompt = torch.tensor([list(ids)], device=model.device)
    with torch.inference_mode():
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            generation_config=config,
            streamer=Printer(tokenizer, show_first=show_prompt),
        )
    return [int(index) for index in output[0, len(ids) :]]


def continue_prompt(model: Any, tokenizer: Any, prompt: str, how: Sampling) -> None:
    """Print the prompt and what a base model writes after it. The model sees BOS first, as each document of its training."""
    ids = [tokenizer.bos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]
    started_s = time.monotonic()
    new = draw(model, tokenizer, ids, how, show_prompt=True)
    seconds = time.monotonic() - started_s
    print(
        f"{len(ids)} tokens read, {len(new)} written, {len(new) / seconds:,.1f} tokens/s, seed {how.seed}",
        file=sys.stderr,
    )


def answer(model: Any, tokenizer: Any, messages: list[dict[str, str]], how: Sampling) -> str:
    """Print the model's answer to a conversation and return it, without the tokens that end the turn.

    Where conversation and answer together exceed the context, the oldest question and answer leave first, and stderr says so.
    """
    room = model.config.max_position_embeddings - how.max_new_tokens
    first = 1 if messages[0]["role"] == "system" else 0
    while True:
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        if len(ids) <= room or len(messages) - first < 3:
            break
        del messages[first : first + 2]
        print("the oldest question and its answer no longer fit the model's context: left out", file=sys.stderr)
    new = draw(model, tokenizer, ids, how, show_prompt=False)
    ends = stop_ids(model, tokenizer)
    return str(tokenizer.decode([index for index in new if index not in ends])).strip()


def chat(model: Any, tokenizer: Any, system: str | None, how: Sampling) -> None:
    """A conversation: one line of stdin is one question; an empty one or the end of input ends it."""
    messages = [{"role": "system", "content": system}] if system else []
    at_terminal = sys.stdin.isatty()
    while True:
        if at_terminal:
            print("> ", end="", file=sys.stderr, flush=True)
        question = sys.stdin.readline().strip()
        if not question:
            return
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer(model, tokenizer, messages, how)})


def parser() -> Parser:
    """The command line."""
    words = Parser(prog="generate.py", description=__doc__)
    words.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="Hugging Face folder, say runs/pretrain/hf"
    )
    words.add_argument("--tokenizer", type=Path, metavar="DIR", help="tokenizer folder (default: the model's own)")
    words.add_argument("--prompt", help="text to go on with, or with --chat one question; - reads stdin")
    words.add_argument(
        "--chat", action="store_true", help="use the chat template; without --prompt, a conversation on stdin"
    )
    words.add_argument("--system", help="system message of a chat")
    words.add_argument(
        "--max-new-tokens", type=int, help=f"at most (default {DEFAULT_NEW_TOKENS}, or half of the context)"
    )
    words.add_argument(
        "--temperature",
        type=float,
        default=Sampling.temperature,
        help="0 takes the likeliest token (default %(default)s)",
    )
    words.add_argument(
        "--top-p", type=float, default=Sampling.top_p, help="draw from this much probability (default %(default)s)"
    )
    words.add_argument("--seed", type=int, default=Sampling.seed, help="(default %(default)s)")
    words.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default %(default)s)")
    words.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="(default %(default)s)")
    return words


def check_flags(flags: Any) -> None:
    """Raise UserError for flags that make no sense, before anything is loaded."""
    if flags.prompt is None and not flags.chat:
        raise UserError("nothing to do: give --prompt TEXT, or --chat for a conversation")
    if flags.system is not None and not flags.chat:
        raise UserError("--system is part of a chat; give --chat, too")
    if flags.max_new_tokens is not None and flags.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens {flags.max_new_tokens}: 1 or more is needed")
    if flags.temperature < 0:
        raise UserError(f"--temperature {flags.temperature}: 0 or more is needed")
    if not 0 < flags.top_p <= 1:
        raise UserError(f"--top-p {flags.top_p}: above 0 and up to 1 is needed")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the docstring of this file."""
    flags = parser().parse_args(argv)
    check_flags(flags)
    prompt = sys.stdin.read() if flags.prompt == "-" else flags.prompt
    model, tokenizer = load_checkpoint(flags.model, tokenizer=flags.tokenizer, device=flags.device, dtype=flags.dtype)
    num_new = flags.max_new_tokens or min(DEFAULT_NEW_TOKENS, model.config.max_position_embeddings // 2)
    how = Sampling(num_new, flags.temperature, flags.top_p, flags.seed)
    if not flags.chat:
        continue_prompt(model, tokenizer, prompt, how)
    elif prompt is None:
        chat(model, tokenizer, flags.system, how)
    else:
        system = [{"role": "system", "content": flags.system}] if flags.system else []
        answer(model, tokenizer, [*system, {"role": "user", "content": prompt}], how)
    return 0


if __name__ == "__main__":
    run(main)
