"""Other Python environments: found, asked, refused; and a child process that runs in one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fault_injection import fault

import trtpipe
from trtpipe.artifact import Record
from trtpipe.errors import HostError, InputError
from trtpipe.isolation import interpreter
from trtpipe.isolation.interpreter import interpreter_of, neighbors, own_interpreter
from trtpipe.isolation.worker import boot, call, limits_for
from trtpipe.progress import NullProgress

PACKAGE = "made-up-tensorrt"


class Question(Record):
    module: str


class Answer(Record):
    file: str


def which(request: Question, report: object) -> Answer:
    """The file that this process imports a module from."""
    import importlib

    return Answer(file=str(importlib.import_module(request.module).__file__))


@pytest.fixture
def environment(tmp_path):
    """An environment of this Python, with one package of its own and nothing else."""

    def make(name: str = "env", *, version: str = "1.5", trtpipe_version: str = "") -> Path:
        folder = tmp_path / name
        library = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
        library.mkdir(parents=True)
        (folder / "bin").mkdir()
        (folder / "bin" / "python").symlink_to(Path(sys.executable).resolve())
        (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
        (library / "made_up_tensorrt.py").write_text(f"__version__ = {version!r}\n")
        for package, number in ((PACKAGE, version), ("trtpipe", trtpipe_version)):
            if number:
                info = library / f"{package.replace('-', '_')}-{number}.dist-info"
                info.mkdir()
                (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {number}\n")
        return folder

    return make


class TestAsked:
    def test_by_folder_and_by_interpreter(self, environment):
        folder = environment()
        for place in (folder, folder / "bin" / "python"):
            found = interpreter_of(place, PACKAGE)
            assert found.executable == folder / "bin" / "python"
            assert found.packages == {"trtpipe": "", PACKAGE: "1.5"}

    def test_a_child_takes_its_package_from_there_and_all_else_from_here(self, environment, tmp_path):
        found = interpreter_of(environment(), PACKAGE)
        assert found.path.index(str(next(tmp_path.glob("env/lib/python3*/site-packages")))) < len(found.path) - 1
        for module, place in (("made_up_tensorrt", tmp_path), ("trtpipe", Path(trtpipe.__file__).parent)):
            answer = call(
                f"{__name__}:which" if __name__ in sys.modules else "tests.isolation.test_interpreter:which",
                Question(module=module),
                Answer,
                limits=limits_for(trtpipe.Settings.from_environment(), seconds=60),
                progress=NullProgress(),
                what="asking",
                python=found,
            )
            assert Path(answer.file).is_relative_to(place)

    def test_a_crash_there_is_a_typed_error(self, environment, tmp_path):
        from trtpipe.backends.null import NullRequest
        from trtpipe.engine.record import EngineRecord
        from trtpipe.errors import WorkerCrashed

        with pytest.raises(WorkerCrashed):
            call(
                fault("crash"),
                NullRequest(model="x", plan=str(tmp_path / "p"), target="sm89"),
                EngineRecord,
                limits=limits_for(trtpipe.Settings.from_environment(), seconds=60),
                progress=NullProgress(),
                what="crashing",
                python=interpreter_of(environment(), PACKAGE),
            )

    def test_this_one(self):
        found = own_interpreter("onnx", PACKAGE)
        assert boot("m", found) == boot("m")
        assert found.packages["onnx"]
        assert not found.packages[PACKAGE]

    def test_the_same_trtpipe_may_be_there(self, environment):
        assert interpreter_of(environment(trtpipe_version=trtpipe.__version__)).packages["trtpipe"]


class TestRefused:
    def test_no_interpreter(self, tmp_path):
        (tmp_path / "text").write_text("no program")
        for place in (tmp_path, tmp_path / "none", tmp_path / "text"):
            with pytest.raises(InputError, match="no Python interpreter"):
                interpreter_of(place)

    @pytest.mark.parametrize("body", ["exit 3", "echo hello", "echo '{}'", "echo '[1]'", "printf '\\xff'", ""])
    def test_a_program_that_answers_otherwise(self, tmp_path, body):
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        with pytest.raises(InputError, match="does not answer like Python"):
            interpreter_of(program)

    def test_a_program_that_does_not_start(self, tmp_path):
        program = tmp_path / "python"
        program.write_bytes(b"\x00\x01")
        program.chmod(0o755)
        with pytest.raises(InputError, match="does not start"):
            interpreter_of(program)

    def test_a_program_that_hangs(self, tmp_path, monkeypatch):
        program = tmp_path / "python"
        program.write_text("#!/bin/sh\nexec sleep 30\n")
        program.chmod(0o755)
        monkeypatch.setattr(interpreter, "_SECONDS", 0.2)
        with pytest.raises(InputError, match="no answer"):
            interpreter_of(program)

    def test_another_trtpipe(self, environment):
        with pytest.raises(HostError, match=r"holds trtpipe 9\.9"):
            interpreter_of(environment(trtpipe_version="9.9"))

    def test_another_python_without_trtpipe(self, tmp_path):
        program = tmp_path / "python"
        answer = '{"tag": "cpython-37", "version": "3.7.1", "path": [], "packages": {"trtpipe": ""}}'
        program.write_text(f"#!/bin/sh\necho '{answer}'\n")
        program.chmod(0o755)
        with pytest.raises(HostError, match=r"Python 3\.7\.1"):
            interpreter_of(program)


class TestNeighbors:
    def test_environments_beside_this_one_that_have_the_package(self, environment, tmp_path, monkeypatch):
        environment("b", version="1.6")
        environment("a")
        (tmp_path / "no-environment").mkdir()
        own = environment("own", version="1.7")
        monkeypatch.setattr(sys, "prefix", str(own))
        assert neighbors(PACKAGE) == (tmp_path / "a", tmp_path / "b")
        assert neighbors("absent") == ()

    def test_none_beside_the_systems_python(self, monkeypatch):
        monkeypatch.setattr(sys, "prefix", sys.base_prefix)
        assert neighbors(PACKAGE) == ()
