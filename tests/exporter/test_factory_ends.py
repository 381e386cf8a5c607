"""Factories that end or leave their process: a typed error that names the function, and no other process goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtpipe.config.settings import Settings
from trtpipe.config.source import FactorySource
from trtpipe.errors import InputError, UserCodeError
from trtpipe.exporter.request import ExportReply, TorchRequest
from trtpipe.progress import NullProgress
from trtpipe.stages.export import export_torch

HEAD = """import os, signal, sys, time
import torch


def make():
    module = torch.nn.Linear(2, 2).eval()
    {body}
    return module, torch.zeros(1, 2)
"""
EXPORTERS = ("trtpipe.exporter.torch_export:export_module", "trtpipe.exporter.torch_export:export_program")


def export(tmp_path: Path, body: str, **settings: float) -> ExportReply:
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "net.py").write_text(HEAD.format(body=body))
    source = FactorySource(module=str(tmp_path / "net.py"), function="make")
    request = TorchRequest(
        module="", function="", workdir=str(work), opset=18, shapes={}, input_names=(), output_names=()
    )
    return export_torch(source, request, EXPORTERS, Settings(cache_dir=tmp_path, **settings), NullProgress())


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("os._exit(0)", UserCodeError, "ended its process with exit status 0 while exporting"),
        ("raise GeneratorExit", InputError, "raised GeneratorExit: .*net.py, line 7"),
    ],
)
def test_of_its_process(tmp_path: Path, body: str, kind: type[InputError], words: str) -> None:
    with pytest.raises(kind, match=rf"net\.py:make {words}"):
        export(tmp_path, body)


def test_by_an_interruption_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path, "raise KeyboardInterrupt")


def test_has_the_environment_but_the_secret_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_USER", "1")
    monkeypatch.setenv("TRTPIPE_CACHE_KEY", "a secret of sixteen and more")
    observed = export(tmp_path, "assert os.environ['OF_THE_USER'] and not os.getenv('TRTPIPE_CACHE_KEY')").observed
    assert observed.variables == ("OF_THE_USER", "TRTPIPE_CACHE_KEY")
    assert observed.files == (str(tmp_path / "net.py"),)


def test_an_endless_loop(tmp_path: Path) -> None:
    with pytest.raises(UserCodeError, match=r"net\.py:make made no progress for 8\.0 s while exporting"):
        export(tmp_path, "time.sleep(600)", worker_seconds=8.0)


def test_a_fork_does_not_go_on(tmp_path: Path) -> None:
    reply = export(tmp_path, "os.fork()")
    assert "model.onnx" in reply.names
