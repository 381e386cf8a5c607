"""``trtpipe matrix`` on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


def test_only_a_dry_run_needs_no_output_folder(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text('targets = ["sm89"]\nbackends = ["null"]\n[[models]]\nsource = "gone.onnx"\n')
    dry = run("matrix", file, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "gone.onnx" in dry.stdout
    real = run("matrix", file)
    assert real.exit_code == 2
    assert "--out" in real.stderr
