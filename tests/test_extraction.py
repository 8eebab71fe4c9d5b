"""Extraction: cases that read as its manual, archives of every form, damaged and hostile ones, and the real set.

The cases stand in tests/cases/extraction/*.md: a heading, the files of an archive (fences `file NAME [encoding] [crlf|cr]
[repeat=N]`), and what comes of them (fences `source`, `main`, `warnings`, `reject REASON`).
"""

import gzip
import io
import json
import random
import re
import resource
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from data_prep import archives
from data_prep.archives import MAX_ARCHIVE_BYTES, BrokenSource, Eprint, decode, member_name, sniff
from data_prep.extraction import Extracted, extract_source, iter_eprints, main
from data_prep.records import Rejection
from tests.conftest import ROOT, need_shared, run_command

CASES = Path(__file__).parent / "cases" / "extraction"
MAX_SECONDS, MAX_GROWTH_MB = 2.0, 400  # the limits for one e-print, whatever it holds
PAPER = "\\documentclass{article}\n\\begin{document}\n" + "A sentence of the paper.\n" * 200 + "\\end{document}\n"


# --- cases -------------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    name: str
    files: dict[str, bytes] = field(default_factory=dict)
    expected: dict[str, str] = field(default_factory=dict)
    reason: str | None = None


FENCE = re.compile(r"(?ms)^```(\w+)(?: ([^\n]*))?\n(.*?)^```$")


def load_cases() -> Iterator[Case]:
    """The cases of all files, in order."""
    for path in sorted(CASES.glob("*.md")):
        for section in re.split(r"(?m)^## ", path.read_text())[1:]:
            heading, _, body = section.partition("\n")
            case = Case(f"{path.stem}: {heading}")
            for kind, info, text in FENCE.findall(body):
                if kind == "file":
                    name, data = stored_file(info, text)
                    case.files[name] = data
                else:
                    case.expected[kind] = text
                    case.reason = info if kind == "reject" else case.reason
            yield case


def stored_file(info: str, text: str) -> tuple[str, bytes]:
    """'my file.tex latin-1 crlf' and its text -> its name and bytes."""
    named = re.fullmatch(
        r"(.*?)(?: (utf\S*|latin\S*|cp\d+|mac\S*|iso\S*|koi\S*))?(?: (crlf|cr))?(?: repeat=(\d+))?", info
    )
    assert named is not None
    name, encoding, newline, repeat = named.groups()
    text = text * int(repeat or 1) if text.strip() else ""
    return name, text.replace("\n", {"crlf": "\r\n", "cr": "\r"}.get(newline, "\n")).encode(encoding or "utf-8")


ALL_CASES = list(load_cases())


def test_cases_are_found() -> None:
    assert len(ALL_CASES) > 45
    assert all(case.files and case.expected for case in ALL_CASES)


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
def test_case(case: Case) -> None:
    result = extract_source(tar_of(case.files), "1234.56789.tar")
    if case.reason is not None:
        assert result == Rejection(case.reason, case.expected["reject"].strip())
        return
    assert isinstance(result, Extracted), result
    if "main" in case.expected:
        assert result.main == case.expected["main"].strip()
    if "source" in case.expected:
        assert result.source == case.expected["source"]
    if "source" in case.expected or "warnings" in case.expected:
        assert "".join(f"{warning}\n" for warning in result.warnings) == case.expected.get("warnings", "")


# --- containers --------------------------------------------------------------------------------------------------------


def tar_of(files: dict[str, bytes], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    """A plain tar of the files, in their order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def named_gzip(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(name, "wb", fileobj=out, mtime=0) as file:
        file.write(data)
    return out.getvalue()


FILES = {"fig.eps": b"%!PS", "ms.tex": PAPER.encode()}
CONTAINERS: dict[str, tuple[bytes, str]] = {
    "gzip of a tar": (gzip.compress(tar_of(FILES)), "ms.tex"),
    "plain tar named .tar.gz": (tar_of(FILES), "ms.tex"),
    "pax tar": (tar_of({"s" * 120 + "/é.tex": PAPER.encode()}, tarfile.PAX_FORMAT), "s" * 120 + "/é.tex"),
    "gnu tar": (tar_of({"s" * 120 + "/é.tex": PAPER.encode()}, tarfile.GNU_FORMAT), "s" * 120 + "/é.tex"),
    "gzip of one file, named": (named_gzip("9107002.tex", PAPER.encode()), "9107002.tex"),
    "gzip of one file, unnamed": (gzip.compress(PAPER.encode()), "1234.56789.tex"),
    "gzip of gzip": (gzip.compress(gzip.compress(tar_of(FILES))), "ms.tex"),
    "two gzip members": (gzip.compress(tar_of(FILES)[:700]) + gzip.compress(tar_of(FILES)[700:]), "ms.tex"),
    "gzip with bytes behind it": (gzip.compress(tar_of(FILES)) + b"\0" * 100 + b"junk", "ms.tex"),
    "zip": (zip_of(FILES), "ms.tex"),
    "one file as it is": (PAPER.encode(), "1234.56789.tar.gz"),
    "archive in an archive": (
        tar_of({"readme.txt": b"see inside", "src/all.tar.gz": gzip.compress(tar_of(FILES))}),
        "src/ms.tex",
    ),
    "packed file in an archive": (tar_of({"ms.tex.gz": gzip.compress(PAPER.encode())}), "ms.tex"),
}


@pytest.mark.parametrize("form", CONTAINERS)
def test_container(form: str) -> None:
    data, main_name = CONTAINERS[form]
    result = extract_source(data, "1234.56789.tar.gz")
    assert isinstance(result, Extracted), result
    assert (result.source, result.main, result.warnings) == (PAPER, main_name, ())


@pytest.mark.parametrize("inflating", ["zlib", "isal.isal_zlib"])
def test_either_inflating_library_gives_the_same(inflating: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "inflating", pytest.importorskip(inflating))
    data = gzip.compress(tar_of(FILES), mtime=0)
    assert isinstance(extract_source(data, "x.gz"), Extracted)
    assert extract_source(data[:-1] + b"\xff", "x.gz") == Rejection(
        "corrupt-archive", "gzip data is wrong: a bad code or checksum"
    )


@pytest.mark.parametrize("form", [form for form in CONTAINERS if "gzip" in form])
def test_gzip_data_in_small_pieces_gives_the_same(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, main_name = CONTAINERS[form]
    monkeypatch.setattr(archives, "PIECE_BYTES", 7)
    monkeypatch.setattr(archives, "CHUNK_BYTES", 11)
    result = extract_source(data, "1234.56789.tar.gz")
    assert isinstance(result, Extracted), result
    assert (result.source, result.main, result.warnings) == (PAPER, main_name, ())


REASONED: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", "empty-archive"),
    "a tar without members": (tar_of({}), "empty-archive"),
    "NUL bytes": (b"\0" * 5000, "empty-archive"),
    "gzip of NUL bytes": (gzip.compress(b"\0" * 5000), "empty-archive"),
    "a file of NUL bytes": (tar_of({"main.tex": b"\0" * 5000}), "empty-archive"),
    "gzip of nothing": (gzip.compress(b""), "withdrawn-source"),
    "PDF": (b"%PDF-1.5\n", "pdf-only"),
    "gzip of PDF": (gzip.compress(b"%PDF-1.5\n"), "pdf-only"),
    "PostScript": (gzip.compress(b"%!PS-Adobe-2.0\n%%Pages: 3"), "postscript-only"),
    "DVI": (gzip.compress(b"\xf7\x02\x01\x83\x92"), "dvi-only"),
    "Word before 2007": (b"\xd0\xcf\x11\xe0" + bytes(600), "docx-only"),
    "Word": (zip_of({"[Content_Types].xml": b"<x/>", "word/document.xml": b"<x/>"}), "docx-only"),
    "HTML": (gzip.compress(b"<!DOCTYPE HTML PUBLIC>\n<html><body>Text</body></html>"), "html-only"),
    "random bytes": (random.Random(5).randbytes(3000), "unknown-format"),
    "an old compress file": (b"\x1f\x9d\x90" + random.Random(6).randbytes(3000), "unknown-format"),
    "gzip cut at its start": (gzip.compress(PAPER.encode())[:20], "corrupt-archive"),
    "gzip with a wrong byte": (gzip.compress(PAPER.encode()).replace(b"\x95", b"\x96") + b"", "corrupt-archive"),
    "zip cut short": (zip_of(FILES)[:-40], "corrupt-archive"),
    "tar with a wrong header": (b"\xff" + tar_of(FILES)[1:512], "corrupt-archive"),
    "zip with a password": (
        zip_of(FILES).replace(b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\1\0"),
        "encrypted",
    ),
    "larger than the limit": (bytes(MAX_ARCHIVE_BYTES + 1), "too-large"),
}


@pytest.mark.parametrize("name", REASONED)
def test_reason(name: str) -> None:
    data, reason = REASONED[name]
    if name == "gzip with a wrong byte":
        data = data[:-8] + bytes(8)
    result = extract_source(data, "1234.56789.gz")
    assert isinstance(result, Rejection)
    assert result.reason == reason, result


def test_cut_in_the_main_file_keeps_what_stands_before() -> None:
    data = tar_of({"ms.tex": PAPER.encode(), "late.tex": b"x"})
    result = extract_source(data[:3500], "x.tar")
    assert isinstance(result, Extracted)
    assert result.source == PAPER[: result.source.__len__()]
    assert result.source.endswith("A sentence of the paper.\n")
    assert result.warnings == ("archive: tar is cut short; what stands before is used",)


def test_cut_behind_the_main_file_keeps_it_whole() -> None:
    paper = PAPER.replace("\\end{document}", "\\input{late}\n\\end{document}")
    data = tar_of({"ms.tex": paper.encode(), "fig.eps": b"x" * 5000, "late.tex": b"Late."})
    result = extract_source(gzip.compress(data[:9000]), "x.tar.gz")
    assert isinstance(result, Extracted)
    assert result.source == PAPER.replace("\\end{document}", "\n\\end{document}")
    assert result.warnings == ("archive: tar is cut short; what stands before is used", "late is missing")


def test_cut_before_enough_of_the_body_is_a_corrupt_archive() -> None:
    result = extract_source(tar_of({"ms.tex": PAPER.encode()})[:1500], "x.tar")
    assert isinstance(result, Rejection)
    assert result.reason == "corrupt-archive"
    assert "characters into the body of ms.tex" in result.detail


def test_links_stand_for_files_of_the_archive_only() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, target in (("main.tex", "real/paper.tex"), ("passwd.tex", "/etc/passwd"), ("loop.tex", "loop.tex")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        paper = PAPER.replace("\\end{document}", "\\input{passwd}\\end{document}").encode()
        info = tarfile.TarInfo("real/paper.tex")
        info.size = len(paper)
        tar.addfile(info, io.BytesIO(paper))
    result = extract_source(out.getvalue(), "x.tar")
    assert isinstance(result, Extracted)
    assert result.main == "main.tex"
    assert "root:" not in result.source


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("../../etc/x.tex", "etc/x.tex"),
        ("/abs/x.tex", "abs/x.tex"),
        ("./a//b/./x", "a/b/x"),
        ("a\\b.tex", "a/b.tex"),
        ("..", ""),
    ],
)
def test_member_names_stay_inside(stored: str, name: str) -> None:
    assert member_name("", stored) == name


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    extract_source(tar_of({"../out.tex": PAPER.encode(), str(tmp_path / "abs.tex"): b"x"}), "x.tar")
    assert not list(tmp_path.iterdir())
    assert not (tmp_path.parent / "out.tex").exists()


def test_many_bare_inclusions_are_no_bomb() -> None:
    result = extract_source(
        tar_of({"main.tex": PAPER.replace("A sentence of the paper.", "\\input b").encode() * 10, "b.tex": b"x"}),
        "x.tar",
    )
    assert isinstance(result, Extracted)
    assert result.source.count("x\n") == 2000


def test_a_byte_astray_spoils_only_itself() -> None:
    text = "Poincaré et Erdős, naïve Schrödinger "
    data = text.encode() + b"na\xefve \x93quoted\x94\n"
    assert decode(data) == text + "naïve “quoted”\n"


def test_decoded_text_has_no_control_characters() -> None:
    assert decode(b"a\0b\x1a\x0cc\r\r\nd\re") == "ab\nc\nd\ne"


def test_html_and_tex_comments_are_told_apart() -> None:
    assert sniff(b"<!-- c -->\n<HTML>") == "html"
    assert sniff(b"% <html>\n\\documentclass{article}") == "text"
    assert sniff(b"%!TEX root = main.tex\n") == "text"


# --- sources -----------------------------------------------------------------------------------------------------------


def bulk_tar(path: Path, members: dict[str, bytes]) -> bytes:
    data = tar_of({f"0303/{name}": content for name, content in members.items()})
    path.write_bytes(data)
    return data


def test_sources_of_every_kind_in_order(tmp_path: Path) -> None:
    paper = gzip.compress(PAPER.encode())
    bulk_tar(tmp_path / "arXiv_src_0303_001.tar", {"math0303002.gz": paper, "1403.0035.pdf": b"%PDF-1"})
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "1512.08928v2.tar.gz").write_bytes(paper)
    (tmp_path / "sub" / "0704.0001.tar").write_bytes(tar_of(FILES))
    for name in ("index.jsonl", "metadata.jsonl.gz", "README.txt", ".hidden.gz"):
        (tmp_path / name).write_bytes(b"{}")
    found = [item for item in iter_eprints([tmp_path]) if isinstance(item, Eprint)]
    assert [(item.id, item.version, item.name.removeprefix(f"{tmp_path}/")) for item in found] == [
        ("math/0303002", None, "arXiv_src_0303_001.tar/0303/math0303002.gz"),
        ("1403.0035", None, "arXiv_src_0303_001.tar/0303/1403.0035.pdf"),
        ("0704.0001", None, "sub/0704.0001.tar"),
        ("1512.08928", 2, "sub/1512.08928v2.tar.gz"),
    ]
    assert found == list(iter_eprints([tmp_path]))


def test_a_bulk_tar_cut_short_yields_what_is_whole_and_a_notice(tmp_path: Path) -> None:
    path = tmp_path / "arXiv_src_0303_001.tar"
    data = bulk_tar(path, {f"math030300{i}.gz": gzip.compress(PAPER.encode() * i, mtime=0) * 20 for i in range(1, 5)})
    third = data.index(b"0303/math0303003.gz")
    path.write_bytes(data[: third + 600])
    *whole, notice = iter_eprints([path])
    assert [item.id for item in whole if isinstance(item, Eprint)] == ["math/0303001", "math/0303002"]
    assert notice == BrokenSource(path.as_posix(), "tar is cut short, in 0303/math0303003.gz")
    path.write_bytes(data[:third])
    *whole, notice = iter_eprints([path])
    assert len(whole) == 2
    assert notice == BrokenSource(path.as_posix(), "tar ends without its end mark")


def test_a_bulk_tar_with_a_wrong_header_goes_on_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "arXiv_src_0303_001.tar"
    data = bytearray(bulk_tar(path, {f"math030300{i}.gz": b"x" * 700 for i in range(1, 4)}))
    data[1536] ^= 0xFF  # the second header: 512 for the first, 1,024 for its contents
    path.write_bytes(bytes(data))
    *whole, notice = iter_eprints([path])
    assert [item.id for item in whole if isinstance(item, Eprint)] == ["math/0303001", "math/0303003"]
    assert notice == BrokenSource(path.as_posix(), "tar breaks in the header at byte 1,536")


def test_a_loose_tar_of_a_paper_is_no_bulk_tar(tmp_path: Path) -> None:
    (tmp_path / "1403.0037.tar").write_bytes(tar_of({"1403.0037.pdf": b"%PDF", "ms.tex": PAPER.encode()}))
    (tmp_path / "thesis.tar").write_bytes(tar_of(FILES))
    assert [item.id for item in iter_eprints([tmp_path]) if isinstance(item, Eprint)] == ["1403.0037", "thesis"]


# --- damaged and hostile -----------------------------------------------------------------------------------------------


def assert_bounded(data: bytes) -> Extracted | Rejection:
    """The result, after checking that it is one and that it took no more time and memory than allowed."""
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started_s = time.process_time()
    result = extract_source(data, "x.tar.gz")
    assert time.process_time() - started_s < MAX_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb < MAX_GROWTH_MB
    assert isinstance(result, Extracted | Rejection)
    if isinstance(result, Extracted):
        result.source.encode()  # no lone surrogates
        assert not set("\0\r\ufeff") & set(result.source)
    return result


def paper_of(body: str) -> bytes:
    return tar_of(
        {"a.tex": f"\\documentclass{{article}}\\begin{{document}}\n{body}".encode(), "b.tex": b"x", "b.sty": b"x"}
    )


HOSTILE: dict[str, Callable[[], bytes]] = {
    "1 GB of zeros": lambda: gzip.compress(bytes(100_000_000)) * 10,
    "200 MB of text": lambda: gzip.compress(b"\\input{a} hello\n" * 12_000_000, 1),
    "gzip in gzip in gzip": lambda: gzip.compress(gzip.compress(gzip.compress(gzip.compress(bytes(50_000_000))))),
    "a million gzip members": lambda: gzip.compress(b"") * 1_000_000,
    "1 GB zip of zeros": lambda: zip_of({f"{i}.tex": bytes(15_000_000) for i in range(10)}) * 1,
    "zip of 25,000 members": lambda: zip_of({f"{i}.tex": b"" for i in range(25_000)}),
    "tar of 25,000 members": lambda: gzip.compress(tar_of({f"{i}.tex": PAPER[:60].encode() for i in range(25_000)}), 1),
    "names of 20 kB": lambda: tar_of({"a" * 20_000 + f"{i}.tex": b"x" for i in range(500)}, tarfile.GNU_FORMAT),
    "inclusions in one line": lambda: paper_of("\\input{b} " * 500_000),
    "escaped inclusions in one line": lambda: paper_of("\\\\input{b} " * 300_000),
    "inclusions behind an open \\verb": lambda: paper_of("\\verb|" + "\\input{b} " * 300_000),
    "inclusions doubling 40 times": lambda: tar_of(
        {"a.tex": paper_of("")[512:560] + b"\\input{0}"}
        | {f"{i}.tex": b"\\input{%d}\\input{%d}" % (i + 1, i + 1) for i in range(40)}
    ),
    "a megabyte a thousand times": lambda: tar_of(
        {"a.tex": b"\\begin{document}" + b"\\input{b}" * 1000, "b.tex": b"x" * 1_000_000}
    ),
    "a macro that calls itself twice": lambda: paper_of("\\newcommand{\\x}[1]{\\input{b}\\x{#1#1}\\x{#1}}\\x{abc}"),
    "unclosed definitions": lambda: paper_of("\\newcommand{\\x}[1]{\\input{b}" * 100_000),
    "unclosed verbatim": lambda: paper_of("\\begin{verbatim}" * 300_000),
    "unclosed options": lambda: paper_of("\\usepackage[" * 300_000),
    "unclosed tests": lambda: paper_of("\\IfFileExists{a}{" * 300_000),
    "guards": lambda: paper_of("\\iftrue\\endinput\n" * 300_000),
    "megabytes of blanks": lambda: paper_of("\\usepackage" + " " * 4_000_000 + "x\\input" + " " * 4_000_000),
    "a 5 MB line of braces": lambda: paper_of("{" * 5_000_000),
    "a 00README of blank lines": lambda: tar_of({"00README": b"\n" * 5_000_000, "a.tex": PAPER.encode()}),
    "conditions in conditions": lambda: paper_of(
        "\\NewDocumentCommand{\\x}{s o m}{\\input{b}" + "\\IfNoValueTF{#2}{#3}{" * 400 + "}" * 401 + "\\x{abc}" * 5000
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_cost_little(name: str) -> None:
    assert_bounded(HOSTILE[name]())


def damaged(rng: random.Random, data: bytes) -> Iterator[bytes]:
    """Cuts at every twentieth and random wrong bytes, of the archive as stored."""
    for twentieth in range(20):
        yield data[: len(data) * twentieth // 20]
    for _ in range(20):
        wrong = bytearray(data)
        for _ in range(rng.randrange(1, 20)):
            wrong[rng.randrange(len(wrong))] = rng.randrange(256)
        yield bytes(wrong)


@pytest.mark.parametrize("form", CONTAINERS)
def test_damaged_archives_end_as_text_or_reason(form: str) -> None:
    for data in damaged(random.Random(form), CONTAINERS[form][0]):
        assert_bounded(data)


TOKENS = (
    r"\input{ } { \input\ a \include{a} \newcommand{\x}[1]{\input{#1}} \x{a} \def\y#1{\x{#1}} \y{b} % \begin{verbatim} \end{verbatim} \verb|"
    r" \begin{document} \end{document} \import{a/}{b} \usepackage{a} \usepackage[ \documentclass{ \let\z\input \z{a} \endinput \iffalse \fi"
    r" \IfFileExists{a}{\input{b}}{ \string \\ #1 [ ] \NewDocumentCommand{\w}{s+o+m}{\IfNoValueTF{#2}{\input{#3}}{\input{#2/#3}}} \w*[a]{b}"
    r" \includeonly{a} \jobname a b.tex \subfile{a} é"
).split()


@pytest.mark.parametrize("seed", range(150))
def test_any_string_of_tex_ends_as_text_or_reason(seed: int) -> None:
    rng = random.Random(seed)
    names = ("main.tex", "a.tex", "b.tex", "a/b.tex", "a.sty")
    texts = {name: "".join(rng.choice((*TOKENS, " ", "\n")) for _ in range(rng.randrange(120))) for name in names}
    texts["main.tex"] = "\\documentclass{article}\\begin{document}" + texts["main.tex"]
    assert_bounded(tar_of({name: text.encode(rng.choice(("utf-8", "latin-1"))) for name, text in texts.items()}))


# --- the command -------------------------------------------------------------------------------------------------------


def test_command_writes_texts_rejects_and_funnel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "1403.0037.gz").write_bytes(gzip.compress(PAPER.encode()))
    (sources / "1403.0035v3.pdf").write_bytes(b"%PDF-1.5")
    assert main(["--sources", str(sources), "--out", str(tmp_path / "flat.jsonl")]) == 0
    (kept,) = map(json.loads, (tmp_path / "flat.jsonl").read_text().splitlines())
    assert kept == {
        "id": "1403.0037",
        "version": None,
        "name": f"{sources}/1403.0037.gz",
        "main": "1403.0037.tex",
        "source": PAPER,
        "warnings": [],
    }
    (reject,) = map(json.loads, (tmp_path / "flat.rejects.jsonl").read_text().splitlines())
    assert (reject["id"], reject["version"], reject["reason"]) == ("1403.0035", 3, "pdf-only")
    funnel = json.loads((tmp_path / "flat.funnel.json").read_text())
    assert (funnel["in"], funnel["kept"], funnel["rejected"]) == (2, 1, {"pdf-only": 1})
    assert (
        "extract: 2 e-prints in, 1 kept (50.0%)\n          1  pdf-only: PDF without source" in capsys.readouterr().err
    )


def test_command_says_what_is_missing(tmp_path: Path) -> None:
    done = run_command("data_prep/extraction.py", "--sources", tmp_path / "nowhere", "--out", tmp_path / "flat.jsonl")
    assert (done.returncode, done.stderr) == (2, f"extraction.py: source {tmp_path}/nowhere does not exist\n")
    done = run_command("-m", "data_prep.extraction", "--sources", tmp_path, "--out", tmp_path / "flat.jsonl")
    assert done.returncode == 2
    assert "no e-print in" in done.stderr
    assert not list(tmp_path.iterdir())


# --- the real set ------------------------------------------------------------------------------------------------------

# What the 26 archives are that the scorer leaves out (index.jsonl); all others have text.
WITHOUT_SOURCE = {
    "1403.0035": "pdf-only",
    "1403.0036": "pdf-only",
    "1604.01763": "html-only",
    "cs/9901011": "html-only",
    "cs/9904010": "html-only",
    "cs/0012007": "no-tex",  # "fake tex file"
    "math/0504292": "encrypted",
    "9912.00001": "withdrawn-source",  # %auto-ignore
    "9912.00002": "withdrawn-source",
    "9912.00005": "includes-pdf",
    "9912.00006": "includes-pdf",
    "9912.00007": "includes-pdf",
    "9912.00008": "includes-pdf",
    "9912.00011": "no-tex",  # text files in archives in archives
    "9912.00014": "no-tex",  # "compress me"
    "9912.00015": "no-tex",  # two packages and a program
    "9912.00016": "corrupt-archive",  # the first 10,000 bytes of a tar
    "9912.00017": "no-tex",
}


def test_every_real_archive_has_text_or_its_true_reason() -> None:
    folder = need_shared("eprints")
    results = {
        item.id: extract_source(item.data, item.name) for item in iter_eprints([folder]) if isinstance(item, Eprint)
    }
    assert len(results) == 237
    reasons = {paper: result.reason for paper, result in results.items() if isinstance(result, Rejection)}
    assert reasons == WITHOUT_SOURCE
    rows = {row["id"]: row for row in map(json.loads, (folder / "index.jsonl").read_text().splitlines())}
    for paper, result in results.items():
        if isinstance(result, Extracted) and rows[paper]["container"] != "gzip+single-file":
            assert result.main == rows[paper]["main_tex"].removeprefix("./"), paper
            assert "\ufffd" not in result.source
            assert not re.search(
                r"(?m)^[^%\n]*\\(?:input|include)\{[\w/]+\}", result.source.partition("\\begin{document}")[2]
            )


def test_real_bulk_tars_hold_the_same_archives() -> None:
    loose = {item.id: item.data for item in iter_eprints([need_shared("eprints")]) if isinstance(item, Eprint)}
    bulk = [item for item in iter_eprints([need_shared("bulk")]) if isinstance(item, Eprint)]
    assert len(bulk) == 16
    assert all(loose[item.id] == item.data for item in bulk)


def test_help_shows_an_example() -> None:
    done = run_command("data_prep/extraction.py", "--help")
    assert "python data_prep/extraction.py --sources" in done.stdout
    assert (ROOT / "data_prep" / "extraction.py").is_file()
