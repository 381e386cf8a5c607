"""``trtpipe report``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


def test_writes_the_page_and_says_where(run: Run, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "page.html"
    result = run("report", bundle, "-o", out)
    assert (result.exit_code, result.stdout) == (0, f"result: {out}\n")
    assert "</html>" in out.read_text(encoding="utf-8")
    with_plots = run("report", bundle, "--plots", "--json", "-o", out)
    assert json.loads(with_plots.stdout) == {"command": "report", "exit_code": 0, "out": str(out)}
    assert "<svg" in out.read_text(encoding="utf-8")


def test_a_folder_that_is_no_build_is_bad_input(run: Run, tmp_path: Path) -> None:
    result = run("report", tmp_path)
    assert result.exit_code == 2
    assert "no bundle lies there" in result.stderr
