from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trtpipe.backends.gpu import gpus, parse_gpus

if TYPE_CHECKING:
    from pathlib import Path


def fake_smi(folder: Path, body: str, monkeypatch) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{body}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_line_a_gpu():
    ada, hopper = parse_gpus("GPU-1, NVIDIA L4, 8.9, 570.86.15, 23034\nGPU-2, NVIDIA H200, 9.0, 570.86.15, 143771\n")
    assert (ada.uuid, ada.name, ada.capability, ada.target) == ("GPU-1", "NVIDIA L4", (8, 9), "sm89")
    assert (hopper.target, hopper.driver, hopper.memory) == ("sm90", "570.86.15", 143771 * 1024 * 1024)


def test_a_jetson_is_known_by_its_name():
    [orin] = parse_gpus("GPU-1, Orin (nvgpu), [N/A], 540.4.0, [N/A]\n")
    assert (orin.capability, orin.memory) == ((8, 7), None)


@pytest.mark.parametrize("text", ["", "No devices were found\n", "GPU-1, Mystery, [N/A], 1, 2\n", "a,b\n"])
def test_what_is_no_gpu(text):
    assert parse_gpus(text) == ()


@pytest.mark.parametrize("body", ["echo 'NVIDIA-SMI has failed'; exit 9", "echo garbage"])
def test_a_tool_that_fails_means_no_gpu(tmp_path, monkeypatch, body):
    fake_smi(tmp_path, body, monkeypatch)
    assert gpus() == ()


def test_the_tool_is_asked(tmp_path, monkeypatch):
    fake_smi(tmp_path, "echo 'GPU-9, NVIDIA GeForce RTX 4090, 8.9, 570.1, 24564'", monkeypatch)
    assert [gpu.name for gpu in gpus()] == ["NVIDIA GeForce RTX 4090"]


def test_no_tool_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == ()
