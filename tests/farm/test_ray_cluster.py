"""Real Ray clusters of several nodes on this machine: where tasks go, what they get, and nodes that do not fit.

pytest -m farm tests/farm
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import trtpipe
from trtpipe.store import ArtifactStore

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.farm
pytest.importorskip("ray", reason="needs the extra farm: ray", exc_type=ImportError)
OURS = f"trtpipe-{trtpipe.__version__}"
HEAD = 'precisions = ["fp16", "int8"]\ntargets = ["sm89", "sm120"]\nbackends = ["null"]\n'


@contextmanager
def cluster(*nodes: dict[str, Any], version: str = "") -> Iterator[str]:
    """The address of a cluster with these nodes."""
    asked = json.dumps({"ray": version, "nodes": nodes})
    words = [sys.executable, str(ROOT / "benchmarks" / "ray_nodes.py"), asked]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()  # it ends with its input


def node(cache: Path, *resources: str, **environment: str) -> dict[str, Any]:
    """One that says that it has these, with a cache of its own."""
    plenty = {name: 1.0 if name.startswith("gpu") else 1000.0 for name in resources}
    return {"resources": plenty, "env": {"TRTPIPE_CACHE_DIR": str(cache), **environment}}


#: Begins a process with a file system of its own, for what only the driver has.
ALONE = ("unshare", "--mount")


def drive(folder: Path, address: str, *prefix: str) -> subprocess.CompletedProcess[str]:
    """Run the matrix, in a folder that holds no code: Ray's workers import what lies in the driver's."""
    words = ["matrix", str(folder / "matrix.toml"), "-o", str(folder / "out"), "--ray", address]
    store = ["--store", f"file://{folder}/shared", "--cache-dir", str(folder / "driver")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*prefix, sys.executable, "-m", "trtpipe", *words, *store], env=environment, capture_output=True, text=True,
        check=False, timeout=300, cwd=folder,
    )  # fmt: skip


def made(cache: Path) -> set[tuple[str, str]]:
    """(stage, target) of what is in a cache."""
    return {(stored.entry.key.stage, stored.entry.key.target or "") for stored in ArtifactStore(cache).entries()}


def headlines(folder: Path) -> list[str]:
    report = json.loads((folder / "out" / "matrix.json").read_text())
    assert all(cell["exit_code"] == 6 for cell in report["cells"])
    return [cell["headline"] for cell in report["cells"]]


class Confined:
    """Watches for children of this machine's processes that cannot leave their sandbox."""

    def __init__(self) -> None:
        self.seen = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self.seen and not self._over.wait(0.1):
            for status in Path("/proc").glob("[0-9]*/status"):
                with suppress(OSError):
                    if "\nSeccomp:\t2\n" in status.read_text() and self._of_ray(status.parent):
                        self.seen = True

    def _of_ray(self, process: Path) -> bool:
        """Whether a worker of Ray is above it."""
        while process.name not in ("0", "1"):
            if process.joinpath("cmdline").read_bytes().startswith(b"ray::"):
                return True
            words = process.joinpath("stat").read_text().rpartition(") ")[2].split()
            process = process.with_name(words[1])
        return False

    def __enter__(self) -> Confined:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def hide(folder: Path) -> Callable[[Path], tuple[str, ...]]:
    """Begins a process that sees a folder's content in ``mine``, as no other process does."""
    if subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root has a file system of its own")
    (folder / "mine").mkdir()

    def prefix(content: Path) -> tuple[str, ...]:
        script = f'mount -t tmpfs tmpfs {folder}/mine && cp -r {content}/* {folder}/mine && exec "$@"'
        return (*ALONE, "sh", "-c", script, "sh")

    return prefix


def test_tasks_go_where_they_can_and_get_what_the_driver_alone_has(
    matrix: Callable[..., Path], folder: Path, hide: Callable[[Path], tuple[str, ...]]
) -> None:
    matrix(head=HEAD)
    kept = folder / "kept"
    kept.mkdir()
    for name in ("one.onnx", "data.npz"):
        (folder / name).rename(kept / name)
    text = (folder / "matrix.toml").read_text()
    (folder / "matrix.toml").write_text(text.replace('"one.onnx"', '"mine/one.onnx"').replace('"data.', '"mine/data.'))
    nodes = (
        node(folder / "plain", OURS),
        node(folder / "builder", OURS, "null-1"),
        node(folder / "gpu", OURS, "null-1", "gpu-sm120"),
        node(folder / "older", "trtpipe-0.0.1", "null-1", "gpu-sm89"),
    )
    with cluster(*nodes) as address, Confined() as confined:
        found = drive(folder, address, *hide(kept))
    assert found.returncode == 0, found.stdout + found.stderr
    plain, builder, gpu = (made(folder / name) for name in ("plain", "builder", "gpu"))
    assert {stage for stage, _ in plain} <= {"export", "simplify", "observe"}
    assert not (folder / "older").exists()
    assert {target for stage, target in builder if stage in ("verify", "bundle")} <= {"sm89", ""}
    assert any(stage == "compile" and target == "sm120" for stage, target in gpu)
    sent = {path.name for cache in ("plain", "builder", "gpu") for path in (folder / cache / "sent").glob("*/*")}
    assert sent == {"one.onnx", "data.npz"}
    assert confined.seen


@pytest.mark.parametrize(
    ("has", "words"), [("other", "has trtpipe 0.0.1, the driver"), ("ancient", "cannot do what the driver asks for")]
)
def test_a_node_that_is_not_what_it_says(matrix: Callable[..., Path], folder: Path, has: str, words: str) -> None:
    """It has another trtpipe than when it joined, or one that does not know what the driver asks."""
    matrix()
    shutil.copytree(ROOT / "trtpipe", folder / has / "trtpipe", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / has / "trtpipe" / "__init__.py"
    file.write_text(file.read_text().replace(f'"{trtpipe.__version__}"', '"0.0.1"'))
    if has == "ancient":
        (folder / has / "trtpipe" / "farm" / "perform.py").unlink()
    with cluster(node(folder / "cache", OURS, "null-1", PYTHONPATH=str(folder / has))) as address:
        found = drive(folder, address)
    assert found.returncode == 6, found.stdout + found.stderr
    assert all(words in line for line in headlines(folder)), headlines(folder)


def test_no_node_has_this_trtpipe(matrix: Callable[..., Path], folder: Path) -> None:
    matrix()
    with cluster(node(folder / "older", "trtpipe-0.0.1", "null-1"), node(folder / "bare")) as address:
        found = drive(folder, address)
    assert found.returncode == 6
    assert f"has trtpipe {trtpipe.__version__} (it has: 0.0.1, none)" in found.stderr
    assert not (folder / "shared").exists()


def test_another_version_of_ray(matrix: Callable[..., Path], folder: Path) -> None:
    matrix()
    with cluster(version="2.9.0") as address:
        found = drive(folder, address)
    assert found.returncode == 6
    assert "another version of Ray or Python than this machine" in found.stderr
    assert "2.9.0" in found.stderr
