"""The built wheel in an empty environment of every supported Python that is here. Packages come from the index.

    pytest -m installation tests/test_installation.py

Pythons are those on the PATH and pyenv's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from models import conv_net, save

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
pytestmark = pytest.mark.installation


def interpreter(version: str) -> Path | None:
    """A Python of this version that makes environments."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    places = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))]
    for place in filter(None, places):
        asked = f"import ensurepip, sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
        if not subprocess.run([place, "-c", asked], capture_output=True, check=False).returncode:
            return Path(place)
    return None


def done(*words: str | Path, folder: Path, code: int = 0) -> str:
    """What a command prints that has to end with ``code``, of whose environment nothing leads to this checkout."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TRTPIPE"))}
    variables["TRTPIPE_CACHE_DIR"] = str(folder / "cache")
    found = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert found.returncode == code, f"{words}\n{found.stdout}{found.stderr}"
    return found.stderr if code else found.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, ROOT / "tools" / "make_dist.py", folder], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(params=VERSIONS)
def programs(request: pytest.FixtureRequest, wheel: Path, tmp_path: Path) -> Iterator[Path]:
    """``bin`` of an environment that holds the wheel and what it needs."""
    python = interpreter(request.param)
    if python is None:
        pytest.skip(f"no Python {request.param} here")
    done(python, "-m", "venv", tmp_path / "venv", folder=tmp_path)
    programs = tmp_path / "venv" / "bin"
    done(programs / "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, folder=tmp_path)
    yield programs
    shutil.rmtree(tmp_path / "venv")


def test_an_empty_environment_of_its_own(programs: Path, tmp_path: Path) -> None:
    model = save(conv_net("1"), tmp_path / "net.onnx")
    trtpipe = programs / "trtpipe"
    place = Path(done(programs / "python", "-c", "import trtpipe; print(trtpipe.__file__)", folder=tmp_path).strip())
    assert place.is_relative_to(tmp_path / "venv")
    assert "build" in done(trtpipe, "--help", folder=tmp_path)
    assert "whisper-mel" in done(trtpipe, "recipes", folder=tmp_path)
    assert "trtpipe build" in done(trtpipe, "init", model, "-o", "start", folder=tmp_path)
    done(trtpipe, "doctor", folder=tmp_path)
    options = ("--fp16", "--backend", "null", "--target", "sm89", "-o", "out")
    assert "result: out" in done(trtpipe, "build", model, *options, folder=tmp_path)
    done(trtpipe, "report", "out", folder=tmp_path)
    assert "pip install 'torch>=" in without_torch(trtpipe, tmp_path)
    assert (tmp_path / "out" / "report.html").is_file()


def test_pipx(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipx = shutil.which("pipx")
    if pipx is None:
        pytest.skip("pipx is not installed")
    monkeypatch.setenv("PIPX_HOME", str(tmp_path / "pipx"))
    monkeypatch.setenv("PIPX_BIN_DIR", str(tmp_path / "bin"))
    done(pipx, "install", wheel, folder=tmp_path)
    assert "build" in done(tmp_path / "bin" / "trtpipe", "--help", folder=tmp_path)
    assert "pipx inject trtpipe 'torch>=" in without_torch(tmp_path / "bin" / "trtpipe", tmp_path)


def without_torch(trtpipe: Path, folder: Path) -> str:
    """What is said of a PyTorch source where torch is not installed."""
    (folder / "net.py").write_text("import torch\n\ndef net(): return torch.nn.ReLU(), torch.ones(1)\n")
    options = ("--fp16", "--backend", "null", "--target", "sm89", "-o", "out")
    return done(trtpipe, "build", "net.py:net", *options, folder=folder, code=6)
