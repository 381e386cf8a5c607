"""Tasks with the user's code, in children of a server that has imported torch."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from trtpipe.config.requirements import install
from trtpipe.config.settings import Settings
from trtpipe.config.source import FactorySource
from trtpipe.errors import HostError, InputError, UserCodeError
from trtpipe.exporter.request import ExportReply, TorchRequest
from trtpipe.isolation import fork_client
from trtpipe.isolation.fork_client import ForkServer, user_server
from trtpipe.isolation.messages import ForkRequest
from trtpipe.isolation.worker import Limits
from trtpipe.progress import NullProgress
from trtpipe.stages.export import export_torch

EXPORTERS = ("trtpipe.exporter.torch_export:export_module", "trtpipe.exporter.torch_export:export_program")
FACTORY = """
import os, sys
import torch

def make():
    {body}
    return torch.nn.Linear(2, 2).eval(), torch.zeros(1, 2)
"""


def export(folder: Path, body: str) -> ExportReply:
    work = folder / "work"
    work.mkdir(exist_ok=True)
    (folder / "net.py").write_text(FACTORY.format(body=body))
    source = FactorySource(module=str(folder / "net.py"), function="make")
    request = TorchRequest(
        module="", function="", workdir=str(work), opset=18, shapes={}, input_names=(), output_names=()
    )
    return export_torch(source, request, EXPORTERS, Settings(cache_dir=folder), NullProgress())


def server_of_tasks() -> int:
    process = user_server()._process
    assert process is not None
    return process.pid


def test_one_server_for_many_tasks_which_runs_no_code_of_theirs(tmp_path: Path) -> None:
    export(tmp_path, f"open({str(tmp_path / 'first')!r}, 'w').write(str(os.getppid()))")
    first = server_of_tasks()
    export(tmp_path, f"open({str(tmp_path / 'second')!r}, 'w').write(str(os.getppid()))")
    assert (
        [int((tmp_path / name).read_text()) for name in ("first", "second")]
        == [first, server_of_tasks()]
        == [first] * 2
    )


def test_what_one_task_changes_is_not_there_for_the_next(tmp_path: Path) -> None:
    export(tmp_path, "os.environ['LEFT'] = '1'; os.chdir('/'); torch.LEFT = 1; sys.path.insert(0, '/left')")
    export(tmp_path, f"assert 'LEFT' not in os.environ and os.getcwd() == {str(Path.cwd())!r}; "
                     "assert not hasattr(torch, 'LEFT') and '/left' not in sys.path")  # fmt: skip


def test_another_environment_gets_another_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(tmp_path, "pass")
    first = server_of_tasks()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # read by libraries when they are loaded
    export(tmp_path, "assert torch.get_num_threads() == 1")
    assert server_of_tasks() != first


def test_where_torch_is_missing_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server cannot import it either, and lives on: the child says what is missing."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')")
    monkeypatch.syspath_prepend(tmp_path / "without")
    monkeypatch.setenv("ANOTHER_SERVER", "1")
    with pytest.raises(HostError, match="needs the package 'torch'") as caught:
        export(tmp_path, "pass")
    assert install("torch") in caught.value.remedy


def test_the_folder_is_that_of_the_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(tmp_path, "pass")
    monkeypatch.chdir(tmp_path)
    export(tmp_path, f"assert os.getcwd() == {str(tmp_path)!r}")


def test_the_next_test_of_pytest_is_no_other_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    server = user_server()
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "tests/test_another.py::test_it (call)")
    assert user_server() is server


def test_after_the_server_was_killed_there_is_another(tmp_path: Path) -> None:
    export(tmp_path, "pass")
    process = user_server()._process
    assert process is not None
    process.kill()
    process.wait()
    assert "model.onnx" in export(tmp_path, "pass").names


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("os.closerange(3, 4000)", UserCodeError, "closed files that it had not opened"),
        ("os.kill(os.getpid(), 11)", UserCodeError, "SIGSEGV"),
        ("sys.exit(0)", InputError, "SystemExit"),
        ("raise ValueError('mine')", InputError, "mine"),
    ],
)
def test_ends(tmp_path: Path, body: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        export(tmp_path, body)


def test_a_fork_of_the_users_reports_nothing(tmp_path: Path) -> None:
    assert "model.onnx" in export(tmp_path, "[os.fork() for _ in range(3)]").names


def test_a_server_that_is_not_needed_ends_by_itself_and_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ForkServer(dict(os.environb), 0.2)
    try:
        child = fork_client.Child(
            ForkRequest(session="trtpipe.isolation.user_task:serve"), _limits(), NullProgress(), "f", server
        )
        first = server._process
        assert first is not None
        time.sleep(0.6)
        assert first.poll() is None  # it has a child
        with child:
            pass
        assert first.wait(timeout=20) == 0
        with fork_client.Child(
            ForkRequest(session="trtpipe.isolation.user_task:serve"), _limits(), NullProgress(), "f", server
        ):
            assert server._process is not None
            assert server._process.pid != first.pid
    finally:
        server.close()


def _limits() -> Limits:
    return Limits(seconds=60.0, memory=1 << 33, confined=False)
