"""README tells the truth: every path in it exists, every flag in it is known to the command it stands with."""

import functools
import re
import shlex

import pytest

from .conftest import ROOT, run_command

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, re.S | re.M)
COMMANDS = [line.strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line.strip()]
# what the commands of the README make, or what the reader brings
OUTPUTS = (
    "dataset_train_val/",
    "tokenizer",
    "runs/",
    "flat.jsonl",
    "clean.jsonl",
    "paper.tex",
    "report.html",
    "arxiv/",
)


def python_commands() -> list[list[str]]:
    """[script, its words...] of every command that runs a script of ours."""
    found = []
    for command in COMMANDS:
        words = shlex.split(command, comments=True)
        scripts = [i for i, word in enumerate(words) if word.endswith(".py")]
        if scripts and words[0] in ("python", "deepspeed"):
            found.append(words[scripts[0] :])
    return found


@functools.cache
def help_text(script: str) -> str:
    done = run_command(script, "--help")
    assert done.returncode == 0, done.stderr
    return done.stdout


def known_flags(words: list[str]) -> set[str]:
    text = help_text(words[0])
    if len(words) > 1 and re.fullmatch(r"[a-z][a-z-]+", words[1]) and re.search(rf"\b{words[1]}\b", text):
        done = run_command(words[0], words[1], "--help")
        text += done.stdout
    return set(re.findall(r"--[a-z][a-z0-9-]*", text))


def test_readme_shows_commands() -> None:
    assert "make demo" in COMMANDS
    assert "make test" in COMMANDS
    assert len(python_commands()) >= 6


@pytest.mark.parametrize("words", python_commands(), ids=lambda words: " ".join(words)[:60])
def test_every_flag_exists(words: list[str]) -> None:
    assert (ROOT / words[0]).is_file(), f"{words[0]} is not in the repository"
    flags = {word.split("=")[0] for word in words if word.startswith("--")}
    assert flags <= known_flags(words), f"unknown flags in README: {words}"


def test_every_path_exists() -> None:
    named = set(re.findall(r"`([\w./-]+/[\w./-]*|[\w-]+\.(?:py|json|md|sh|txt|toml|svg))`", README))
    named |= set(re.findall(r"\]\(((?!http|#)[^)]+)\)", README)) | set(re.findall(r'src="([^"]+)"', README))
    missing = {
        p
        for p in named
        if not p.startswith(OUTPUTS) and not (ROOT / p).exists() and not (ROOT / "data_prep" / p).exists()
    }
    assert named
    assert missing - set(OUTPUTS) == set()
