"""Build the sample's archives and metadata from the readable papers beside this file.

In: papers/<name>/, one folder per archive, named as arXiv names the file (math0303991, 1403.9901v2): paper.json (metadata,
how it is stored, what is expected of it) and the files of the archive as UTF-8 text with "\\n" line ends.
    web/<name>.txt, a page each: its address, its date, and its text.
Out: sources/ (loose <name>.gz and .pdf, bulk tars), metadata.jsonl in the form of arXiv's Kaggle snapshot, and openwebmath.jsonl,
the pages as rows of OpenWebMath.

The same papers give the same archives: sorted members, fixed times, no owner. (Another zlib may compress to other bytes;
what they hold is the same.)

paper.json, beyond the metadata: "stored" (a list of "loose" and "bulk"), "form" ("file" or "tar"; by default a lone file is
stored alone and several as a tar), "encoding" and "newline" (of the text files), "copy_of" and "replace" (another folder's
files with some words changed), "damage" (see `damaged`), "metadata": false (arXiv knows nothing of it) and "expected" (what
prepare_dataset.py says, for each stored copy).

Example: python dataset_train_val/sample/make_sample.py --out dataset_train_val/sample
"""

import argparse
import datetime
import email.utils
import gzip
import hashlib
import io
import json
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))  # run as a file: import from the repository root

from data_prep.records import parse_name  # noqa: E402

MEMBER_TIME_S = 1_000_000_000  # 9 September 2001; any fixed time will do
KEPT_OF_DAMAGED_BYTES = 12  # a gzip header and too little after it to decode anything
BAD_METADATA_LINE = '{"id":"0704.9999","title":"This line breaks off in the mid\n'  # a cut-off download ends like this
KAGGLE_KEYS = ("id", "submitter", "authors", "title", "comments", "journal-ref", "doi", "report-no", "categories",
               "license", "abstract", "versions", "update_date", "authors_parsed")  # fmt: skip


def pdf_of(text: str) -> bytes:
    """A one-page PDF 1.4 that shows the lines of `text` (ASCII) in Helvetica."""
    shown = "".join(f"({line.translate({40: None, 41: None, 92: None})}) Tj T*\n" for line in text.splitlines())
    content = f"BT /F1 11 Tf 14 TL 72 760 Td\n{shown}ET".encode("ascii")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return bytes(out) + b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start


def dvi_of(text: str) -> bytes:
    """A one-page DVI (TeX: The Program, part 31) that sets the ASCII `text` in cmr10 on one line."""
    units = struct.pack(">III", 25_400_000, 473_628_672, 1000)
    font = struct.pack(">BBIIIBB", 243, 0, 0, 10 << 16, 10 << 16, 0, 5) + b"cmr10"
    preamble = bytes([247, 2]) + units + bytes([0])
    letters = bytes(code for code in text.encode("ascii") if 32 < code < 127)
    page = bytes([139]) + struct.pack(">10iI", 1, *[0] * 9, 0xFFFFFFFF) + font + bytes([171]) + letters + bytes([140])
    post = bytes([248]) + struct.pack(">I", len(preamble)) + units + struct.pack(">IIHH", 655 << 16, 469 << 16, 1, 1)
    tail = bytes([249]) + struct.pack(">I", len(preamble) + len(page)) + bytes([2]) + b"\xdf" * 7
    return preamble + page + post + font + tail


def docx_of(text: str) -> bytes:
    """A word processor's file: the zip of XML parts that Office Open XML asks for, one paragraph a line."""
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    package = "http://schemas.openxmlformats.org/package/2006"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    main_type = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    body = "".join(f"<w:p><w:r><w:t>{line}</w:t></w:r></w:p>" for line in text.splitlines())
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" ContentType="application/'
        'vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/word/document.xml" ContentType="{main_type}"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type="{office}" '
        'Target="word/document.xml"/></Relationships>',
        "word/document.xml": f'<w:document xmlns:w="{word}"><w:body>{body}</w:body></w:document>',
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, xml in parts.items():
            archive.writestr(zipfile.ZipInfo(name, (2001, 9, 9, 1, 46, 40)), '<?xml version="1.0"?>\n' + xml)
    return buffer.getvalue()


def encrypted(text: str) -> bytes:
    """Bytes that nobody can read back without the key, as an author's encrypted source is."""
    data = text.encode()
    stream = b"".join(hashlib.sha256(b"sample key %d" % block).digest() for block in range(len(data) // 32 + 1))
    return bytes(a ^ b for a, b in zip(data, stream, strict=False))


# A file `paper.pdf.txt` stands for the `paper.pdf` that the archive holds.
MADE_FROM_TEXT: dict[str, Callable[[str], bytes]] = {
    ".pdf.txt": pdf_of,
    ".dvi.txt": dvi_of,
    ".docx.txt": docx_of,
    ".cry.txt": encrypted,
}


def file_as_stored(name: str, text: str, paper: dict[str, Any]) -> tuple[str, bytes]:
    """Name and bytes of one file in the archive: made from its text, or the text in the paper's encoding."""
    for suffix, make in MADE_FROM_TEXT.items():
        if name.endswith(suffix):
            return name.removesuffix(".txt"), make(text)
    newline = paper.get("newline", "\n")
    return name, text.replace("\n", newline).encode(paper.get("encoding", "utf-8"))


def read_files(folder: Path, paper: dict[str, Any]) -> dict[str, bytes]:
    """The files of a paper's archive by their name in it, in sorted order."""
    origin = folder.parent / paper["copy_of"] if "copy_of" in paper else folder
    files = {}
    for path in sorted(p for p in origin.rglob("*") if p.is_file() and p.name != "paper.json"):
        with path.open(encoding="utf-8", newline="") as file:
            text = file.read()
        for old, new in paper.get("replace", []):
            text = text.replace(old, new)
        name, data = file_as_stored(path.relative_to(origin).as_posix(), text, paper)
        files[name] = data
    return files


def tar_of(files: dict[str, bytes]) -> bytes:
    """An uncompressed tar with fixed times and owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(data), MEMBER_TIME_S, 0o644
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def gzipped(data: bytes, level: int = 9) -> bytes:
    """A gzip without name and time. At level 0 its bytes do not depend on the zlib that packs it."""
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", level, buffer, mtime=0) as file:
        file.write(data)
    return buffer.getvalue()


def damaged(kind: str, files: dict[str, bytes]) -> bytes:
    """What an accident leaves of an archive: cut gzip, a tar cut before its first TeX file, NUL bytes only, nothing, noise."""
    if kind == "cut-gzip":
        return gzipped(tar_of(files), level=0)[:KEPT_OF_DAMAGED_BYTES]
    if kind == "cut-tar":
        return gzipped(tar_of(files)[: tarfile.BLOCKSIZE * 2])
    if kind == "nul-filled":
        return bytes(len(tar_of(files)))
    if kind == "empty":
        return b""
    if kind == "random":
        return encrypted("x" * 2000)
    raise ValueError(f"unknown damage {kind!r}")


def stored_archive(name: str, files: dict[str, bytes], paper: dict[str, Any]) -> tuple[str, bytes]:
    """File name and bytes of a paper as arXiv stores it: PDF as it is, a lone file in gzip, several as a tar in gzip."""
    form = paper.get("form", "file" if len(files) == 1 else "tar")
    only_name, only_data = next(iter(files.items()))
    if form == "file" and only_name.endswith(".pdf"):
        return f"{name}.pdf", only_data
    if "damage" in paper:
        return f"{name}.gz", damaged(paper["damage"], files)
    return f"{name}.gz", gzipped(only_data if form == "file" else tar_of(files))


def metadata_record(name: str, paper: dict[str, Any]) -> dict[str, Any]:
    """A line of the Kaggle snapshot; `paper["created"]` holds one ISO date per version."""
    parsed = [author.rpartition(" ") for author in paper["authors"].replace(" and ", ", ").split(", ")]
    days = [datetime.datetime.fromisoformat(f"{day}T12:00:00+00:00") for day in paper["created"]]
    facts = {
        **paper,
        "id": parse_name(name)[0],
        "submitter": paper.get("submitter", "The Sample's Authors"),
        "abstract": f"  {paper['abstract'].strip()}\n",
        "versions": [
            {"version": f"v{number}", "created": email.utils.format_datetime(day, usegmt=True)}
            for number, day in enumerate(days, 1)
        ],
        "update_date": days[-1].date().isoformat(),
        "authors_parsed": [[last, first, ""] for first, _, last in parsed],
        "license": paper.get("license", "http://creativecommons.org/publicdomain/zero/1.0/"),
    }
    return {key: facts.get(key) for key in KAGGLE_KEYS}


def year_month(name: str) -> str:
    """'math0303991' -> '0303', '1403.9901v2' -> '1403'."""
    return name.lstrip("abcdefghijklmnopqrstuvwxyz-")[:4]


def web_row(page: str) -> dict[str, str]:
    """A row of OpenWebMath: address, text, date, and what its makers noted, a JSON text of its own."""
    url, day, text = page.split("\n", 2)
    return {"url": url, "text": text.strip(), "date": f"{day} 12:00:00", "metadata": "{}"}


def build(papers: Path, out: Path) -> dict[str, list[str]]:
    """Write sources/ and metadata.jsonl under `out`; return the expected outcomes by archive name."""
    sources = out / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    lines, bulk, expected = [], dict[str, dict[str, bytes]](), {}
    for folder in sorted(path.parent for path in papers.glob("*/paper.json")):
        paper = json.loads((folder / "paper.json").read_text(encoding="utf-8"))
        expected[folder.name] = paper["expected"]
        if paper.get("metadata", True):
            lines.append(json.dumps(metadata_record(folder.name, paper)) + "\n")
        for place in paper.get("stored", ["loose"]):
            name, data = stored_archive(folder.name, read_files(folder, paper), paper)
            if place == "loose":
                (sources / name).write_bytes(data)
            else:
                bulk.setdefault(year_month(name), {})[f"{year_month(name)}/{name}"] = data
    for month, members in sorted(bulk.items()):
        (sources / f"arXiv_src_{month}_001.tar").write_bytes(tar_of(members))
    (out / "metadata.jsonl").write_text("".join(lines) + BAD_METADATA_LINE, encoding="utf-8")
    return expected


def main(argv: Sequence[str] | None = None) -> int:
    """Rebuild the sample and say what it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for sources/ and metadata.jsonl (default: here)")
    out: Path = parser.parse_args(argv).out
    expected = build(HERE / "papers", out)
    pages = [path.read_text(encoding="utf-8") for path in sorted(HERE.glob("web/*.txt"))]
    (out / "openwebmath.jsonl").write_text(
        "".join(json.dumps(web_row(page)) + "\n" for page in pages), encoding="utf-8"
    )
    copies = [outcome for outcomes in expected.values() for outcome in outcomes]
    print(
        f"{len(expected)} papers, {copies.count('kept')} of them good, and {len(pages)} web pages: "
        f"{out}/sources, {out}/metadata.jsonl, {out}/openwebmath.jsonl",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
