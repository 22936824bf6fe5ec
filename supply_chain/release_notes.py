"""The section of CHANGELOG.md that belongs to a tag: `python -m supply_chain.release_notes v1.2.3`.

Format: Keep a Changelog 1.1. A release without notes is refused.
"""

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"


def notes(changelog: str, tag: str) -> str:
    """The text under the tag's heading. Raises `ValueError` where there is none."""
    version = tag.removeprefix("refs/tags/").removeprefix("v")
    section = rf"^## \[{re.escape(version)}\][^\n]*\n(.*?)(?=^## |\Z)"
    found = re.search(section, changelog, re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\[[^]]+\]: .*\n?", "", found[1], flags=re.MULTILINE).strip() if found else ""
    if not text:
        raise ValueError(f"CHANGELOG.md has no notes for {version}: add '## [{version}] - DATE'")
    return text


if __name__ == "__main__":
    try:
        print(notes(CHANGELOG.read_text("utf-8"), sys.argv[1]))
    except (ValueError, IndexError) as error:
        sys.exit(str(error))
