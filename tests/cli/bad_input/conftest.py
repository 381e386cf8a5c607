"""A good output folder from an earlier run, and commands that must fail in good order without touching it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import onnx
import pytest

import trtpipe

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

#: Options of a build that takes no longer than it must.
QUICK = ("--backend", "null", "--target", "sm89", "--no-simplify", "--warmup", "1ms", "--duration", "10ms")


class Snapshot(Protocol):
    def __call__(self, *folders: Path) -> dict[Path, bytes | None]: ...


class Refused(Protocol):
    def __call__(
        self, *words: str | Path, code: int = 2, options: tuple[str, ...] = QUICK, kept: str = ""
    ) -> tuple[str, str]: ...


class Variant(Protocol):
    def __call__(self, folder: str = "", *, external: str = "") -> tuple[onnx.ModelProto, Path]: ...


@pytest.fixture(scope="session")
def quick() -> tuple[str, ...]:
    return QUICK


@pytest.fixture(scope="session")
def snapshot() -> Snapshot:
    """Everything in some folders: the bytes of files, ``None`` for folders."""

    def take(*folders: Path) -> dict[Path, bytes | None]:
        found = (path for folder in folders for path in (folder, *folder.rglob("*")))
        return {path: path.read_bytes() if path.is_file() else None for path in found}

    return take


@pytest.fixture(scope="module")
def earlier(run: Run, model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a build that went well."""
    out = tmp_path_factory.mktemp("earlier") / "out"
    result = run("build", model, "-o", out, "--int8", "--calib-data", data, *QUICK)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def refused(run: Run, earlier: Path, snapshot: Snapshot) -> Refused:
    """Build into the earlier folder; it must fail, say so in two lines, and change nothing.

    Args:
        kept: the stage that fails, where it is so late that what was built before is kept beside the earlier folder.

    Returns:
        What it says is wrong, and what it says to do.
    """

    def invoke(*words: str | Path, code: int = 2, options: tuple[str, ...] = QUICK, kept: str = "") -> tuple[str, str]:
        watched = earlier if kept else earlier.parent
        before = snapshot(watched)
        result = run("build", "-o", earlier, *options, *words)
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        lines = result.stderr.splitlines()
        assert [line.partition(":")[0] for line in lines].count("error") == 1
        assert [line.partition(":")[0] for line in lines].count("  try") == 1
        assert lines[-2].startswith("error: ")
        assert lines[-1].startswith("  try: ")
        assert snapshot(watched) == before
        if kept:
            manifest = trtpipe.Manifest.read(earlier.with_name("out.rejected") / "manifest.json")
            assert [failure.step for failure in manifest.verdict.failures] == [kept]
            assert manifest.verdict.exit_code == code
        return lines[-2].removeprefix("error: "), lines[-1].removeprefix("  try: ")

    return invoke


@pytest.fixture
def variant(model: Path, tmp_path: Path) -> Variant:
    """A copy of the model to spoil: its parsed graph, and its path. ``external`` names a file for its weight."""

    def copy(folder: str = "", *, external: str = "") -> tuple[onnx.ModelProto, Path]:
        path = tmp_path / folder / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        if external:
            onnx.save(onnx.load(model), path, save_as_external_data=True, location=external, size_threshold=0)
        else:
            path.write_bytes(model.read_bytes())
        return onnx.load(path, load_external_data=False), path

    return copy
