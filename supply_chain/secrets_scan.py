"""Secrets in the history: every line that any commit of any branch has added.

A secret that was removed is still in the history, and must be replaced where it was valid. What is
found is told by commit, file and rule, never by its text.
"""

import math
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from supply_chain.step import State, Step

NAME = "secrets in the history"
ENOUGH_BITS = 3.2  # of entropy a character: words and placeholders have less, random text more
RULES = {
    "private key": re.compile(
        r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----(?:\\n|\s)*([A-Za-z0-9+/]{16})"
    ),
    "beginning of a private key": re.compile(r"^(-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----)\s*$"),
    "cloud access key": re.compile(r"\b((?:AKIA|ASIA)[0-9A-Z]{16})\b"),
    "forge token": re.compile(r"\b(gh[pousr]_[A-Za-z0-9]{36,}|glpat-[A-Za-z0-9_-]{20,})"),
    "package index token": re.compile(r"\b(pypi-[A-Za-z0-9_-]{50,})"),
    "chat token": re.compile(r"\b(xox[abprs]-[0-9A-Za-z-]{10,})"),
    "signed token": re.compile(
        r"\b(eyJ[A-Za-z0-9_-]{16,}\.eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,})"
    ),
}
GUESSES = {  # these are secrets only where they look random
    "password in a URL": re.compile(r"\b[a-z][a-z+]+://[^\s/:@{}]+:([^\s/:@{}]{8,})@"),
    "assigned secret": re.compile(
        r"""(?i)(?:password|passwd|secret|api_?key|token)["']?\s*[:=]\s*["']([A-Za-z0-9+/=_-]{24,})["']"""
    ),
}


@dataclass(frozen=True, slots=True)
class Leak:
    """Where a rule was met."""

    commit: str
    file: str
    rule: str


def check(repository: Path) -> Step:
    """Read the whole history. Fails, too, where there is none to read."""
    command = ["git", "-C", str(repository), "log", "--all", "-p", "-U0", "--no-color"]
    command += ["--no-textconv", "--format=commit %h"]
    with subprocess.Popen(  # noqa: S603  # fixed arguments
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
    ) as log:
        assert log.stdout is not None
        count = Counter[str]()
        leaks = list(dict.fromkeys(scan(_counted(log.stdout, count))))
    if log.returncode or not count["commits"]:
        return Step(NAME, State.FAILED, ("the history cannot be read",))
    summary = f"{count['commits']} commits, {len(leaks)} places"
    lines = tuple(f"{one.rule} in {one.file}, commit {one.commit}" for one in leaks)
    return Step(NAME, State.FAILED if leaks else State.PASSED, (summary, *lines))


def scan(log: Iterable[str]) -> Iterator[Leak]:
    """The places in the output of `git log -p --format="commit %h"` that look like secrets."""
    commit = file = ""
    for line in log:
        if line.startswith("commit "):
            commit = line.split()[1]
        elif line.startswith("+++ "):
            file = line[4:].strip().removeprefix("b/")
        elif line.startswith("+"):
            yield from (Leak(commit, file, rule) for rule in broken(line[1:]))


def broken(line: str) -> Iterator[str]:
    """The rules that a line meets."""
    for name, rule in RULES.items():
        if rule.search(line):
            yield name
    for name, rule in GUESSES.items():
        if any(entropy(found) >= ENOUGH_BITS for found in rule.findall(line)):
            yield name


def entropy(text: str) -> float:
    """Shannon's, in bits a character."""
    return -sum(
        count / len(text) * math.log2(count / len(text)) for count in Counter(text).values()
    )


def _counted(lines: Iterable[str], count: Counter[str]) -> Iterator[str]:
    for line in lines:
        if line.startswith("commit "):
            count["commits"] += 1
        yield line
