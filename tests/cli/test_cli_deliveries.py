"""``trtpipe package make`` with ``--triton`` and ``--handover``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


def test_a_repository_for_the_onnxruntime_back_end(run: Run, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('name = "net"\ninstances = 2\n')
    out = tmp_path / "repository"
    result = run("package", "make", bundle, "-o", out, "--triton-backend", "onnxruntime", "--triton-settings",
                 tmp_path / "t.toml")  # fmt: skip
    assert (result.exit_code, result.stderr.count("error")) == (0, 0)
    assert "not run" in result.stdout
    config = (out / "net" / "config.pbtxt").read_text()
    assert "count: 2" in config
    assert "max_batch_size: 0" in config


def test_a_hand_over_as_json(run: Run, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text('workspace = "256M"\n')
    result = run("package", "make", bundle, "-o", tmp_path / "orin", "--handover", "orin", "--handover-options",
                 tmp_path / "b.toml", "--json")  # fmt: skip
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["model"]["plans"] == []
    assert "finish.py" in found["notes"][0]
    assert "--memPoolSize=workspace:256" in (tmp_path / "orin" / "trtexec.sh").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--triton",), "Triton's TensorRT back-end loads none"),
        (("--triton-settings", "missing.toml"), "missing.toml"),
        (("--handover", ""), "--handover: no target is named"),
        (("--handover", "jetson nano"), "unknown target 'jetson nano'"),
        (("--handover-options", "missing.toml"), "missing.toml"),
    ],
)
def test_bad_input_is_one_line_and_a_remedy(
    run: Run, bundle: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    result = run("package", "make", bundle, "-o", tmp_path / "out", *words)
    assert result.exit_code == 2
    error, remedy = [line for line in result.stderr.splitlines() if line.startswith(("error: ", "  try: "))]
    assert said in error
    assert remedy
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
