"""``trtpipe doctor``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import trtpipe
from trtpipe.api.doctor import BackendState, CacheState, Diagnosis, PackageState, StageState

if TYPE_CHECKING:
    from tests.cli.conftest import Run


def diagnosis(
    *, problem: str = "", extra: str = "", cache: str = "", flavors: tuple[str, ...] = ("tensorrt", "tensorrt-rtx")
) -> Diagnosis:
    """One of a machine with ``flavors`` installed."""
    install = "pip install --upgrade 'onnx>=1.18'" if problem else ""
    package = PackageState(name="onnx", extra=extra, needed="1.18", installed="1.17", problem=problem, install=install)
    return Diagnosis(
        trtpipe="1.0",
        machine={"cpu": "a CPU", "cores": 4, "memory": 1, "os": "an OS", "python": "3.12.0"},
        memory=16_000_000_000,
        packages=(package,),
        backends=tuple(
            BackendState(name=name, version="1" if name in flavors else None, install="pip install it")
            for name in ("tensorrt-rtx", "tensorrt")
        ),
        gpus=(),
        driver=False,
        landlock=0,
        sandbox=(),
        cache=CacheState(path="cache", free=10_000_000_000, problem=cache),
        stages=(StageState(stage="export", ready=not problem, where="CPU"),),
        ready=not cache and (not problem or bool(extra)),
    )


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        (diagnosis(), 0, ["PASSED | every build can run", "16.0 GB memory", "10.0 GB free"]),
        (
            diagnosis(flavors=("tensorrt-rtx",)),
            0,
            ["PASSED | builds with tensorrt-rtx can run; not those with tensorrt: not installed"],
        ),
        (diagnosis(flavors=()), 0, ["PASSED | everything but engines can be made: no TensorRT is installed"]),
        (diagnosis(problem="1.17 is too old"), 6, ["FAILED", "onnx: 1.17 is too old\n    pip install --upgrade"]),
        (diagnosis(problem="not installed", extra="torch"), 0, ["PASSED", "onnx: not installed\n    pip install"]),
        (
            diagnosis().model_copy(update={"advisories": ("tensorrt 10.3: a bulletin asks for 10.16.1",)}),
            0,
            ["\nwarning: tensorrt 10.3: a bulletin asks for 10.16.1\n", "PASSED"],
        ),
        (diagnosis(cache="no permission"), 6, ["FAILED", "cache: no permission", "--cache-dir"]),
    ],
)
def test_exit_code_and_remedies(
    run: Run, monkeypatch: pytest.MonkeyPatch, found: Diagnosis, code: int, words: list[str]
) -> None:
    monkeypatch.setitem(vars(trtpipe), "diagnose", lambda _: found)
    result = run("doctor")
    assert result.exit_code == code
    for word in words:
        assert word in result.stdout
    document = json.loads(run("doctor", "--json").stdout)
    assert document["exit_code"] == code
    assert document["ready"] is (code == 0)


def test_real_one_finds_every_stage(run: Run) -> None:
    document = json.loads(run("doctor", "--json").stdout)
    assert document["exit_code"] == 0
    assert [stage["stage"] for stage in document["stages"]] == [
        "export",
        "simplify",
        "calibrate",
        "lower",
        "compile",
        "verify",
        "measure",
    ]
