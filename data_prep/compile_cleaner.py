"""Compile what reads and cleans LaTeX to machine code: the same text, at twice the speed.

In: the modules of this folder that data_prep/__init__.py lists. Out: compiled/ beside them, which every script uses from then on; a change to one of the
modules makes it useless until this is run again, never wrong. Needs mypy (its mypyc compiles) and a C compiler.

    python data_prep/compile_cleaner.py
    python data_prep/compile_cleaner.py --remove

INTERPRETED_CLEANER=1 in the environment makes a script use the Python files all the same.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

from data_prep import COMPILED, FOLDER, TO_COMPILE, source_fingerprint
from data_prep.cli import Parser, UserError, run


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--remove", action="store_true", help="go back to the interpreted modules")
    if parser.parse_args(argv).remove:
        shutil.rmtree(COMPILED, ignore_errors=True)
        return 0
    for module in ("mypyc", "setuptools"):
        if importlib.util.find_spec(module) is None:
            raise UserError(f"{module} is missing: pip install -r requirements.txt")
    compile_to(COMPILED)
    print(f"compiled {', '.join(TO_COMPILE)}", file=sys.stderr)
    return 0


def compile_to(target: Path) -> None:
    """Write compiled modules and their manifest to the folder `target`; what was there before goes only when they are whole."""
    fingerprint = (
        source_fingerprint()
    )  # before the compiler reads them: what changes meanwhile makes the result useless
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".compile-") as name:
        folder = Path(name)
        (folder / "data_prep").mkdir()
        for source in FOLDER.glob("*.py"):
            shutil.copy(source, folder / "data_prep")
        files = [f"data_prep/{module}.py" for module in TO_COMPILE]
        options = ["--ignore-missing-imports", "--follow-imports=silent"]
        done = subprocess.run(
            [sys.executable, "-m", "mypyc", *options, *files], cwd=folder, capture_output=True, text=True, check=False
        )
        made = [
            *folder.glob("*.so"),
            *folder.glob("data_prep/*.so"),
            *folder.glob("*.pyd"),
            *folder.glob("data_prep/*.pyd"),
        ]
        if done.returncode or len(made) <= len(TO_COMPILE):
            last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
            raise UserError(f"mypyc could not compile ({' '.join(last)}); is a C compiler installed?")
        result = folder / "compiled"
        for path in made:
            (result / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            path.replace(result / path.relative_to(folder))
        (result / "manifest.json").write_text(json.dumps(fingerprint, indent=2) + "\n")
        shutil.rmtree(target, ignore_errors=True)
        result.replace(target)


if __name__ == "__main__":
    run(main)
