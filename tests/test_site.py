"""The documentation as a site: its navigation, the pages written from the code, and a strict build."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
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
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a warning."""
    pytest.importorskip("zensical", reason="pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    module("tools/make_site.py").stage(folder / "build" / "site-pages")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "site"


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_it_is_searched_without_a_network(site: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    asked: list[str] = []
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server,
        playwright.sync_playwright() as running,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(f"{address}docs/start.html", wait_until="networkidle")
        tab.keyboard.press("Control+k")
        tab.locator("input:visible").first.wait_for()
        tab.keyboard.type("percentile")
        tab.get_by_text(re.compile(r"\d+ results")).wait_for(timeout=20_000)
        browser.close()
        server.shutdown()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.slow
def test_a_browser_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
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
