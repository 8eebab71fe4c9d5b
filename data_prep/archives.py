"""Archives as arXiv stores them -> the files in them, in memory, within limits; nothing is ever written to disk.

In: gzip (of a tar, or of one file with or without a name), plain tar, zip, a bare file, archives within archives; and
bulk tars (arXiv_src_YYMM_NNN.tar), whose members are such archives. Out: `Archive` (names, contents of what may be TeX),
`Eprint`s, and text decoded from whatever encoding the author used. Names from an archive are keys of a dict and nothing
else, so no name, link or path in it can reach the disk.
"""

import importlib.util
import io
import os
import posixpath
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from data_prep.cli import need_file
from data_prep.records import ARCHIVE_SUFFIX, NEW_ID, OLD_ID, parse_name


def any_of(table: str, form: str = "{}") -> re.Pattern[str]:
    """A pattern for any of the words (each a regular expression) in a table, in upper or lower case; '#' begins a remark.

    `form` says what stands around the words: any_of("pdf  # drawings", r"\\.{}$") finds '.pdf' and '.PDF' at an end.
    """
    words = [word for line in table.splitlines() for word in line.partition("#")[0].split()]
    return re.compile("(?i)" + form.replace("{}", f"(?:{'|'.join(words)})"))


# isal inflates twice as fast as zlib, with its interface and, of whole data, its results; where it is missing, zlib does it.
inflating: Any = importlib.import_module("isal.isal_zlib" if importlib.util.find_spec("isal") else "zlib")

# Limits: no archive, whatever it holds, takes more than 2 s or 512 MB. arXiv accepts 50 MB a submission (info.arxiv.org/
# help/sizes.html), a little more by arrangement; see docs/LOG.md, Extraction.
MAX_ARCHIVE_BYTES = 100_000_000  # as stored; more is refused unread
MAX_UNPACKED_BYTES = 256_000_000  # inflated in all, 0.8 s of zlib; the rest of a larger archive is not looked at
MAX_KEPT_BYTES = 64_000_000  # of the members that may be TeX, together
MAX_MEMBER_BYTES = 16_000_000  # of one such member: a longer one is data, not a paper
MAX_MEMBERS = 20_000  # a textbook's repository has 740
MAX_ZIP_DIRECTORY_BYTES = 4_000_000  # what MAX_MEMBERS entries with long names come to
MAX_GZIP_MEMBERS = 16  # gzip files written one behind the other
MAX_NESTING = 3  # an archive in an archive in an archive
MAX_NESTED = 8  # archives looked into inside one
MAX_EXTENDED_BYTES = 10_000  # read of a tar header that extends another
MAX_NAME_CHARS = 1_000  # of a member's name with its folders
CHUNK_BYTES = 4_000_000  # inflated at a time; with 16 MB it takes 8% longer, with 1 MB 5%
PIECE_BYTES = 1_000_000  # of the gzip data, given at a time

# Members that are never TeX: their names are kept (they tell what a submission consists of), their contents skipped.
SUFFIX_KINDS = {
    ".pdf": "pdf",
    ".ps": "postscript",
    ".dvi": "dvi",
    ".htm": "html",
    ".html": "html",
    ".doc": "office",
    ".docx": "office",
    ".odt": "office",
    ".rtf": "office",
    ".cry": "encrypted",
}
SKIPPED = any_of(
    r"""
    pdf ps eps[fi]? dvi png jpe?g gif tiff? bmp svgz? webp ico  # pictures
    mpe?g mp[34] avi mov wav swf                                # films and sound
    pf[bm] [ot]tf tfm pk afm                                    # fonts
    bst bib bbl bcf blg aux log                                 # bibliographies and what TeX writes
    nb cdf mat h5 np[yz] pkl xlsx? parquet                      # data
    docx odt rtf pptx? cry                                      # documents of other kinds
    class jar s?o dll exe pyc                                   # programs
    """,
    r"\.{}(?:\.gz)?$",
)
PLAIN_PATH = re.compile(  # no part is empty or begins with a dot
    r"(?:(?![./])[^/\\\0]{1,200}/){0,4}(?![./])[^/\\\0]{1,200}"
)
MAC_LITTER = re.compile(r"(?:^|/)(?:\._[^/]*|\.DS_Store|__MACOSX/.*)$")  # AppleDouble files and their like

# Magic numbers at the start of a file; gzip, zip and tar are told apart by `sniff`.
MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"%PDF-", "pdf"),
    (b"%!PS", "postscript"),
    (b"%!\n", "postscript"),
    (b"\x04%!", "postscript"),
    (b"\xc5\xd0\xd3\xc6", "postscript"),  # DOS EPS: PostScript behind a binary header
    (b"\xf7\x02", "dvi"),
    (b"\xd0\xcf\x11\xe0", "office"),  # OLE: Word before 2007
    (b"{\\rtf", "office"),
)
MAGIC_STARTS = tuple(magic for magic, _ in MAGIC)
HTML_TAGS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<title")
OFFICE_MEMBER = re.compile(r"\[Content_Types\]\.xml$|^word/|^mimetype$|^content\.xml$")

# inputenc's names for encodings (CTAN, inputenc) -> Python's. Latin-1 files in the wild are Windows files: cp1252 is the superset.
INPUT_ENCODINGS = {
    "latin1": "cp1252",
    "ansinew": "cp1252",
    "cp1252": "cp1252",
    "latin2": "iso8859_2",
    "latin3": "iso8859_3",
    "latin4": "iso8859_4",
    "latin5": "iso8859_9",
    "latin9": "iso8859_15",
    "latin10": "iso8859_16",
    "iso88595": "iso8859_5",
    "cp1250": "cp1250",
    "cp1251": "cp1251",
    "cp1257": "cp1257",
    "cp437": "cp437",
    "cp437de": "cp437",
    "cp850": "cp850",
    "cp852": "cp852",
    "cp858": "cp858",
    "cp865": "cp865",
    "cp866": "cp866",
    "koi8-r": "koi8_r",
    "koi8-ru": "koi8_u",
    "koi8-u": "koi8_u",
    "applemac": "mac_roman",
    "macce": "mac_latin2",
    "maccyr": "mac_cyrillic",
}
# Bytes that mean nothing in a text; form feed is TeX's \par and becomes a line end.
CONTROL_BYTES = bytes([*range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F])
FORM_FEED = bytes.maketrans(b"\x0c", b"\n")
TEXT_BYTES = bytes(set(range(256)) - set(CONTROL_BYTES) - {0x0C})
# A byte that is not UTF-8 decodes to a lone surrogate (PEP 383); what it means in Windows-1252, nothing where that has a gap.
STRAY_BYTES = {0xDC00 + byte: bytes([byte]).decode("cp1252", "ignore") for byte in range(0x80, 0x100)}
# 0x80-0x9f are letters only in Mac Roman (Windows has quotes, dashes and the ellipsis among them, left out), 0xdf-0xff in Windows.
MAC_LETTERS = bytes(set(range(0x80, 0xA0)) - {0x85, 0x91, 0x92, 0x93, 0x94, 0x96, 0x97})
WINDOWS_LETTERS = bytes(range(0xDF, 0x100))
INPUTENC = re.compile(rb"\\usepackage\s*\[([^\]]{0,200})\]\s*\{inputenc\}")

# tar (POSIX.1-2001 pax, its predecessors, GNU): type flags
TAR_BLOCK_BYTES = 512
TAR_FILES = (b"0", b"\0", b"7")
TAR_LINKS = (b"1", b"2")
TAR_EXTENSIONS = (b"x", b"g", b"L", b"K")
OCTAL = re.compile(rb"[\0 ]*([0-7]*)[\0 ]*")
PAX_SIZE = re.compile(rb"\d{1,15}")
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, IndexError, struct.error)

# In a folder of e-prints these are about them, not of them.
DATA_SUFFIXES = {".json", ".jsonl", ".csv", ".tsv", ".xml", ".md", ".parquet", ".sql", ".db"}
TEXT_SUFFIXES = {".txt", ".htm", ".html"}  # an e-print only where the name is an arXiv id: README.txt is none

Wants = Callable[[str, int], bool]
Stop = Callable[[str, str | None], None]


@dataclass(frozen=True)
class Eprint:
    """One archive as arXiv stores it. `name` says where it lies: a path, or a bulk tar's path and the member in it."""

    id: str
    version: int | None
    name: str
    data: bytes


@dataclass(frozen=True)
class BrokenSource:
    """A notice from `iter_eprints`: the bulk tar `path` cannot be read to its end. What came before was yielded."""

    path: str
    detail: str


class Garbled(Exception):
    """Data that contradicts its own format: not cut short, wrong. Nothing of it can be trusted."""


@dataclass
class Archive:
    """What an archive holds.

    `names` lists every member, `files` has the contents of those that may be TeX, `kinds` says what the others are. `cut`
    says why reading stopped before the end (None if it did not), `cut_member` which member it hit; `over_limit` that it was
    a limit of ours.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)
    nested: list[tuple[str, bytes]] = field(default_factory=list)
    oversized: list[str] = field(default_factory=list)
    cut: str | None = None
    cut_member: str | None = None
    over_limit: bool = False
    unpacked_bytes: int = 0
    kept_bytes: int = 0

    def stop(self, detail: str, member: str | None = None, *, over_limit: bool = False) -> None:
        """Note why nothing behind this point is read; the first cause counts."""
        if self.cut is None:
            self.cut, self.cut_member, self.over_limit = detail, member, over_limit

    def wants(self, name: str, size: int) -> bool:
        """Whether the contents of a member are worth reading; a limit passed stops the archive."""
        if is_litter(name) or SKIPPED.search(name):
            return False
        if size > MAX_MEMBER_BYTES:
            self.oversized.append(name)
            return False
        self.kept_bytes += size
        if self.kept_bytes > MAX_KEPT_BYTES:
            self.stop(f"more than {MAX_KEPT_BYTES:,} bytes that may be TeX", over_limit=True)
        return self.cut is None

    def add(self, name: str, data: bytes | None) -> None:
        """Take one member; `data` is None where the contents were not wanted."""
        if is_litter(name):
            return
        self.names.append(name)
        if len(self.names) > MAX_MEMBERS:
            self.stop(f"more than {MAX_MEMBERS:,} members", over_limit=True)
        if data is None:
            self.kinds[name] = SUFFIX_KINDS.get(suffix_of(name), "skipped")
            return
        kind = self.kinds[name] = sniff(data)
        if kind == "text":
            self.files[name] = data
            if suffix_of(name) in (".htm", ".html"):
                self.kinds[name] = "html"
        elif kind in ("gzip", "zip", "tar"):
            self.nested.append((name, data))


def is_litter(name: str) -> bool:
    """Whether a member is one that a Mac adds to every archive."""
    if "._" not in name and ".DS_Store" not in name and "__MACOSX/" not in name:
        return False
    return MAC_LITTER.search(name) is not None


def suffix_of(name: str) -> str:
    """'sections/Intro.TeX' -> '.tex'; '' where there is none, as in '.bashrc'."""
    last = name[name.rfind("/") + 1 :]
    dot = last.rfind(".")
    return last[dot:].lower() if dot > 0 and last[:dot].strip(".") else ""


def sniff(data: bytes) -> str:
    """What a file is, by its bytes: gzip, zip, tar, pdf, postscript, dvi, office, html, empty,
    nul, text (any encoding) or binary."""
    if data.startswith(MAGIC_STARTS):
        return next(kind for magic, kind in MAGIC if data.startswith(magic))
    if data[:1] in (b"", b"\0") and not data.strip(b"\0"):
        return "nul" if data else "empty"
    head = data[:2048]
    if parse_header(data[:TAR_BLOCK_BYTES]) is not None or data[257:262] == b"ustar":
        return "tar"
    if head.lstrip().startswith(b"<") and any(tag in head.lower() for tag in HTML_TAGS):
        return "html"
    if head.find(b"%PDF-", 0, 1024) >= 0:
        return "pdf"
    if (
        num_of(CONTROL_BYTES, head) > len(head) // 20 and utf16_codec(data) is None
    ):  # random bytes have 11%, text has none
        return "binary"
    return "text"


def stem_of(name: str) -> str:
    """'sections/Intro.TeX' -> 'intro'; other suffixes stay: 'fig.pdf_t' -> 'fig.pdf_t'."""
    return name.strip().rpartition("/")[2].lower().removesuffix(".tex")


# --- reading -----------------------------------------------------------------------------------------------------------


class Stream:
    """Bytes that arrive in chunks, read once from front to back; a short read means the end."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.chunk, self.pos, self.offset = chunks, b"", 0, 0

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end."""
        start, end = self.pos, self.pos + size
        if end <= len(self.chunk):  # nearly always
            self.pos = end
            self.offset += size
            return self.chunk[start:end]
        parts = []
        while end > len(self.chunk):
            parts.append(self.chunk[self.pos :])
            end -= len(self.chunk)
            self.pos = 0
            self.chunk = next(self.chunks, b"")
            if not self.chunk:
                end = 0
        parts.append(self.chunk[self.pos : end])
        self.pos = end
        data = b"".join(parts)
        self.offset += len(data)
        return data

    def skip(self, size: int) -> bool:
        """Pass over `size` bytes without keeping them; False where the stream ends before."""
        self.offset += size
        end = self.pos + size
        while end > len(self.chunk):
            end -= len(self.chunk)
            self.chunk = next(self.chunks, b"")
            if not self.chunk:
                self.pos = 0
                return end == 0
        self.pos = end
        return True

    def peek(self, size: int) -> bytes:
        """The next `size` bytes without consuming them."""
        while len(self.chunk) - self.pos < size and (more := next(self.chunks, b"")):
            self.chunk, self.pos = self.chunk[self.pos :] + more, 0
        return self.chunk[self.pos : self.pos + size]


def inflate(data: bytes, archive: Archive) -> Iterator[bytes]:
    """The contents of gzip data in chunks. A cut is noted in `archive` and ends the stream; Garbled where the data is wrong."""
    pos = 0
    for _ in range(MAX_GZIP_MEMBERS):
        inflater = inflating.decompressobj(wbits=31)
        piece = b""
        while not inflater.eof:
            if not piece:  # not all at once, since each call copies what it leaves over
                piece = data[pos : pos + PIECE_BYTES]
                pos += len(piece)
            try:
                chunk = inflater.decompress(piece, CHUNK_BYTES)
            except (zlib.error, inflating.error):
                raise Garbled("gzip data is wrong: a bad code or checksum") from None
            piece = inflater.unconsumed_tail
            archive.unpacked_bytes += len(chunk)
            if archive.unpacked_bytes > MAX_UNPACKED_BYTES:
                archive.stop(f"unpacks to more than {MAX_UNPACKED_BYTES:,} bytes", over_limit=True)
                return
            if chunk:
                yield chunk
            elif not piece and pos == len(data) and not inflater.eof:
                archive.stop("gzip data is cut short")
                return
        pos -= len(inflater.unused_data)
        if not data.startswith(b"\x1f\x8b", pos):
            return


class Header(NamedTuple):
    """A tar header: name as stored, size of the contents in bytes, type flag, target of a link."""

    name: str
    size: int
    kind: bytes
    link: str


def parse_header(block: bytes) -> Header | None:
    """A 512-byte tar header (v7, ustar, pax, GNU); None where it is none, as its checksum says."""
    stored = tar_number(block[148:156])
    if not stored or len(block) < TAR_BLOCK_BYTES:  # most files that are no tar have text in the checksum's place
        return None
    size = tar_number(block[124:136])
    if size is None:
        return None
    blanks = 8 * 0x20  # as which the checksum counts itself
    unsigned = byte_sum(block[:148]) + blanks + byte_sum(block[156:256]) + byte_sum(block[256:])
    if stored != unsigned and stored != unsigned - 256 * sum(byte >> 7 for byte in block[:148] + block[156:]):
        return None  # (some old programs added signed bytes)
    name = tar_text(block[:100])
    if block[257:263] == b"ustar\0" and (prefix := tar_text(block[345:500])):
        name = f"{prefix}/{name}"
    return Header(name, size, block[156:157], tar_text(block[157:257]))


def byte_sum(data: bytes) -> int:
    """The sum of at most 256 bytes, by the lower half of Adler-32: one more than the sum, modulo 65,521."""
    return (zlib.adler32(data) & 0xFFFF) - 1


def tar_number(raw: bytes) -> int | None:
    """A number in a tar header: octal digits, or binary behind a first byte of 0x80; None where it is neither."""
    if raw[:1] == b"\x80":
        return int.from_bytes(raw[1:], "big")
    match = OCTAL.fullmatch(raw)
    return int(match[1] or b"0", 8) if match else None


def tar_text(raw: bytes) -> str:
    """A name in a tar header: up to the first NUL, UTF-8 or else Latin-1."""
    raw = raw.partition(b"\0")[0]
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def extended_header(kind: bytes, data: bytes) -> dict[str, str]:
    """What a pax ("x") or GNU ("L", "K") header says about the member behind it: its path, linkpath or size."""
    if kind != b"x":
        return {b"L": {"path": tar_text(data)}, b"K": {"linkpath": tar_text(data)}}.get(kind, {})
    fields = {}
    for line in data.split(b"\n"):  # "17 path=main.tex"
        key, _, value = line.partition(b" ")[2].partition(b"=")
        if key in (b"path", b"linkpath") or (key == b"size" and PAX_SIZE.fullmatch(value)):
            fields[key.decode()] = tar_text(value)
    return fields


def walk_tar(stream: Stream, wants: Wants, stop: Stop) -> Iterator[tuple[Header, bytes | None]]:
    """Each file and link of a tar with its contents, None where `wants(name, size)` says no and for links.

    `stop(detail, member)` is told where the tar is cut short or a header is wrong; a member that is cut short still comes, as
    far as it goes, and behind a wrong header the walk goes on at the next good one. Directories and devices are passed over.
    """
    told: dict[str, str] = {}
    lost = False
    while block := stream.read(TAR_BLOCK_BYTES):
        header = parse_header(block) if not lost or block[257:262] == b"ustar" else None
        if header is None:
            if not lost and not block.strip(b"\0") and len(block) == TAR_BLOCK_BYTES:  # a block of NULs ends a tar
                return
            if not lost:
                stop(f"tar breaks in the header at byte {stream.offset - len(block):,}", None)
            lost = True
            continue
        lost = False
        size, padding = header.size, -header.size % TAR_BLOCK_BYTES
        if header.kind in TAR_EXTENSIONS:
            told |= extended_header(header.kind, stream.read(min(size, MAX_EXTENDED_BYTES)))
            stream.skip(size - min(size, MAX_EXTENDED_BYTES) + padding)
            continue
        if told:
            size = int(told.get("size", size))
            padding = -size % TAR_BLOCK_BYTES
            header = Header(told.get("path", header.name), size, header.kind, told.get("linkpath", header.link))
            told = {}
        if header.kind in TAR_LINKS:
            yield header, None
        elif header.kind in TAR_FILES and not header.name.endswith("/"):
            data = stream.read(size) if wants(header.name, size) else None
            if not (stream.skip(size) if data is None else len(data) == size):
                stop("tar is cut short", header.name)
            yield header, data
            stream.skip(padding)
        else:
            stream.skip(size + padding)
    stop("tar ends without its end mark", None)


def fill_from_tar(archive: Archive, stream: Stream, folder: str) -> None:
    """Take the members of a tar; a link stands for what it points to within the archive, if it does."""
    links = []
    for header, data in walk_tar(stream, archive.wants, archive.stop):
        name = member_name(folder, header.name)
        if archive.cut_member == header.name:
            archive.cut_member = name
        if header.kind in TAR_LINKS:
            base = posixpath.dirname(name) if header.kind == b"2" else folder
            links.append((name, member_name(base, header.link)))
        else:
            archive.add(name, data)
        if archive.over_limit:
            break
    for name, target in links:
        if target in archive.files and name not in archive.files:
            archive.add(name, archive.files[target])


def fill_from_zip(archive: Archive, data: bytes, name: str, folder: str) -> None:
    """Take the members of a zip; an Office document is a zip, too, and stays one file. Garbled where it cannot be read."""
    end = data.rfind(b"PK\x05\x06")
    if end >= 0 and int.from_bytes(data[end + 12 : end + 16], "little") > MAX_ZIP_DIRECTORY_BYTES:
        return archive.stop(f"zip directory of more than {MAX_ZIP_DIRECTORY_BYTES:,} bytes", over_limit=True)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as unzipped:
            members = [info for info in unzipped.infolist() if not info.is_dir()]
            if any(OFFICE_MEMBER.search(info.filename) for info in members):
                archive.names.append(name)
                archive.kinds[name] = "office"
                return None
            for info in members:
                path = member_name(folder, info.filename)
                if info.flag_bits & 1:  # needs a password
                    archive.names.append(path)
                    archive.kinds[path] = "encrypted"
                    continue
                wanted = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                wanted = wanted and archive.wants(path, info.file_size)
                archive.add(path, unzipped.read(info) if wanted else None)
                if archive.over_limit:
                    break
    except ZIP_ERRORS as error:
        raise Garbled(f"zip data cannot be read: {error}") from None
    return None


def unpack(archive: Archive, data: bytes, name: str, depth: int = 0) -> None:
    """Take everything in `data`, an archive or a single file, into `archive`; Garbled where it contradicts its format."""
    folder, kind = posixpath.dirname(name), sniff(data)
    if kind == "gzip":
        stream = Stream(inflate(data, archive))
        kind = sniff(stream.peek(2048))
        stem = ARCHIVE_SUFFIX.sub("", posixpath.basename(name))
        inner = member_name(folder, gzip_name(data) or (f"{stem}.tex" if kind == "text" else stem))
        if kind == "tar":
            return fill_from_tar(archive, stream, folder)
        if kind in ("gzip", "zip") and depth < MAX_NESTING:
            return unpack(archive, stream.read(MAX_KEPT_BYTES), name, depth + 1)
        data = stream.read(MAX_MEMBER_BYTES + 1)
        if len(data) > MAX_MEMBER_BYTES and kind == "text":
            return archive.stop(f"a single file of more than {MAX_MEMBER_BYTES:,} bytes", over_limit=True)
        archive.add(inner, data)
        archive.cut_member = inner if archive.cut else None
    elif kind == "tar":
        fill_from_tar(archive, Stream(iter([data])), folder)
    elif kind == "zip":
        fill_from_zip(archive, data, name, folder)
    else:
        archive.add(name, data)
    return None


def read_archive(data: bytes, name: str) -> Archive:
    """All files of an e-print that may be TeX; raises Garbled, and nothing else, on bad data."""
    archive = Archive()
    if len(data) > MAX_ARCHIVE_BYTES:
        archive.stop(f"an archive of more than {MAX_ARCHIVE_BYTES:,} bytes", over_limit=True)
    else:
        unpack(archive, data, posixpath.basename(name))
    return archive


def open_nested(archive: Archive) -> bool:
    """Take in the archives within an archive, for one that has no TeX outside them; whether anything came of it.

    One that cannot be read counts as not there: the rest may be whole.
    """
    num_files = len(archive.files)
    for depth in range(MAX_NESTING):
        nested, archive.nested = archive.nested[:MAX_NESTED], []
        for name, data in nested:
            try:
                unpack(archive, data, name, depth)
            except Garbled:
                continue
    return len(archive.files) > num_files


def member_name(folder: str, name: str) -> str:
    """A member's name below `folder`, without leading slashes and with '.' and '..' resolved: '../a/./b' -> 'a/b'."""
    path = f"{folder}/{name}" if folder else name
    if PLAIN_PATH.fullmatch(path):  # most names
        return path
    name = name[:MAX_NAME_CHARS].replace("\\", "/").lstrip("/")
    return posixpath.normpath(posixpath.join("/", folder, name)).lstrip("/")


def gzip_name(data: bytes) -> str:
    """The file name in a gzip header, '' where it has none (RFC 1952: flag 8, behind an extra field if flag 4)."""
    if len(data) < 12 or not data[3] & 8:
        return ""
    start = 12 + int.from_bytes(data[10:12], "little") if data[3] & 4 else 10
    raw = data[start : max(data.find(b"\0", start, start + 256), start)]
    return posixpath.basename(raw.decode("latin-1").replace("\\", "/"))


# --- text --------------------------------------------------------------------------------------------------------------


def utf16_codec(data: bytes) -> str | None:
    """'utf-16-le' or 'utf-16-be' where data is UTF-16, by its mark or because every second byte is NUL; else None."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16-le" if data[0] == 0xFF else "utf-16-be"
    head = data[:2048]
    if b"\0" not in head:
        return None
    nul_even, nul_odd = head[::2].count(0), head[1::2].count(0)
    if max(nul_even, nul_odd) > 0.4 * len(head) and min(nul_even, nul_odd) < 0.05 * len(head):
        return "utf-16-le" if nul_odd > nul_even else "utf-16-be"
    return None


def declared_encoding(data: bytes) -> str | None:
    r"""The Python codec for the last \usepackage[...]{inputenc} outside comments; None for UTF-8 and where there is none."""
    declared = None
    for match in INPUTENC.finditer(data):
        line_start = data.rfind(b"\n", 0, match.start()) + 1
        if b"%" not in data[line_start : match.start()]:
            for option in match[1].decode("latin-1").split(","):
                declared = INPUT_ENCODINGS.get(option.strip().lower(), declared)
    return declared


def decode(data: bytes, main: bytes = b"") -> str:
    r"""A file's text: Unicode without control characters, lone surrogates or marks; lines end in "\n".

    UTF-16 by its look; UTF-8 where that fits; bytes astray in UTF-8 as Windows-1252, each by itself; a file that is not UTF-8
    at all in the encoding that it or the `main` file declares, else in Mac Roman or Windows-1252, whichever has more letters.
    """
    codec = utf16_codec(data)
    if codec is not None:
        data = data.decode(codec, "ignore").encode("utf-8", "ignore")
    if b"\r" in data:
        data = data.replace(b"\r\r\n", b"\n").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if data.translate(None, TEXT_BYTES):  # hardly ever
        data = data.translate(FORM_FEED, CONTROL_BYTES)
    try:
        return data.decode().lstrip("\ufeff")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "surrogateescape")
    num_astray = len(text) - len(text.encode("utf-8", "ignore").decode())
    num_fitting = len(text) - len(text.encode("ascii", "ignore")) - num_astray
    if num_fitting >= num_astray:
        return text.translate(STRAY_BYTES).lstrip("\ufeff")
    declared = declared_encoding(data) or declared_encoding(main)
    if declared is None and num_of(MAC_LETTERS, data) > num_of(WINDOWS_LETTERS, data):
        declared = "mac_roman"
    return data.decode(declared or "cp1252", "ignore")


def num_of(wanted: bytes, data: bytes) -> int:
    """How many of the bytes in `data` are among the wanted ones."""
    return len(data) - len(data.translate(None, wanted))


# --- sources -----------------------------------------------------------------------------------------------------------


def iter_eprints(sources: Sequence[Path]) -> Iterator[Eprint | BrokenSource]:
    """Every e-print in `sources`, streaming: files as given, folders (recursive) in the order of their sorted paths.

    A tar whose members are named as arXiv ids (0303/math0303002.gz) is a bulk tar and yields its members in their order; where
    it is cut short, a BrokenSource follows them. In folders, hidden files and what has no suffix of an archive are passed
    over. An archive too large to read comes with one byte more than MAX_ARCHIVE_BYTES. UserError where a source is missing.
    """
    for source in sources:
        for path in files_below(need_file(source, "source")):
            with path.open("rb") as file:
                if is_bulk_tar(path, file.read(TAR_BLOCK_BYTES * 8)):
                    file.seek(0)
                    yield from iter_bulk_tar(path, file)
                else:
                    file.seek(0)
                    size = min(os.fstat(file.fileno()).st_size, MAX_ARCHIVE_BYTES + 1)  # a buffer of 100 MB costs time
                    yield Eprint(*parse_name(path.name), path.as_posix(), file.read(size))


def files_below(source: Path) -> list[Path]:
    """The archives of a folder and the folders in it, sorted; a file itself."""
    if not source.is_dir():
        return [source]
    found = []
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        found += [Path(folder) / name for name in names if is_archive_name(name)]
    return sorted(found, key=lambda path: path.as_posix())


def is_archive_name(name: str) -> bool:
    """'1403.0037.gz', 'thesis.zip' and '1403.0037' are names of archives, 'metadata.jsonl.gz' and 'README' are not."""
    stem = ARCHIVE_SUFFIX.sub("", name)
    if name.startswith(".") or suffix_of(stem) in DATA_SUFFIXES:
        return False
    return is_arxiv_id(name) or (stem != name and suffix_of(name) not in TEXT_SUFFIXES)


def is_arxiv_id(name: str) -> bool:
    """Whether a file's name, without its suffixes, is an identifier as arXiv gives it."""
    stem = ARCHIVE_SUFFIX.sub("", posixpath.basename(name))
    return bool(NEW_ID.fullmatch(stem) or OLD_ID.fullmatch(stem))


def is_bulk_tar(path: Path, head: bytes) -> bool:
    """Whether a tar holds e-prints (its first file is named as one, and it is not itself) rather than the files of one."""
    if is_arxiv_id(path.name) or sniff(head) != "tar":
        return False
    names = (header.name for header, _ in walk_tar(Stream(iter([head])), lambda _, __: False, lambda _, __: None))
    first = next(names, "")
    return is_arxiv_id(first) and ARCHIVE_SUFFIX.search(first) is not None


def iter_bulk_tar(path: Path, file: IO[bytes]) -> Iterator[Eprint | BrokenSource]:
    """The e-prints of a bulk tar in their order; then, where it is cut short or damaged, a BrokenSource that says where.

    The member that the cut hits is not yielded: the author's archive is whole, this copy of it is not.
    """
    broken: list[BrokenSource] = []

    def stop(detail: str, member: str | None) -> None:
        broken.append(BrokenSource(path.as_posix(), f"{detail}{f', in {member}' if member else ''}"))

    stream = Stream(iter(lambda: file.read(CHUNK_BYTES), b""))
    for header, data in walk_tar(stream, lambda _, size: size <= MAX_ARCHIVE_BYTES, stop):
        is_whole = data is None or len(data) == header.size
        if is_whole and header.kind in TAR_FILES and is_archive_name(posixpath.basename(header.name)):
            whole = bytes(MAX_ARCHIVE_BYTES + 1) if data is None else data
            yield Eprint(*parse_name(header.name), f"{path.as_posix()}/{header.name}", whole)
    yield from broken[:1]
