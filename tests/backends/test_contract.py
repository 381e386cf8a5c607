"""The same promises of every back-end that is installed here: what the stages rely on."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack

import numpy as np
import pytest

from trtpipe.backends.base import BACKENDS, EngineRequest, load_backend, missing
from trtpipe.config.profile import DeploymentProfile, ShapeRange
from trtpipe.config.target import find_target
from trtpipe.errors import HostError, InputError, InternalError

SM89 = find_target("sm89")
PROFILE = DeploymentProfile(shapes=({"x": ShapeRange(min=(1, 3, 16, 16), opt=(2, 3, 16, 16), max=(4, 3, 16, 16))},))


@pytest.fixture(params=sorted(BACKENDS))
def backend(request):
    """Each back-end; TensorRT is the recording fake where it is not installed, because that needs a GPU."""
    if request.param == "tensorrt" and missing("tensorrt") is not None:
        request.getfixturevalue("recording_tensorrt")
    refusal = missing(request.param)
    if refusal is not None:
        pytest.skip(refusal.reason)
    return load_backend(request.param)


def test_it_has_its_name(backend):
    assert BACKENDS[backend.name][1].endswith(type(backend).__name__)


def test_its_fingerprint_is_stable_text(backend, settings):
    fingerprint = backend.fingerprint(settings)
    assert fingerprint == backend.fingerprint(settings)
    assert backend.name in fingerprint
    assert all(isinstance(value, str) and value for value in fingerprint.values())


def test_asking_imports_no_vendor_package(backend, settings, conv_net):
    code = (
        "import sys; from pathlib import Path; from trtpipe.backends.base import load_backend;"
        "from trtpipe.config.profile import DeploymentProfile; from trtpipe.config.settings import Settings;"
        "from trtpipe.config.target import find_target;"
        "backend = load_backend(sys.argv[1]); backend.fingerprint(Settings(cache_dir=Path()));"
        "backend.refuses(Path(sys.argv[2]), DeploymentProfile(), find_target('sm89'));"
        "print({'tensorrt', 'tensorrt_rtx', 'polygraphy', 'onnxruntime', 'torch'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, backend.name, str(conv_net)], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "set()\n"


def test_it_refuses_with_a_remedy_or_it_builds(backend, conv_net, tmp_path, settings, heard):
    plan = tmp_path / "e.plan"
    refusal = backend.refuses(conv_net, PROFILE, SM89)
    if refusal is not None:
        assert refusal.reason
        assert refusal.remedy
        with pytest.raises((HostError, InternalError)):
            backend.build(EngineRequest(conv_net, PROFILE, (SM89,), plan, settings), heard)
        assert not plan.exists()
        return
    record = backend.build(EngineRequest(conv_net, PROFILE, (SM89,), plan, settings), heard)
    assert (record.flavor, record.target) == (backend.name, "sm89")
    assert [(spec.name, spec.dtype) for spec in record.io.inputs] == [("x", "float32")]
    assert [(spec.name, spec.dtype) for spec in record.io.outputs] == [("y", "float32")]
    assert plan.stat().st_size > 0
    assert heard.reports
    left = {entry.name for entry in tmp_path.iterdir() if entry != settings.cache_dir}
    assert left == {"model.onnx", "e.plan"}


def test_what_it_opens_runs(backend, conv_net, tmp_path, settings, heard):
    target = conv_net
    if backend.refuses(conv_net, PROFILE, SM89) is None:
        target = tmp_path / "e.plan"
        backend.build(EngineRequest(conv_net, PROFILE, (SM89,), target, settings), heard)
    with ExitStack() as stack:
        try:
            runner = stack.enter_context(backend.open(target, settings))
        except HostError as error:
            pytest.skip(error.message)
        assert runner.device
        assert [spec.name for spec in runner.inputs] == ["x"]
        answer = runner.infer({"x": np.ones((2, 3, 16, 16), np.float32)})
        assert list(answer) == [spec.name for spec in runner.outputs] == ["y"]
        assert answer["y"].shape == (2, 8, 16, 16)
        assert answer["y"].dtype == np.float32
        with pytest.raises(InputError):
            runner.infer({"wrong": np.ones((2, 3, 16, 16), np.float32)})


def test_a_missing_package_is_said_with_its_remedy(monkeypatch):
    monkeypatch.setitem(BACKENDS, "tensorrt", ("no_such_package", "trtpipe.backends.tensorrt:TensorRT"))
    with pytest.raises(HostError, match="not installed") as caught:
        load_backend("tensorrt")
    assert "pip install" in caught.value.remedy


def test_the_null_backend_is_always_here():
    assert missing("null") is None
