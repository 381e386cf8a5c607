"""Notes of a release, made from the changelog."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools" / "release_notes.py"
notes = runpy.run_path(str(TOOL))["notes"]

CHANGELOG = """\
# Changelog

## 0.3.0 (unreleased)

### Build

- Later.

## 0.2.0 (2026-12-01)

First words.

### Build

- New: [shapes](docs/shapes.md#giving-them), [elsewhere](https://example.org/x), [below](#build).

#### Details

## 0.1.0 (2026-11-01)

- First.
"""


def test_one_version_with_headings_one_level_up() -> None:
    text = notes(CHANGELOG, "0.2.0")
    assert text.startswith("First words.\n\n## Build\n\n- New")
    assert text.endswith("### Details\n")
    assert notes(CHANGELOG, "0.1.0") == "- First.\n"


def test_links_into_the_repository_begin_with_the_base() -> None:
    text = notes(CHANGELOG, "0.2.0", "https://example.org/blob/v0.2.0/")
    assert "(https://example.org/blob/v0.2.0/docs/shapes.md#giving-them)" in text
    assert "(https://example.org/x)" in text
    assert "(#build)" in text


@pytest.mark.parametrize(("version", "reason"), [("0.3.0", "no date"), ("0.2", "no heading"), ("0.4.0", "no heading")])
def test_refused(version: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        notes(CHANGELOG, version)


def test_a_heading_with_nothing_below_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is below"):
        notes("# Changelog\n\n## 0.2.0 (2026-12-01)\n\n## 0.1.0 (2026-11-01)\n\n- First.\n", "0.2.0")


def test_of_the_changelog_at_hand_as_it_will_be_released() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("(unreleased)", "(2026-12-24)", 1)
    found = notes(text, "0.1.0")
    assert "## Build\n" in found
    assert "# Changelog" not in found


def test_a_version_that_the_package_does_not_have_is_refused() -> None:
    done = subprocess.run([sys.executable, TOOL, "99.0.0"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "another version" in done.stderr
