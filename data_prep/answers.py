r"""The final answer of a worked solution, and whether it is the right one.

In: texts, say "... so 8 + 4 = 12.\n#### 12" or "... = \boxed{\frac12}". Out: "12", "\frac12"; whether math-verify finds two answers equal.

math-verify (pip install math-verify) parses both sides and compares them as mathematics: 0.5 and \frac12 are one answer. What a
model writes may keep it busy for ever (9^{9^{9^{9}}}), its own time limit is an alarm signal, and it refuses to work off the main thread.
So it lives in a process of its own, with a memory limit, which is ended and started anew when it does not answer in time.
"""

import importlib.util
import itertools
import logging
import multiprocessing
import re
import resource
from multiprocessing.connection import Connection
from typing import Any

from data_prep.cli import UserError

# What stands before a final answer: GSM8K's mark, and MetaMathQA's and Minerva's words. \boxed{} is the third form, MATH's.
MARK = re.compile(r"####|answer is:?", re.IGNORECASE)
BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
BRACES = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is none
SENTENCE_END = re.compile(r"\.(?=\s|$)|\n")
ALARM_S = 3  # math-verify's own limit, for parsing and for comparing each
ANSWER_LIMIT_S = 15.0  # parsing twice, comparing once, and an alarm that comes late inside a C function
MAX_ANSWER_CHARS = 500  # the longest of MATH has 159; a model that rambles would cost the alarm each time
MEMORY_LIMIT_BYTES = 4 << 30  # of address space; sympy with all that it imports maps less than 1 GB


def boxed(text: str, pos: int) -> str:
    r"""What stands in the braces that open before `pos`, "" if they do not close: boxed(r"\boxed{\frac{1}{2}}", 7) -> "\frac{1}{2}"."""
    depth = 1
    for match in BRACES.finditer(text, pos):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[pos : match.start()]
    return ""


def sentence(text: str, pos: int) -> str:
    """From `pos` to the end of the sentence or line; the point of 5.50 ends none."""
    end = SENTENCE_END.search(text, pos)
    return text[pos:] if end is None else text[pos : end.start()]


def final_answer(text: str) -> str | None:
    r"""What the text says last as its answer: in \boxed{}, after ####, or after "answer is"; None if it says none.

    The mark that stands last counts, so that a guess in passing earns nothing: "The answer is 3. No: \boxed{4}" -> "4".
    """
    marks = sorted(itertools.chain(BOX.finditer(text), MARK.finditer(text)), key=lambda match: match.start())
    if not marks:
        return None
    last = marks[-1]
    found = boxed(text, last.end()) if last[0].endswith("{") else sentence(text, last.end())
    return found.strip().strip("$").strip() or None


def serve(connection: Connection) -> None:
    """The process: takes (reference, answer), gives whether they are equal, until the other end closes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    logging.disable(logging.WARNING)  # math-verify's, one a comparison that took too long
    from math_verify import parse, verify

    while True:
        try:
            sides = connection.recv()
        except EOFError:
            return
        gold, given = (
            parse(rf"\boxed{{{side}}}", fallback_mode="no_fallback", parsing_timeout=ALARM_S) for side in sides
        )
        connection.send(bool(gold and given and verify(gold, given, timeout_seconds=ALARM_S)))


class Verifier:
    """math-verify in a process of its own. `num_failures` counts the comparisons that it did not survive."""

    def __init__(self, limit_s: float = ANSWER_LIMIT_S) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise UserError(
                "answers are compared by the package math-verify, which is not installed; pip install math-verify"
            )
        self.limit_s = limit_s
        self.num_failures = 0
        self.connection: Connection | None = None
        self.process: Any = None

    def equal(self, reference: str, answer: str) -> bool:
        """Whether the answer is the reference as mathematics; False where either cannot be read, or takes too long."""
        if len(answer) > MAX_ANSWER_CHARS:
            return False
        if self.connection is None:
            context = multiprocessing.get_context("spawn")  # a fork would share the trainer's threads and its GPU
            self.connection, other = context.Pipe()
            self.process = context.Process(target=serve, args=(other,), daemon=True)
            self.process.start()
            other.close()
            self.connection.send(("1", "1"))  # importing sympy takes seconds: not the first comparison's fault
            self.connection.recv()
        try:
            self.connection.send((reference, answer))
            if self.connection.poll(self.limit_s):
                return bool(self.connection.recv())
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass  # it died of what it was given: below like one that hangs
        self.num_failures += 1
        self.close()
        return False

    def close(self) -> None:
        """End the process; the next comparison starts another."""
        if self.connection is not None:
            self.connection.close()
            self.process.kill()
            self.process.join()
            self.connection = None
