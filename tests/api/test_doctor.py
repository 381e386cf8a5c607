"""The diagnosis: what is found here, and what is said of a machine that lacks things."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from trtpipe.api import doctor
from trtpipe.api.doctor import ImportRequest, diagnose, import_task
from trtpipe.backends.gpu import Gpu
from trtpipe.config.requirements import Requirement
from trtpipe.config.settings import Settings
from trtpipe.config.toolchain import version

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.api.doctor import Diagnosis


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", worker_seconds=60)


def with_packages(monkeypatch: pytest.MonkeyPatch, *needs: Requirement) -> None:
    """Let trtpipe need these packages and no others."""
    monkeypatch.setattr(doctor, "requirements", lambda: needs)


def stage(found: Diagnosis, name: str) -> doctor.StageState:
    return next(state for state in found.stages if state.stage == name)


class TestHere:
    def test_the_core_works_where_the_tests_run(self, settings: Settings) -> None:
        found = diagnose(settings)
        assert found.ready
        core = {package.name: package for package in found.packages if not package.extra}
        assert core["onnx"].installed == version("onnx")
        assert not [package for package in core.values() if package.problem]
        assert all(state.ready for state in found.stages if state.stage != "compile")
        assert not settings.cache_dir.exists(), "looking leaves nothing behind"


class TestAdvisories:
    def test_an_installed_version_that_a_bulletin_asks_to_replace(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert not [words for words in diagnose(settings).advisories if not words.startswith("tensorrt ")]
        monkeypatch.setattr(doctor, "open_advisories", lambda: ("tensorrt 10.3: ...",))
        found = diagnose(settings)
        assert found.advisories == ("tensorrt 10.3: ...",)
        assert found.ready, "a warning is no obstacle"


class TestPackages:
    def test_missing_old_and_broken_ones_come_with_the_command_that_helps(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        package = tmp_path / "site" / "trtpipe_test_broken"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise OSError('libGL.so.1: cannot open\\nsecond line')")
        info = tmp_path / "site" / "trtpipe_test_broken-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trtpipe-test-broken\nVersion: 1.0\n")
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
        with_packages(
            monkeypatch,
            Requirement("numpy", "1.26"),
            Requirement("onnx", "999"),
            Requirement("trtpipe-test-broken", "1.0"),
            Requirement("trtpipe-test-absent", "3.1", "images"),
        )
        found = diagnose(settings)
        problems = {package.name: package.problem for package in found.packages}
        assert problems == {
            "numpy": "",
            "onnx": f"{version('onnx')} is too old, 999 is needed",
            "trtpipe-test-broken": "cannot be imported: OSError: libGL.so.1: cannot open",
            "trtpipe-test-absent": "not installed",
        }
        assert not found.ready
        remedies = dict(found.missing)
        assert remedies[f"onnx: {problems['onnx']}"] == "pip install --upgrade 'onnx>=999'"
        assert remedies["trtpipe-test-absent: not installed"] == "pip install --upgrade 'trtpipe-test-absent>=3.1'"
        assert not stage(found, "export").ready

    def test_package_that_crashes_the_interpreter_is_named(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "trtpipe_test_crash.py").write_text("import os; os.abort()")
        info = tmp_path / "trtpipe_test_crash-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trtpipe-test-crash\nVersion: 1.0\n")
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
        with_packages(monkeypatch, Requirement("numpy", "1.26"), Requirement("trtpipe-test-crash", "1.0"))
        found = diagnose(settings)
        assert not found.ready
        assert [package.name for package in found.packages if package.problem] == ["trtpipe-test-crash"]

    def test_missing_extra_leaves_the_core_ready(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        with_packages(monkeypatch, Requirement("numpy", "1.26"), Requirement("torch", "9999", "torch"))
        found = diagnose(settings)
        assert found.ready
        assert "ONNX sources only" in stage(found, "export").where


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of other things: just one package to import."""
    with_packages(monkeypatch, Requirement("numpy", "1.26"))


@pytest.mark.usefixtures("few")
class TestGpus:
    def test_engines_run_where_a_gpu_is(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu = Gpu("GPU-1", "NVIDIA L4", (8, 9), "570.1", 24 << 30)
        monkeypatch.setattr(doctor, "gpus", lambda: (gpu, gpu))
        found = diagnose(settings)
        assert [(each.target, each.memory) for each in found.gpus] == [("sm89", 24 << 30)] * 2
        assert stage(found, "measure").where.endswith("engines on NVIDIA L4 (sm89)")

    def test_without_one_latency_is_labeled(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "gpus", tuple)
        assert stage(diagnose(settings), "measure").where.endswith("this is not a GPU latency")

    def test_no_tensorrt_at_all(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        refusal = doctor.missing("tensorrt") or doctor.missing("tensorrt-rtx")
        if refusal is None:
            pytest.skip("both flavors are installed")
        monkeypatch.setattr(doctor, "missing", lambda _: refusal)
        monkeypatch.setattr("trtpipe.backends.choice.missing", lambda _: refusal)
        found = diagnose(settings)
        assert found.ready, "export, calibration, lowering and verification still work"
        assert not stage(found, "compile").ready
        assert [state.version for state in found.backends] == [None, None]


@pytest.mark.usefixtures("few")
class TestCache:
    def test_folder_that_others_can_write(self, settings: Settings) -> None:
        settings.cache_dir.mkdir()
        (settings.cache_dir / "x").touch()
        settings.cache_dir.chmod(0o777)
        found = diagnose(settings)
        assert not found.ready
        assert "other users can write to it" in found.cache.problem

    def test_file_in_the_way(self, settings: Settings) -> None:
        settings.cache_dir.write_text("")
        assert "a file, not a folder" in diagnose(settings).cache.problem


def test_import_task_tries_all() -> None:
    seen: list[str] = []
    reply = import_task(
        ImportRequest(modules=("json", "no_such_module", "math")), lambda phase, done, total: seen.append(phase)
    )
    assert seen == ["json", "no_such_module", "math"]
    assert list(reply.problems) == ["no_such_module"]
    assert "ModuleNotFoundError" in reply.problems["no_such_module"]
