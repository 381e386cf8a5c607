from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np
import pytest

from trtpipe.config import toolchain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    toolchain.version.cache_clear()
    yield
    toolchain.version.cache_clear()


def test_version_of_an_installed_package() -> None:
    assert toolchain.version("numpy") == np.__version__
    assert toolchain.version("onnx-ir") == metadata.version("onnx_ir")


@pytest.mark.parametrize("name", ["no-such-package", "json", "no_such_package"])
def test_version_of_what_no_distribution_owns(name: str) -> None:
    assert toolchain.version(name) is None


def test_another_distribution_of_the_same_module_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "madeup_gpu-1.2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: madeup-gpu\nVersion: 1.2.3\n")
    (info / "top_level.txt").write_text("madeup\n")
    (tmp_path / "madeup.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert toolchain.version("madeup") == "1.2.3"


def test_versions_are_sorted_and_name_the_absent() -> None:
    found = toolchain.versions(["onnx", "numpy", "no-such-package"])
    assert list(found) == ["no-such-package", "numpy", "onnx"]
    assert found == {
        "no-such-package": "absent",
        "numpy": metadata.version("numpy"),
        "onnx": metadata.version("onnx"),
    }


def test_looking_up_versions_imports_nothing() -> None:
    code = (
        "import sys; from trtpipe.config.toolchain import versions, machine; "
        "versions(['onnx', 'torch', 'onnxruntime']); machine(); "
        "print([m for m in ('onnx', 'torch', 'onnxruntime', 'numpy') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_python_version() -> None:
    assert toolchain.python_version() == ".".join(str(part) for part in sys.version_info[:3])


def test_machine_describes_this_one() -> None:
    found = toolchain.machine()
    assert set(found) == {"cpu", "cores", "memory", "os", "python"}
    assert found["cpu"]
    cores, memory = found["cores"], found["memory"]
    assert isinstance(cores, int)
    assert isinstance(memory, int)
    assert 1 <= cores <= (os.cpu_count() or 1)
    assert 1 << 28 < memory < 1 << 50
    assert platform.system() in str(found["os"]) or sys.platform == "darwin"


@pytest.mark.parametrize(
    ("cpuinfo", "board", "expected"),
    [
        ("processor : 0\nmodel name\t: Fast CPU @ 3.0GHz\nmodel name: Other\n", None, "Fast CPU @ 3.0GHz"),
        ("processor : 0\nCPU part : 0xd42\n", "NVIDIA Jetson AGX Orin\0", "NVIDIA Jetson AGX Orin"),
        (None, None, platform.machine()),
    ],
)
def test_cpu_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str | None, board: str | None, expected: str
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name, text in (("_CPUINFO", cpuinfo), ("_BOARD", board)):
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(toolchain, name, path)
    assert toolchain.machine()["cpu"] == expected
