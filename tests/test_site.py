"""The documentation as a site: its navigation, the pages written from the code, and a strict build."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).parents[1]


def module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def listed(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        for value in entry.values():
            yield from listed(value) if isinstance(value, list) else (value,)


def test_the_navigation_has_every_page_once() -> None:
    yaml = pytest.importorskip("yaml")
    pages = list(listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    wanted = {"README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md"}
    wanted |= {
        path.relative_to(ROOT).as_posix() for folder in ("docs", "examples") for path in (ROOT / folder).rglob("*.md")
    }
    assert sorted(pages) == sorted(wanted)


@pytest.mark.slow
def test_it_builds_without_a_warning_and_a_browser_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="pip install '.[docs]'")
    module("tools/make_site.py").stage(tmp_path / "build" / "site-pages")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "build" / "site").rglob("*.html"))
    assert len(pages) > 30
    loads = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=\"(https?://[^\"]*)\"")
    assert {url for page in pages for url in loads.findall(page.read_text(encoding="utf-8"))} == set()


class TestSettings:
    def test_the_page_is_what_the_code_says_today(self) -> None:
        page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
        assert page == module("docs/make_settings.py").render(), "run: python docs/make_settings.py"

    @pytest.mark.parametrize("record", [DeploymentProfile, CalibrationRecipe])
    def test_every_key_is_explained(self, record: type[BaseModel]) -> None:
        page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
        rows = dict(re.findall(r"^\| `(\w+)` \| [^|]* \| (.*) \|$", page, re.MULTILINE))
        tables = set(re.findall(r"^### \[([\w.]+)\]$", page, re.MULTILINE))
        for name in record.model_fields:
            assert name in tables or rows[name] or name == "description", name
        assert [name for name, meaning in rows.items() if not meaning.strip()] == ["description"]


def test_messages_in_troubleshooting_are_those_of_the_code() -> None:
    code = " ".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "trtpipe").rglob("*.py")))
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    phrases = [
        phrase for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for phrase in re.findall(r"`(.+?)`", row)
    ]
    assert len(phrases) > 10
    assert [phrase for phrase in phrases if phrase not in code] == []
