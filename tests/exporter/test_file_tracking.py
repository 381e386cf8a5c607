"""FileTracker's audit hook cannot be removed, so it is tested in child processes."""

from __future__ import annotations

import compileall
import json
import subprocess
import sys
from pathlib import Path

import pytest

HEADER = """
import sys, os, json
from pathlib import Path
from trtpipe.exporter.file_tracking import FileTracker
tracker = FileTracker(Path("own"))
sys.path.insert(0, os.getcwd())
with tracker:
"""


@pytest.fixture
def watched(tmp_path):
    """Names of the files that FileTracker recorded while ``code`` ran in a folder with some files."""
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

    def run(code: str, after: str = "") -> list[str]:
        program = HEADER + "\n".join(f"    {line}" for line in code.strip().splitlines()) + f"\n{after}"
        answer = subprocess.run(
            [sys.executable, "-B", "-c", f"{program}\nprint(json.dumps(tracker.files()))"],
            capture_output=True, text=True, check=True, cwd=tmp_path,
        )  # fmt: skip
        found = [Path(path) for path in json.loads(answer.stdout.splitlines()[-1])]
        assert all(path.is_absolute() for path in found)
        return [str(path.relative_to(tmp_path.resolve())) for path in found]

    return run


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
