"""Measure tokens per second of train.py's step beside a plain PyTorch loop, the Hugging Face Trainer with DeepSpeed,
and litgpt.

In: nothing; the same shape of model, tokens and optimizer for all. Out: a table on stdout, for docs/LOG.md. The Trainer
needs the package accelerate and litgpt needs itself; where one is not installed the table says so. (litgpt 0.5.13 asks
for an older huggingface_hub than transformers 5 does, and works with the newer one: install it with --no-deps, and
lightning, jsonargparse and typeshed-client.)

On a CPU a small model is used and CPU seconds are counted, which other work on the machine disturbs little. On a GPU
it is the published model at 768 tokens and wall time counts; memory and MFU are shown, and --profile says where the
time of our step goes. The modes take turns, --rounds times; a ratio is the median of the rounds' ratios.

example: python benchmarks/train_throughput.py
         python benchmarks/train_throughput.py --modes ours --micro-batch 32 --profile     # on a GPU
"""

import contextlib
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

import train
from data_prep.cli import EXIT_DONE, Parser, UserError, run

SMALL = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 8192,
}
MODES = {  # name: (ranks, what it is)
    "plain": (1, "plain PyTorch loop, fp32 master weights, usual loss"),
    "ours": (1, "train.py, ZeRO-2, 1 rank"),
    "ours-2": (2, "train.py, ZeRO-2, 2 ranks"),
    "ours-checkpointed": (1, "train.py, ZeRO-2, all layers checkpointed"),
    "ours-compiled": (1, "train.py, ZeRO-2, compiled"),
    "trainer": (1, "HF Trainer + DeepSpeed ZeRO-2, as published: all layers checkpointed, usual loss"),
    "trainer-unchecked": (1, "HF Trainer + DeepSpeed ZeRO-2, nothing checkpointed, usual loss"),
    "litgpt": (1, "litgpt's own loop: bf16-mixed, compiled, as it ships"),
    "litgpt-eager": (1, "litgpt's own loop, not compiled"),
}
PACKAGES = {"trainer": "accelerate", "litgpt": "litgpt"}  # what a mode needs, by the first word of its name
ACCUMULATION = 2


class Clock:
    """Seconds that count: of CPU without a GPU, else of the wall. `per_step` is the fastest of all steps after the
    first.
    """

    def __init__(self, device: Any) -> None:
        self.cuda = device.type == "cuda"
        self.marks: list[float] = []

    def mark(self) -> None:
        if self.cuda:
            import torch

            torch.cuda.synchronize()
        self.marks.append(time.perf_counter() if self.cuda else time.process_time())

    @property
    def per_step(self) -> float:
        return min(after - before for before, after in zip(self.marks[1:], self.marks[2:], strict=False))


def random_batch(shape: train.Shape, micro_batch: int, seq_len: int, number: int) -> Any:
    import torch

    generator = torch.Generator().manual_seed(number)
    tokens = torch.randint(shape.vocab, (micro_batch, seq_len + 1), generator=generator)
    return train.MicroBatch(
        range(number, number + 1), tokens[:, :-1], tokens[:, 1:], torch.arange(seq_len).expand(micro_batch, -1)
    )


def plain_loop(config: dict[str, Any], settings: train.Settings, steps: int, clock: Clock, device: Any) -> None:
    """What one would write without any framework: bf16 weights, fp32 copy, AdamW, clipping."""
    import torch

    shape = train.read_shape(config)
    llama = train.build_model(config, settings, device).llama.train()
    weights = list(llama.parameters())
    masters = [p.detach().float().requires_grad_() for p in weights]
    optimizer = torch.optim.AdamW(masters, lr=settings.lr, fused=True)
    for step in range(steps):
        for micro in range(ACCUMULATION):
            batch = random_batch(shape, settings.micro_batch, settings.seq_len, step * ACCUMULATION + micro)
            logits = llama(input_ids=batch.input_ids.to(device), use_cache=False).logits.float()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten().to(device))
            (loss / ACCUMULATION).backward()  # type: ignore[no-untyped-call]
            for p, master in zip(weights, masters, strict=True):
                master.grad = p.grad.float() if master.grad is None else master.grad.add_(p.grad)
                p.grad = None
        torch.nn.utils.clip_grad_norm_(masters, settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for p, master in zip(weights, masters, strict=True):
                p.copy_(master)
        clock.mark()


def our_loop(
    config: dict[str, Any], settings: train.Settings, steps: int, clock: Clock, ranks: train.Ranks, device: Any
) -> Callable[[], None]:
    """train.py's step. Returns one more step, for the profiler."""
    shape = train.read_shape(config)
    model = train.build_model(config, settings, device)
    train.set_checkpointing(model, shape.layers if settings.checkpoint_layers == "all" else 0)
    batches = train.Batches(settings.micro_batch * ranks.world * ACCUMULATION, settings.micro_batch, ACCUMULATION)
    engine = train.start_engine(model, settings, train.deepspeed_config(settings, batches))
    numbers = iter(range(ranks.rank, 10**9, ranks.world))

    def step() -> None:
        train.forward_backward(
            engine,
            lambda: random_batch(shape, settings.micro_batch, settings.seq_len, next(numbers)),
            ACCUMULATION,
            documents=False,
        )
        engine.step()

    for _ in range(steps):
        step()
        clock.mark()
    return step


def trainer_loop(config: dict[str, Any], settings: train.Settings, steps: int, clock: Clock) -> None:
    """The Hugging Face Trainer, with the arguments of the published script."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    shape = train.read_shape(config)

    class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return steps * ACCUMULATION * settings.micro_batch

        def __getitem__(self, number: int) -> dict[str, Any]:
            ids = random_batch(shape, 1, settings.seq_len, number).input_ids[0]
            return {"input_ids": ids, "labels": ids}

    class Mark(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.mark()

    zero = {"stage": 2, "overlap_comm": True, "contiguous_gradients": True}
    auto = dict.fromkeys(
        ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"),
        "auto",
    )
    arguments = TrainingArguments(
        output_dir=os.environ["BENCHMARK_FOLDER"],
        deepspeed={"bf16": {"enabled": True}, "zero_optimization": zero, "zero_allow_untested_optimizer": True, **auto},
        per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=ACCUMULATION,
        max_steps=steps,
        learning_rate=settings.lr,
        weight_decay=settings.weight_decay,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=settings.checkpoint_layers == "all",
        optim="adamw_torch",
        max_grad_norm=settings.clip,
        save_strategy="no",
        report_to="none",
        logging_steps=10**6,
        disable_tqdm=True,
    )
    model = LlamaForCausalLM._from_config(
        LlamaConfig.from_dict(dict(config)), dtype=torch.bfloat16, attn_implementation=settings.attention
    )
    Trainer(model=model, args=arguments, train_dataset=Rows(), callbacks=[Mark()]).train()


def litgpt_loop(config: dict[str, Any], settings: train.Settings, steps: int, clock: Clock, *, compiled: bool) -> None:
    """litgpt's model and its `fit`, with the precision that it takes by default: fp32 weights under bf16 autocast."""
    import torch

    lightning, litgpt, pretrain, arguments = map(
        importlib.import_module, ("lightning", "litgpt", "litgpt.pretrain", "litgpt.args")
    )
    shape = train.read_shape(config)

    def batches() -> Iterator[Any]:
        for number in range(steps * ACCUMULATION + 1):  # the last is asked for when the last step is done
            if number and number % ACCUMULATION == 0:
                clock.mark()
            batch = random_batch(shape, settings.micro_batch, settings.seq_len, number)
            yield torch.cat([batch.input_ids, batch.labels[:, -1:]], dim=1).to(fabric.device)

    fabric = lightning.Fabric(devices=1, precision="bf16-mixed", accelerator="cuda" if clock.cuda else "cpu")
    with fabric.init_module(empty_init=True):
        model = litgpt.GPT(
            litgpt.Config(
                block_size=settings.seq_len,
                padded_vocab_size=shape.vocab,
                n_layer=shape.layers,
                n_head=shape.heads,
                n_query_groups=shape.heads * shape.kv // shape.attention,
                n_embd=shape.hidden,
                intermediate_size=shape.feed_forward,
                norm_class_name="RMSNorm",
                mlp_class_name="LLaMAMLP",
                parallel_residual=False,
                rotary_percentage=1.0,
                bias=False,
            )
        )
    pretrain.initialize_weights(fabric, model, n_layer=shape.layers, n_embd=shape.hidden)
    if sum(p.numel() for p in model.parameters()) != train.count_parameters(shape):
        raise AssertionError("litgpt's model has another size")
    model = fabric.setup(torch.compile(model) if compiled else model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, fused=True)
    with contextlib.redirect_stdout(sys.stderr):
        pretrain.fit(
            fabric=fabric,
            devices=1,
            state={"model": model, "optimizer": fabric.setup_optimizers(optimizer), "iter_num": 0, "step_count": 0},
            train_dataloader=batches(),
            val_dataloader=[next(batches())],
            out_dir=Path(os.environ["BENCHMARK_FOLDER"]),
            tokenizer_dir=None,
            train=arguments.TrainArgs(
                save_interval=None,
                global_batch_size=settings.micro_batch * ACCUMULATION,
                micro_batch_size=settings.micro_batch,
                max_tokens=steps * ACCUMULATION * settings.micro_batch * settings.seq_len,
                max_norm=settings.clip,
            ),
            eval=arguments.EvalArgs(interval=10**9, final_validation=False),
        )


def work(
    mode: str, config: dict[str, Any], seq_len: int, micro_batch: int, steps: int, profile: bool
) -> dict[str, float]:
    """One rank of one mode: seconds per step, and on a GPU the peak memory."""
    import torch

    checked = mode in ("ours-checkpointed", "trainer")
    settings = train.Settings(
        seq_len=seq_len,
        micro_batch=micro_batch,
        checkpoint_layers="all" if checked else "0",
        compile=mode == "ours-compiled",
    )
    ranks = train.read_ranks()
    device = train.join_ranks(ranks)
    clock = Clock(device)
    if mode == "plain":
        plain_loop(config, settings, steps, clock, device)
    elif mode.startswith("trainer"):
        trainer_loop(config, settings, steps, clock)
    elif mode.startswith("litgpt"):
        litgpt_loop(config, settings, steps, clock, compiled=mode == "litgpt")
    else:
        step = our_loop(config, settings, steps, clock, ranks, device)
        if profile:
            with torch.profiler.profile() as profiler:
                step()
            key = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
            print(profiler.key_averages().table(sort_by=key, row_limit=20), file=sys.stderr)
    memory_gb = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0
    return {"seconds": clock.per_step, "memory_gb": memory_gb}


def start(mode: str, args: Any, folder: Path) -> list[dict[str, float]]:
    """All ranks of a mode, each in its own process with one thread; what each measured."""
    world = MODES[mode][0]
    words = [
        sys.executable,
        __file__,
        "--work",
        mode,
        "--steps",
        str(args.steps),
        *(["--profile"] if args.profile else []),
    ]
    words += ["--micro-batch", str(args.micro_batch), "--seq-len", str(args.seq_len)]
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29655",
        "WORLD_SIZE": str(world),
    }
    env["BENCHMARK_FOLDER"] = str(folder)
    processes = [
        subprocess.Popen(
            words, env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in range(world)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise UserError(f"{mode} failed; its messages stand above")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def is_installed(mode: str) -> bool:
    package = PACKAGES.get(mode.split("-")[0])
    return package is None or importlib.util.find_spec(package) is not None


def main(argv: Sequence[str] | None = None) -> int:
    import torch

    on_gpu = torch.cuda.is_available()
    parser = Parser(prog="train_throughput.py", description=__doc__)
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES), help="default: all of them")
    parser.add_argument("--steps", type=int, default=8, help="of a mode in a round; the fastest counts (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="the modes take turns so often (default 3)")
    parser.add_argument(
        "--micro-batch", type=int, default=32 if on_gpu else 4, help="sequences at once (default 32 on a GPU, else 4)"
    )
    parser.add_argument(
        "--seq-len",
        type=int,
        default=768 if on_gpu else 256,
        help="tokens in a sequence (default 768 on a GPU, else 256)",
    )
    parser.add_argument(
        "--profile", action="store_true", help="print the 20 costliest operations of our step on stderr"
    )
    parser.add_argument("--work", choices=list(MODES), help="be one rank of a mode, print its figures")
    args = parser.parse_args(argv)
    config = train.read_config(train.ROOT / "config.json") if on_gpu else SMALL
    if args.work:
        print(json.dumps(work(args.work, config, args.seq_len, args.micro_batch, args.steps, args.profile)))
        return EXIT_DONE
    shape = train.read_shape(config)
    card = train.find_card(torch.cuda.get_device_name()) if on_gpu else None
    print(
        f"{train.count_parameters(shape):,} parameters, {args.micro_batch} x {args.seq_len} tokens at once, {ACCUMULATION} accumulated",
        flush=True,
    )
    print(
        "no GPU was found: tokens per CPU second; on a GPU the same command measures the published model"
        if not on_gpu
        else card,
        flush=True,
    )
    rates: dict[str, list[float]] = {mode: [] for mode in args.modes if is_installed(mode)}
    memory_gb: dict[str, float] = dict.fromkeys(rates, 0.0)
    for _ in range(args.rounds):
        for mode in rates:
            with tempfile.TemporaryDirectory() as folder:
                measured = start(mode, args, Path(folder))
            seconds = [m["seconds"] for m in measured]
            tokens = len(measured) * args.micro_batch * args.seq_len * ACCUMULATION
            rates[mode].append(tokens / (max(seconds) if on_gpu else sum(seconds)))
            memory_gb[mode] = max([memory_gb[mode], *(m["memory_gb"] for m in measured)])
    first = next(iter(rates.values()))
    for mode in args.modes:
        world, words = MODES[mode]
        if mode not in rates:
            print(f"{words:84} not measured: pip install {PACKAGES[mode.split('-')[0]]}")
            continue
        ratio = statistics.median(mine / its for mine, its in zip(rates[mode], first, strict=True))
        line = f"{words:84} {max(rates[mode]):9,.0f} tokens/s  {ratio:5.2f} x the first"
        if on_gpu:
            flops = max(rates[mode]) / world * train.flops_per_token(shape, args.seq_len)
            line += f"  MFU {flops / card.peak:.1%}" if card else ""
            line += f"  {memory_gb[mode]:.1f} GB"
        print(line, flush=True)
    return EXIT_DONE


if __name__ == "__main__":
    run(main)
