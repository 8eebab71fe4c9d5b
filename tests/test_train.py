"""train.py without ranks: settings, arithmetic, schedule, data order, loss, guards, checkpoint files."""

import dataclasses
import json
import math
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train
from benchmarks.activation_memory import Case, kept_bytes, planned_bytes
from data_prep.cli import UserError

from .conftest import ROOT, run_command

PUBLISHED = train.read_shape(train.read_config(ROOT / "config.json"))


def settings(**changes: Any) -> train.Settings:
    return dataclasses.replace(train.Settings(), **changes)


# --- the plan, against hand computation ---


def test_published_arithmetic() -> None:
    assert train.count_parameters(PUBLISHED) == 1_633_781_760
    batches = train.share_out(settings(), 2)
    assert batches == (2048, 32, 32)
    assert batches.global_batch * 768 == 1_572_864
    assert math.ceil(52.18e9 / 1_572_864) == 33_176
    assert train.flops_per_token(PUBLISHED, 768) == pytest.approx(9.00e9, rel=0.001)
    assert train.flops_per_token(PUBLISHED, 768, causal=True) == pytest.approx(8.770e9, rel=0.001)
    assert 1 + train.recomputed_frac(PUBLISHED, 768, 24) == pytest.approx(1.287, abs=0.001)


def test_parameters_are_those_of_transformers() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    for tied, kv_heads in ((False, 2), (True, 4)):
        config = {
            "hidden_size": 32,
            "intermediate_size": 80,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "vocab_size": 100,
        }
        config |= {"num_key_value_heads": kv_heads, "tie_word_embeddings": tied}
        model = LlamaForCausalLM(LlamaConfig(**config))
        assert train.count_parameters(train.read_shape(config)) == sum(p.numel() for p in model.parameters())


def test_plan_is_printed_without_a_gpu_or_data(tmp_path: Path) -> None:
    done = run_command("train.py", "--plan", "--dataset", tmp_path)
    assert done.returncode == 0, done.stderr
    for figure in (
        "1,633,781,760 parameters",
        "9.00 GFLOP",
        "= 1,572,864 tokens per step",
        "33,176 steps x 1,572,864",
        "836 GPU-hours",
        "22.9 GB",
    ):
        assert figure in done.stdout
    assert "20 x 1.634 billion = 32.7 billion" in done.stdout
    h100 = run_command(
        "train.py", "--plan", "--dataset", tmp_path, "--gpus", "8", "--card", "h100", "--mfu", "0.6"
    ).stdout
    assert "8 GPUs x 32 sequences x 768 tokens x 8 accumulation = 1,572,864" in h100
    assert "220 GPU-hours" in h100


def test_memory_of_zero_stages() -> None:
    """By hand, on 2 GPUs in 10^9 bytes: ZeRO-2 with fp32 gradients is (2 + 4/2 + 12/2) x 1.634 = 16.34, ZeRO-1 (2 + 6
    + 6) x 1.634 = 22.87.
    """
    states = {}
    for stage in (1, 2):
        memory = train.plan_memory(PUBLISHED, gpus=2, stage=stage, micro_batch=1, seq_len=768, checkpointed=0)
        states[stage] = (memory.weights + memory.gradients + memory.optimizer) / 1e9
    assert states == {1: pytest.approx(22.87, abs=0.01), 2: pytest.approx(16.34, abs=0.01)}
    loss_gb = train.loss_bytes(PUBLISHED) / 1e9
    assert loss_gb < 1.4


@pytest.mark.parametrize(
    "case",
    [
        Case(256, 688, 4, 4, 128, checkpointed=0),
        Case(256, 688, 4, 2, 128, checkpointed=1),
        Case(512, 1376, 8, 8, 128, checkpointed=2),
        Case(256, 688, 4, 2, 128, checkpointed=0, compiled=True),
    ],
)
def test_activation_bytes_are_those_measured(case: Case) -> None:
    """Within 2%: bytes of the distinct tensors that autograd keeps, weights and the head's gradient not counted."""
    assert planned_bytes(case) == pytest.approx(kept_bytes(case), rel=0.02)


def test_auto_plan() -> None:
    """Larger cards checkpoint less; the global batch is never changed; compilation lets 32 sequences fit 80 GB without any
    checkpointing.
    """

    def choose(memory_gb: float, compiled: bool = True, gpus: int = 2) -> train.Choice | None:
        return train.choose_plan(
            PUBLISHED, memory_bytes=memory_gb * 1e9, gpus=gpus, global_batch=2048, seq_len=768, compiled=compiled
        )

    large = choose(80)
    assert large is not None
    assert (large.micro_batch, large.checkpointed) == (32, 0)
    small = choose(24)
    assert small is not None
    assert small.checkpointed > 0
    for choice, room in ((large, 80), (small, 24)):
        assert choice.memory.total <= room * 1e9
        assert 2048 % (choice.micro_batch * 2) == 0
    assert choose(12) is None
    alone = choose(80, gpus=1)
    assert alone is not None
    assert alone.stage == 2


def test_a_card_that_is_too_small_is_refused_with_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def refusal(memory_gb: float, **changes: Any) -> str:
        monkeypatch.setattr(train, "device_bytes", lambda ranks, device: memory_gb * 1e9)
        with pytest.raises(UserError) as caught:
            train.fit_card(settings(**changes), run, train.Ranks(0, 0, 2), torch.device("cuda"))
        return str(caught.value)

    run: Any = types.SimpleNamespace(  # what fit_card asks of a Run, which needs data
        shape=PUBLISHED, batches=train.share_out(settings(), 2), deepspeed={"zero_optimization": {"stage": 2}}
    )
    assert refusal(24, checkpoint_layers="0") == (
        "a GPU has 24.0 GB, 32 sequences at once need about 80.3 GB; --micro-batch 8 --checkpoint-layers 23 fit with ZeRO-2"
    )
    assert refusal(12) == "a GPU has 12.0 GB, 32 sequences at once need about 28.0 GB; take a larger card, or more"
    assert refusal(12, checkpoint_layers="auto") == (
        "a GPU has 12.0 GB, too little for one sequence at once; take a larger card, or more"
    )


def test_cards_are_found_by_their_names() -> None:
    for name, peak in (
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989.4),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ):
        card = train.find_card(name)
        assert card is not None
        assert card.peak_tflops == peak, name
    assert train.find_card("NVIDIA A100-SXM4-40GB") == train.CARDS["a100sxm440gb"]
    assert train.find_card("Radeon") is None


# --- batches, rows, schedule ---


def test_share_out_keeps_the_published_batch_on_any_number_of_gpus() -> None:
    assert [train.share_out(settings(), world).accumulation for world in (1, 2, 8, 64)] == [64, 32, 8, 1]
    assert train.share_out(settings(micro_batch=8, accumulation=8), 1) == (64, 8, 8)
    resumed = train.share_out(settings(micro_batch=4, accumulation=2), 1, resumed_batch=16)
    assert resumed == (16, 4, 4)


@pytest.mark.parametrize(
    ("changes", "world", "words"),
    [
        (
            {"global_batch": 100},
            2,
            "100 sequences per step are no multiple of 32 sequences x 2 GPUs; --micro-batch 25 would do",
        ),
        (
            {"global_batch": 64, "accumulation": 3},
            1,
            "32 sequences x 1 GPUs x 3 accumulation = 96 sequences per step, but --global-batch says 64",
        ),
        ({"global_batch": 7}, 2, "take a number of GPUs that divides 7"),
    ],
)
def test_batches_that_do_not_multiply(changes: dict[str, Any], world: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        train.share_out(settings(**changes), world)


def test_ranks_share_the_rows_of_a_step() -> None:
    """Whatever the number of ranks, a step owns the same rows, each once."""
    for world in (1, 2, 4):
        batches = train.share_out(settings(global_batch=16, micro_batch=2), world)
        micro_batches = [
            train.rows_of(3, micro, train.Ranks(rank, rank, world), batches)
            for rank in range(world)
            for micro in range(batches.accumulation)
        ]
        assert sorted(row for rows in micro_batches for row in rows) == list(range(48, 64))


def test_rows_read_twice_are_noticed() -> None:
    train.assert_disjoint([[0.0, 8.0], [4.0, 12.0]], micro_batch=4)
    with pytest.raises(AssertionError, match="the same rows"):
        train.assert_disjoint([[0.0, 8.0], [0.0, 8.0]], micro_batch=4)
    with pytest.raises(AssertionError, match="the same rows"):
        train.assert_disjoint([[0.0], [3.0]], micro_batch=4)


def test_prefetcher_gives_rows_in_order_and_passes_errors_on() -> None:
    class Rows:
        def rows(self, indices: range) -> tuple[Any, Any, Any]:
            if indices.start == 4:
                raise OSError("disk gone")
            return (np.array(indices),) * 3

    prefetch = train.Prefetcher(Rows(), iter([range(0, 2), range(2, 4), range(4, 6)]))
    assert [prefetch.next().rows.start for _ in range(2)] == [0, 2]
    with pytest.raises(OSError, match="disk gone"):
        prefetch.next()
    prefetch.close()


def test_learning_rate() -> None:
    published = settings()
    rates = [train.learning_rate(step, 33_176, published) for step in (0, 249, 499, 500, 16_838, 33_175)]
    assert rates == pytest.approx([4e-7, 1e-4, 2e-4, 2e-4, 1e-4, 2e-4 / 32_676])
    cosine = settings(schedule="cosine", final_lr_frac=0.1, warmup_steps=0)
    assert [train.learning_rate(step, 100, cosine) for step in (0, 50, 100)] == pytest.approx([2e-4, 1.1e-4, 2e-5])
    assert train.learning_rate(90, 100, settings(schedule="constant", warmup_steps=10)) == 2e-4


# --- the loss ---


def usual_loss(hidden: Any, weight: Any, labels: Any) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(
        (hidden.reshape(-1, hidden.shape[-1]) @ weight.T).float(), labels.reshape(-1)
    )


def loss_and_gradients(loss_of: Any, hidden: Any, weight: Any, labels: Any) -> list[Any]:
    import torch

    leaves = [hidden.detach().clone().requires_grad_(), weight.detach().clone().requires_grad_()]
    loss = loss_of(*leaves, labels)
    return [loss.detach().double(), *(g.double() for g in torch.autograd.grad(loss / 32, leaves))]


@pytest.mark.parametrize("chunk", [7, 64, 1000])
def test_loss_without_logits_is_the_loss(chunk: int) -> None:
    """In fp32, against float64, with labels of -100 and chunks that do not divide the rows."""
    import torch

    torch.manual_seed(0)
    hidden, weight = torch.randn(3, 50, 32), torch.randn(300, 32) / 4
    labels = torch.randint(300, (3, 50))
    labels[0, :9] = train.NEVER_LABEL
    exact = loss_and_gradients(usual_loss_float64, hidden.double(), weight.double(), labels)
    ours = loss_and_gradients(lambda h, w, y: train.linear_cross_entropy(h, w, y, chunk), hidden, weight, labels)
    for mine, true in zip(ours, exact, strict=True):
        assert float((mine - true).norm() / true.norm()) < 2e-6


def usual_loss_float64(hidden: Any, weight: Any, labels: Any) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(hidden.reshape(-1, hidden.shape[-1]) @ weight.T, labels.reshape(-1))


def test_loss_in_bf16_is_as_exact_as_the_usual_one() -> None:
    """bf16 rounds logits and gradients in both; ours may not be worse. Its loss is fp32, where a bf16 loss would be
    off by 0.1.
    """
    import torch

    torch.manual_seed(0)
    hidden, weight = torch.randn(1024, 64).bfloat16(), (torch.randn(2000, 64) / 4).bfloat16()
    labels = torch.randint(2000, (1024,))
    exact = loss_and_gradients(usual_loss_float64, hidden.double(), weight.double(), labels)
    errors = {}
    for name, loss_of in (("usual", usual_loss), ("ours", lambda h, w, y: train.linear_cross_entropy(h, w, y, 128))):
        errors[name] = [
            float((a - b).norm() / b.norm())
            for a, b in zip(loss_and_gradients(loss_of, hidden, weight, labels), exact, strict=True)
        ]
    assert errors["ours"][0] < 1e-4
    for mine, usual in zip(errors["ours"][1:], errors["usual"][1:], strict=True):
        assert mine < 1.3 * usual


def test_loss_memory_is_what_the_plan_says_and_does_not_grow_with_the_micro_batch() -> None:
    """Beside what comes in and goes out by row, it takes loss_bytes: 1.26 GB for the published model."""
    import torch

    from benchmarks.loss_memory import tensor_bytes

    shape = PUBLISHED._replace(vocab=4096, hidden=64)
    beside_rows = []
    for rows in (512, 4096):
        hidden, weight = (torch.randn(n, 64).bfloat16().requires_grad_() for n in (rows, 4096))
        labels = torch.zeros(rows, dtype=torch.int64)
        most = tensor_bytes(lambda: train.linear_cross_entropy(hidden, weight, labels).backward())  # noqa: B023 (used at once)
        beside_rows.append(most - rows * (2 * 64 + 32))
    assert beside_rows[1] == pytest.approx(beside_rows[0], rel=0.02)
    assert 0.5 * train.loss_bytes(shape) < beside_rows[1] <= train.loss_bytes(shape)
    assert train.loss_bytes(PUBLISHED) < 1.4e9


def test_liger_is_asked_for_by_name() -> None:
    import torch

    assert train.choose_loss("auto", 64, torch.device("cpu")) is train.linear_cross_entropy
    try:
        import liger_kernel  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="pip install liger-kernel"):
            train.choose_loss("liger", 64, torch.device("cpu"))


def test_documents_do_not_see_each_other() -> None:
    """With position_ids that begin again at a document, its losses are those of the document alone."""
    import torch

    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 50,
    }
    model = train.build_model(config, settings(document_attention=True), torch.device("cpu")).float().eval()
    ids = torch.randint(50, (1, 24))
    positions = torch.cat([torch.arange(10), torch.arange(14)])[None]
    with torch.no_grad():
        together = model.llama.model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[:, 10:]
        alone = model.llama.model(input_ids=ids[:, 10:], use_cache=False).last_hidden_state
        mixed = model.llama.model(input_ids=ids, use_cache=False).last_hidden_state[:, 10:]
    assert float((together - alone).abs().max()) < 1e-5
    assert float((mixed - alone).abs().max()) > 1e-2


def test_norms_are_not_decayed() -> None:
    import torch

    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 50,
    }
    model = train.build_model(config, settings(), torch.device("cpu"))
    decayed, gains = train.build_optimizer(model, settings()).param_groups
    assert (decayed["weight_decay"], gains["weight_decay"]) == (0.1, 0.0)
    assert len(gains["params"]) == 2 * 2 + 1
    assert len(decayed["params"]) == 2 * 7 + 2
    assert decayed["betas"] == (0.9, 0.999)


# --- guards, metrics, checkpoint files ---


def test_guard_calls_six_sigma_an_outlier_only_when_its_window_is_full() -> None:
    guard = train.Guard()
    for number in range(train.GUARD_WINDOW):
        assert not guard.is_outlier(loss=1000.0)
        guard.add(loss=3.0 + 0.1 * (number % 2), grad_norm=1.0 + 0.1 * (number % 2))
    assert not guard.is_outlier(loss=3.3)
    assert guard.is_outlier(loss=3.4)
    assert guard.is_outlier(loss=3.0, grad_norm=1.4)
    assert not guard.is_outlier(loss=0.1)  # a low loss is no harm
    again = train.Guard(json.loads(json.dumps(guard.state())))
    assert again.is_outlier(loss=3.4)
    assert not again.is_outlier(loss=3.3)


def test_metrics_cut_short_by_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1}\n{"kind": "train", "st')
    assert train.read_metrics(path) == [{"kind": "train", "step": 1}]
    assert train.read_metrics(tmp_path / "absent") == []


class PlainEngine:
    """Stands where DeepSpeed's own checkpoint engine does; the writer asks it for nothing here."""


def write_checkpoint(writer: train.CheckpointWriter, step: int, *, best: bool = False) -> str | None:
    import torch

    folder = writer.folder / (train.checkpoint_name(step) + ".partial")
    folder.mkdir(parents=True)
    writer.save({"weights": torch.full((1000,), float(step)), "nested": [{"step": step}]}, str(folder / "state.pt"))
    writer.finish(step, {"frozen": {}}, best)
    return writer.wait()


def test_checkpoints_are_whole_or_absent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Written, hashed, renamed; each kind of damage to the newest is noticed, and the one before is taken."""
    import torch

    writer = train.CheckpointWriter(tmp_path, 0, 1, 9, PlainEngine())
    for step in range(1, 6):
        assert write_checkpoint(writer, step) is None
    assert not list(tmp_path.glob("*.partial"))
    assert (tmp_path / "latest").read_text() == "step00000005"
    newest = train.newest_checkpoint(tmp_path)
    assert newest == tmp_path / "step00000005"
    assert float(torch.load(newest / "state.pt")["weights"][0]) == 5.0

    state = tmp_path / "step00000005" / "state.pt"
    state.write_bytes(state.read_bytes()[:-1] + b"x")  # one byte altered
    state = tmp_path / "step00000004" / "state.pt"
    state.write_bytes(state.read_bytes()[:-1])  # cut short
    (tmp_path / "step00000003" / "state.pt").unlink()
    (tmp_path / "step00000002" / "manifest.json").write_text("{")
    assert train.newest_checkpoint(tmp_path) == tmp_path / "step00000001"
    said = capsys.readouterr().err
    assert said.count("is damaged") == 4
    assert "state.pt does not have the checksum that was written" in said


def test_checkpoints_are_kept_by_number_and_the_best_besides(tmp_path: Path) -> None:
    writer = train.CheckpointWriter(tmp_path, 0, 1, 2, PlainEngine())
    for step in range(1, 6):
        write_checkpoint(writer, step, best=step == 2)
    assert [path.name for path in train.list_checkpoints(tmp_path)] == [
        "step00000005",
        "step00000004",
        "step00000002",
    ]
    assert (tmp_path / "best").read_text() == "step00000002"


def test_a_full_disk_costs_the_new_checkpoint_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = train.CheckpointWriter(tmp_path, 0, 1, 2, PlainEngine())
    assert write_checkpoint(writer, 1) is None

    def full(path: Path, state: Any) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "write_file", full)
    assert write_checkpoint(writer, 2) == "No space left on device"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["step00000001"]
    assert train.newest_checkpoint(tmp_path) == tmp_path / "step00000001"
    monkeypatch.undo()
    assert write_checkpoint(writer, 2) is None


def test_the_copy_in_host_memory_is_a_copy(tmp_path: Path) -> None:
    """Training goes on while the thread writes: what it writes is the state at the time of `save`."""
    import torch

    writer = train.CheckpointWriter(tmp_path, 0, 1, 2, PlainEngine())
    weights = torch.zeros(10)
    (tmp_path / "step00000001.partial").mkdir()
    writer.save({"w": weights}, str(tmp_path / "step00000001.partial" / "state.pt"))
    weights += 1
    writer.finish(1, {"frozen": {}}, best=False)
    assert writer.wait() is None
    assert float(torch.load(tmp_path / "step00000001" / "state.pt")["w"].sum()) == 0.0
