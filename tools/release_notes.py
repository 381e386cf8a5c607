"""Print the notes of a release, made from its part of CHANGELOG.md: ``python tools/release_notes.py VERSION [BASE]``.

Links into the repository begin with BASE, the address of its files at the release's tag, so that the notes can be read
elsewhere. A version that is still called unreleased, or that the package does not have, is refused.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def notes(changelog: str, version: str, base: str = "") -> str:
    """The text below the heading ``## VERSION (DATE)``, headings one level up.

    Raises:
        ValueError: there is no such heading, it has no date, or nothing is below it.
    """
    parts = re.split(r"^## +", changelog, flags=re.MULTILINE)[1:]
    found = next((part for part in parts if part.split(maxsplit=1)[0] == version), None)
    if found is None:
        raise ValueError(f"CHANGELOG.md has no heading '## {version} (DATE)'")
    heading, _, text = found.partition("\n")
    if not re.fullmatch(re.escape(version) + r" \(\d{4}-\d\d-\d\d\)", heading.strip()):
        raise ValueError(f"CHANGELOG.md: '## {heading}' has no date: write '## {version} (YYYY-MM-DD)'")
    if not text.strip():
        raise ValueError(f"CHANGELOG.md: nothing is below '## {heading}'")
    text = re.sub(r"^###(#*) ", r"##\1 ", text, flags=re.MULTILINE)
    if base:
        text = re.sub(r"\]\((?![a-z]+:|#)", f"]({base.rstrip('/')}/", text)
    return text.strip() + "\n"


def main(arguments: list[str]) -> None:
    """Print the notes."""
    version, *base = arguments
    package = (ROOT / "trtpipe" / "__init__.py").read_text(encoding="utf-8")
    if f'__version__ = "{version}"' not in package:
        sys.exit(f"trtpipe/__init__.py has another version than {version}")
    try:
        sys.stdout.write(notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version, *base))
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
