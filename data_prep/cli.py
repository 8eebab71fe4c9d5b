"""What every command of this repository shares: its manners.

In: a command's arguments and its work. Out: one-line errors, exit codes, progress, and files that are whole or absent.

Exit codes: 0 done, 1 our bug (a traceback), 2 the user's mistake (one line on stderr), 130 interrupted after a clean stop.
stdout is for results, stderr for logs. Importing this file costs nothing heavy, so that --help answers at once.
"""

import argparse
import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

EXIT_DONE, EXIT_USER, EXIT_INTERRUPTED = 0, 2, 130
PROGRESS_INTERVAL_S = 30.0  # a log file wants a line now and then, not a bar


class UserError(Exception):
    """The user's mistake, in one sentence: what we saw, what we need, what to do."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser without abbreviations, with the script's docstring as its help and one-line errors."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2; argparse would print the whole usage before it."""
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(EXIT_USER)


def run(main: Callable[[Sequence[str] | None], int]) -> NoReturn:
    """Run a script's `main` as a process: `if __name__ == "__main__": run(main)`.

    UserError becomes one line and exit 2, a full disk likewise (nothing half-written is left, see `atomic_write`), Ctrl-C
    exit 130, a reader that went away (`| head`) a silent exit. Anything else is our bug and keeps its traceback.
    """
    name = Path(sys.argv[0]).name
    try:
        code = main(None)
        sys.stdout.flush()
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        code = EXIT_USER
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command goes on", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at exit
        code = EXIT_DONE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"{name}: the disk is full ({error}); free some space, then the same command goes on", file=sys.stderr)
        code = EXIT_USER
    raise SystemExit(code)


def need_file(path: Path, what: str) -> Path:
    """The path, if it is there; else a UserError that says what was looked for."""
    if not path.exists():
        raise UserError(f"{what} {path} does not exist")
    return path


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open `path` for writing under a temporary name; fsync and rename when the block ends, remove it when it raises.

    A reader sees the old file or the new one, never a half; a kill leaves at most `<name>.partial` beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    encoding = None if "b" in mode else "utf-8"
    try:
        with partial.open(mode, encoding=encoding, newline=None if encoding is None else "\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def duration(seconds: float) -> str:
    """75 -> '1m15s', 3700 -> '1h01m', 0.234 -> '0.2s'."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class Progress:
    """Progress of a long loop on stderr: a tqdm bar on a terminal, else a line every 30 s with count, rate and ETA.

    Example: `with Progress("clean", total=237, unit="papers") as progress: ...; progress.update(1, kept="81%")`.
    """

    def __init__(self, label: str, total: int | None = None, unit: str = "items") -> None:
        self.label, self.total, self.unit = label, total, unit
        self.count = 0
        self.started_s = self.shown_s = time.monotonic()
        self.bar: Any = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(desc=self.label, total=self.total, unit=f" {self.unit}", file=sys.stderr)
        return self

    def update(self, step: int = 1, **notes: object) -> None:
        """Count `step` more; `notes` (say kept='81%') stand behind the figures."""
        self.count += step
        if self.bar is not None:
            if notes:
                self.bar.set_postfix({key: str(value) for key, value in notes.items()}, refresh=False)
            self.bar.update(step)
        elif time.monotonic() - self.shown_s >= PROGRESS_INTERVAL_S:
            self.shown_s = time.monotonic()
            print(self.line(**notes), file=sys.stderr, flush=True)

    def line(self, **notes: object) -> str:
        """One line of progress: 'clean: 120/237 papers, 81.0/s, ETA 1.4s, kept 81%'."""
        elapsed_s = max(time.monotonic() - self.started_s, 1e-9)
        rate = self.count / elapsed_s
        of = "" if self.total is None else f"/{self.total:,}"
        words = [f"{self.label}: {self.count:,}{of} {self.unit}", f"{rate:,.1f}/s"]
        if self.total is not None and rate > 0:
            words.append(f"ETA {duration(max(self.total - self.count, 0) / rate)}")
        return ", ".join(words + [f"{key} {value}" for key, value in notes.items()])

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.close()
