"""FileTracker's audit hook cannot be removed, so it is tested in child processes."""

from __future__ import annotations

import builtins
import compileall
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trtpipe.artifact import Observed
from trtpipe.config.observed import state_of
from trtpipe.isolation.file_tracking import FileTracker

HEADER = """
import sys, os, json
from pathlib import Path
from trtpipe.isolation.file_tracking import FileTracker
tracker = FileTracker(Path("own"))
sys.path.insert(0, os.getcwd())
with tracker:
"""


@pytest.fixture
def observed(tmp_path):
    """What FileTracker observed while ``code`` ran in a folder with some files; paths relative to it."""
    for name in (
        "data.txt",
        "own/scratch.bin",
        "neighbor.py",
        "package/__init__.py",
        "package/inner.py",
        "déjà vu.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")

    def run(code: str, after: str = "", before: str = "") -> Observed:
        program = before + HEADER + "\n".join(f"    {line}" for line in code.strip().splitlines()) + f"\n{after}"
        answer = subprocess.run(
            [sys.executable, "-B", "-c", f"{program}\nprint(tracker.observed().to_line())"],
            capture_output=True, text=True, check=True, cwd=tmp_path,
        )  # fmt: skip
        found = Observed.model_validate_json(answer.stdout.splitlines()[-1])
        home = str(tmp_path.resolve())
        paths = {
            field: tuple(path.replace(home, "", 1).removeprefix("/") or "." for path in getattr(found, field))
            for field in ("files", "asked", "measured", "listed")
        }
        return found.model_copy(update=paths)

    return run


@pytest.fixture
def watched(observed):
    """Names of the files that were read."""
    return lambda code, after="": list(observed(code, after).files)


@pytest.mark.parametrize(
    "code",
    [
        "open('data.txt').read()",
        "open(b'data.txt', 'rb').read()",
        "Path('data.txt').read_bytes()",
        "os.close(os.open('data.txt', os.O_RDONLY))",
        "import io; io.FileIO('data.txt').close()",
        "import numpy; numpy.fromfile('data.txt', dtype='uint8')",
        "open(os.path.join('package', '..', 'data.txt')).close()",
    ],
)
def test_however_a_file_is_read(watched, code):
    assert watched(code) == ["data.txt"]


@pytest.mark.parametrize("compiled", [False, True])
def test_modules_count_by_their_source_even_if_they_were_compiled_before(watched, tmp_path, compiled):
    """The compiled file holds the source's time, so it must not count itself."""
    if compiled:
        compileall.compile_dir(tmp_path, quiet=1)
        assert (tmp_path / "__pycache__").is_dir()
    code = "import neighbor, package.inner"
    assert watched(code) == ["neighbor.py", "package/__init__.py", "package/inner.py"]


def test_what_is_written_or_gone_or_somebody_elses_does_not_count(watched):
    assert (
        watched("""
open('made.txt', 'w').close()
open('data.txt', 'a').close()
os.close(os.open('data.txt', os.O_WRONLY))
Path('temporary').write_text('x'); open('temporary').close(); os.remove('temporary')
import json.tool, numpy, onnx
open('/proc/self/status').read()
open('own/scratch.bin').close()
try: open('missing.txt')
except FileNotFoundError: pass
""")
        == []
    )


def test_names_of_any_kind(watched):
    assert watched("open('déjà vu.txt').close()") == ["déjà vu.txt"]


def test_nothing_is_recorded_outside(watched):
    assert watched("pass", after="open('data.txt').close()") == []


def test_files_that_safetensors_opens_in_native_code(watched, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    import numpy as np

    numpy.save_file({"w": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    assert watched("""
from safetensors import safe_open
with safe_open('w.safetensors', 'np') as f: f.get_tensor('w')
""") == ["w.safetensors"]
    assert watched("from safetensors.numpy import load_file; load_file('w.safetensors')") == ["w.safetensors"]


def test_what_installed_packages_say_of_themselves_does_not_count(watched):
    code = "os.makedirs('mine.egg-info'); Path('mine.egg-info/entry_points.txt').write_text(''); "
    code += "open('mine.egg-info/entry_points.txt').close(); open('data.txt').close()"
    assert watched(code) == ["data.txt"]


@pytest.mark.parametrize(
    "code",
    [
        "open('missing.txt')",
        "os.open('missing.txt', os.O_RDONLY)",
        "os.stat('missing.txt')",
        "Path('missing.txt').read_text()",
        "os.access('missing.txt', os.R_OK)",
        "Path('missing.txt').exists()",
        "os.path.exists('missing.txt')",
        "os.path.isfile(b'missing.txt')",
        "os.path.lexists('missing.txt')",
        "Path('missing.txt').is_dir()",
        "os.readlink('missing.txt')",
        "os.path.getmtime('missing.txt')",
    ],
)
def test_a_file_that_was_not_there_is_an_input(observed, code):
    found = observed(f"try: {code}\nexcept OSError: pass")
    assert "missing.txt" in (*found.asked, *found.measured)
    assert found.unseen == ()


@pytest.mark.parametrize(
    ("code", "measured"),
    [
        ("os.path.exists('data.txt')", False),
        ("Path('data.txt').is_file()", False),
        ("Path('data.txt').resolve()", False),
        ("os.path.getmtime('data.txt')", True),
        ("os.path.getsize('data.txt')", True),
        ("Path('data.txt').stat().st_mtime", True),
        ("os.stat('data.txt').st_size", True),
        ("max(Path('.').glob('*.txt'), key=os.path.getmtime)", True),
    ],
)
def test_size_and_time_count_where_they_may_be_known(observed, code, measured):
    found = observed(code)
    assert ("data.txt" in found.measured) is measured
    assert measured or "data.txt" in found.asked


@pytest.mark.parametrize(
    "code",
    [
        "os.listdir('package')",
        "list(os.scandir('package'))",
        "list(Path('package').iterdir())",
        "sorted(Path('.').glob('package/*.py'))[-1]",
        "import glob; glob.glob('package/*.py')",
        "list(os.walk('package'))",
        "list(Path('package').rglob('*'))",
    ],
)
def test_the_names_in_a_folder_are_an_input(observed, code):
    found = observed(code)
    assert "package" in found.listed
    assert found.unseen == ()


def test_entries_of_a_listing_tell_sizes_and_times(observed):
    assert "package/*" in observed("max(os.scandir('package'), key=lambda entry: entry.stat().st_mtime)").measured


@pytest.mark.parametrize(
    ("code", "variables"),
    [
        ("os.environ.get('CKPT')", ("CKPT",)),
        ("os.getenv('CKPT', 'x')", ("CKPT",)),
        ("'CKPT' in os.environ", ("CKPT",)),
        ("from os import environ; environ.get('CKPT')", ("CKPT",)),
        ("os.environb.get(b'CKPT')", ("CKPT",)),
        ("os.path.expandvars('$CKPT')", ("CKPT",)),
        ("os.environ.setdefault('CKPT', '1')", ("CKPT",)),
        ("import numpy, json.tool", ()),
    ],
)
def test_variables_that_are_read(observed, code, variables):
    assert set(variables) <= set(observed(code).variables)
    assert variables or observed(code).variables == ()


@pytest.mark.parametrize(
    "code", ["dict(os.environ)", "os.environ.copy()", "sorted(os.environ)", "list(os.environ.items())"]
)
def test_the_whole_environment(observed, code):
    assert "*" in observed(code).variables


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import subprocess; subprocess.run(['true'])", "another program"),
        ("os.system('true')", "another program"),
        ("os.popen('true').read()", "another program"),
        ("os._exit(0) if os.fork() == 0 else os.wait()", "another process"),
        ("import socket; socket.getaddrinfo('localhost', 1)", "the network"),
        ("import socket\ntry: socket.create_connection(('127.0.0.1', 1))\nexcept OSError: pass", "the network"),
        (
            "import urllib.request\ntry: urllib.request.urlopen('http://127.0.0.1:1')\nexcept OSError: pass",
            "the network",
        ),
        ("import sqlite3; sqlite3.connect('own/x.db').close()", "a database"),
        ("import ctypes; ctypes.CDLL(None)", "a library of its own"),
        ("os.stat('data.txt', dir_fd=os.open('.', os.O_RDONLY))", "files relative to an open folder"),
        ("os.listdir(os.open('.', os.O_RDONLY))", "files relative to an open folder"),
    ],
)
def test_what_cannot_be_followed_is_named(observed, code, what):
    assert what in observed(code).unseen


@pytest.mark.parametrize(
    "code", ["import h5py", "from h5py import File", "import importlib; importlib.import_module('h5py')"]
)
def test_native_code_that_was_loaded_before_is_named_when_it_is_used(observed, code):
    pytest.importorskip("h5py")
    assert observed(code, before="import h5py").unseen == ("the native code of h5py",)
    assert observed("import json", before="import h5py").unseen == ()


def test_metrics_of_scikit_learn_can_be_followed(observed):
    pytest.importorskip("sklearn")
    code = "from sklearn.metrics import f1_score\nassert f1_score([0, 1], [0, 1]) == 1"
    assert observed(code).unseen == ()


def test_native_code_that_opens_files_by_itself_is_named(observed):
    pytest.importorskip("h5py")
    assert observed("import h5py").unseen == ("the native code of h5py",)


def test_what_we_do_ourselves_is_not_the_users(observed):
    found = observed("import numpy, onnx, pydantic, json.tool, importlib.metadata")
    assert (found.unseen, found.listed, found.variables) == ((), (), ())


class TestState:
    """Whether all that was read is as it was."""

    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "ckpt").mkdir()
        (tmp_path / "ckpt" / "a.pt").write_text("a")
        (tmp_path / "link").symlink_to("ckpt/a.pt")
        return tmp_path

    def states(self, observed, changes):
        found = [state_of(observed, {"A": "1"})]
        for change in changes:
            change()
            found.append(state_of(observed, {"A": "1"}))
        return found

    @pytest.mark.parametrize("field", ["files", "asked", "measured"])
    def test_a_file_that_comes_and_goes(self, folder, field):
        path = folder / "best.pt"
        observed = Observed(**{field: (str(path),)})
        first, there, again = self.states(observed, (lambda: path.write_text("x"), path.unlink))
        assert first != there
        assert first == again

    def test_content_counts_and_not_the_time(self, folder):
        path = folder / "ckpt" / "a.pt"
        observed = Observed(files=(str(path),))
        first, touched, changed = self.states(observed, (lambda: os.utime(path, (1, 1)), lambda: path.write_text("b")))
        assert first == touched != changed

    def test_times_count_where_they_were_asked_for(self, folder):
        path = folder / "ckpt" / "a.pt"
        for name in (str(path), f"{folder}/ckpt/*"):
            first, touched = self.states(Observed(measured=(name,)), (lambda: os.utime(path, (1, os.getpid())),))
            assert first != touched
            os.utime(path, (1, 1))

    def test_a_kind_is_a_kind(self, folder):
        path = folder / "ckpt" / "a.pt"
        first, changed = self.states(Observed(asked=(str(path),)), (lambda: path.write_text("longer"),))
        assert first == changed
        path.unlink()
        path.mkdir()
        assert state_of(Observed(asked=(str(path),)), {"A": "1"}) != first

    def test_a_link_that_leads_elsewhere(self, folder):
        def turn():
            (folder / "link").unlink()
            (folder / "link").symlink_to("ckpt/b.pt")

        first, turned = self.states(Observed(asked=(str(folder / "link"),)), (turn,))
        assert first != turned

    def test_a_new_name_in_a_folder(self, folder):
        new = folder / "ckpt" / "b.pt"
        observed = Observed(listed=(str(folder / "ckpt"),))
        first, more, same = self.states(observed, (new.touch, lambda: new.write_text("x")))
        assert first != more
        assert more == same

    def test_variables(self):
        one = Observed(variables=("CKPT",))
        states = [state_of(one, environment) for environment in ({}, {"CKPT": ""}, {"CKPT": "a"}, {"OTHER": "a"})]
        assert len(set(states)) == 3
        assert states[0] == states[3]
        everything = Observed(variables=("*",))
        assert state_of(everything, {"A": "1"}) != state_of(everything, {"A": "1", "B": "2"})
        assert state_of(one, {"PYTHONPATH": "a"}) != state_of(one, {})

    def test_another_version_of_a_package_counts(self, tmp_path, monkeypatch):
        import sysconfig

        from trtpipe.config import observed

        paths = {name: str(tmp_path) for name in ("purelib", "platlib")}
        monkeypatch.setattr(sysconfig, "get_paths", lambda: paths)
        (tmp_path / "timm-1.0.dist-info").mkdir()
        monkeypatch.setattr(observed, "_installed", observed._installed.__wrapped__)
        first = state_of(Observed(), {})
        (tmp_path / "timm-1.0.dist-info").rename(tmp_path / "timm-1.1.dist-info")
        assert state_of(Observed(), {}) != first


def test_nothing_of_it_is_left_behind() -> None:
    def functions() -> list[object]:
        environment = type(os.environ)
        return [os.stat, os.lstat, os.access, os.readlink, builtins.__import__, importlib.import_module,
                environment.__getitem__, environment.__iter__]  # fmt: skip

    before = functions()
    with FileTracker(Path("own")):
        assert not set(before) & set(functions())
    assert functions() == before
