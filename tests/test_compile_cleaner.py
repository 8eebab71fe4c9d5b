"""The compiled cleaner: the same text and explanations as the interpreted one, and never one made from other sources."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SAMPLE

ROOT = Path(__file__).resolve().parent.parent
CLEAN = """
import json, random, sys
from pathlib import Path
import data_prep, data_prep.latex_prose
from data_prep.extraction import Eprint, Extracted, extract_source, iter_eprints
from data_prep.latex_cleaner import Cleaned, clean_latex

sources = ["\\n\\n".join(path.read_text("utf-8") for path in sorted(Path(sys.argv[1]).glob("*.md")))]
results = []
for eprint in iter_eprints([Path(sys.argv[2])]):
    extracted = extract_source(eprint.data, eprint.name) if isinstance(eprint, Eprint) else eprint
    results.append(repr(extracted))
    if isinstance(extracted, Extracted):
        sources.append(extracted.source)
chance = random.Random(5)
marks = ("{", "}", "$", "$$", "\\\\[", "\\\\]", "\\\\", "\\n\\n", "%", "\\\\begin{", "\\\\end{", "[", "]", "\\\\if", "\\\\fi", "\\\\else", "\\t", "  ", "~", "''",
    "\\\\item ", "\\\\begin{proof}[", "\\\\label{", "\\\\def\\\\x", "\\\\newcommand{\\\\y}[1]{", "^{\\\\cite{", "\\u2003", "\\x0b")
for _ in range(1_500):  # damaged pieces
    source = chance.choice(sources)
    begin = chance.randrange(len(source))
    piece = source[begin : begin + chance.randrange(100, 4_000)]
    for _ in range(chance.randrange(8)):
        place = chance.randrange(len(piece) + 1)
        piece = piece[:place] + chance.choice(marks) + piece[place + chance.choice((0, 0, 1, 20)) :]
    told = []
    results.append([repr(clean_latex(piece, explain=told)), told])
for source in sources:
    for keep_captions in (False, True):
        told = []
        results.append([repr(clean_latex(source, keep_captions=keep_captions, explain=told)), told])
        results.append(repr(clean_latex(source, keep_captions=keep_captions)))
print(json.dumps([data_prep.cleaner_form, data_prep.latex_prose.__file__, results]))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of data_prep with a compiled cleaner: made without optimisation, which takes half the time."""
    pytest.importorskip("mypyc", reason="mypyc compiles the cleaner: pip install -r requirements.txt")
    pytest.importorskip("setuptools", reason="mypyc needs setuptools")
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("no C compiler here")
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "data_prep", folder / "data_prep", ignore=shutil.ignore_patterns("compiled", "__pycache__"))
    done = subprocess.run(
        [sys.executable, "data_prep/compile_cleaner.py"],
        cwd=folder,
        env={**os.environ, "MYPYC_OPT_LEVEL": "0", "MYPYC_DEBUG_LEVEL": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def cleaned(package: Path, **environment: str) -> tuple[str, str, list[object]]:
    """(form of the cleaner, file of a module, results) of cleaning the manual and the sample in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CLEAN, str(ROOT / "tests" / "cases"), str(SAMPLE / "sources")],
        cwd=package,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    form, file, results = json.loads(done.stdout)
    return form, file, results


def test_compiled_and_interpreted_write_the_same(package: Path) -> None:
    form, file, results = cleaned(package)
    assert form == "compiled"
    assert Path(file).parent == package / "data_prep" / "compiled" / "data_prep"
    form, file, expected = cleaned(package, INTERPRETED_CLEANER="1")
    assert form == "interpreted"
    assert Path(file) == package / "data_prep" / "latex_prose.py"
    assert results == expected
    assert len(results) > 20


def test_what_was_compiled_from_other_sources_is_not_used(package: Path) -> None:
    source = package / "data_prep" / "latex_prose.py"
    text = source.read_text("utf-8")
    try:
        source.write_text(text + "\n# changed since\n", "utf-8")
        form, file, _ = cleaned(package)
    finally:
        source.write_text(text, "utf-8")
    assert form.startswith("interpreted (")
    assert Path(file) == source


def test_a_scanner_that_does_not_compile_is_one_line(package: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(package / "data_prep", broken / "data_prep", ignore=shutil.ignore_patterns("compiled"))
    with (broken / "data_prep" / "latex_source.py").open("a") as file:
        file.write("\nnumber: int = 'no number'\n")
    done = subprocess.run(
        [sys.executable, "data_prep/compile_cleaner.py"], cwd=broken, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not (broken / "data_prep" / "compiled").exists()
    assert [path.name for path in (broken / "data_prep").glob(".compile-*")] == []
