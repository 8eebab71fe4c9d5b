"""What the tests share: where the repository is, where real material lies, and how a command is run as a user would."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "dataset_train_val" / "sample"
SHARED = ROOT.parent / "shared"  # real e-prints, absent in a plain checkout


def need_shared(*parts: str) -> Path:
    """A path of the real material, or a skip with its reason where the checkout has none beside it."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"real material {path.relative_to(ROOT.parent)} is not beside this checkout")
    return path


def run_command(*command: str | Path, timeout_s: float = 120, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run `python COMMAND...` from the repository root and return what it printed and its exit code."""
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, **options)  # type: ignore[call-overload,no-any-return]
