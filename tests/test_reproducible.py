"""Equal inputs in other folders, at other times, by other users, under other umasks and hash seeds: equal bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from models import conv_net, normal, save

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
SECRET = "a-secret-that-nobody-needs-to-know"
NOBODY = 65534
#: What the folder, the moment, the shell and the user may differ in.
WORLDS: tuple[dict[str, str], ...] = (
    {"PYTHONHASHSEED": "1", "LC_ALL": "C", "TZ": "UTC", "COLUMNS": "80", "TRTPIPE_THREADS": "1"},
    {"PYTHONHASHSEED": "4242", "LC_ALL": "C.UTF-8", "TZ": "Asia/Kolkata", "COLUMNS": "200", "TRTPIPE_THREADS": "2"},
)


@pytest.fixture(scope="module")
def another_user() -> tuple[str, ...]:
    """What makes a command another user's, where we may; it may read anything: this Python may be root's own."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("setpriv") is None:
        return ()
    reads = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *reads)
    answer = subprocess.run([*prefix, sys.executable, "-c", "import numpy"], capture_output=True, check=False)
    return () if answer.returncode else prefix


@pytest.fixture(scope="module")
def plain_user() -> tuple[str, ...]:
    """The same without any privilege, which the child processes of a build give up: where it may run this Python."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("setpriv") is None:
        return ()
    prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    probe = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import numpy'], check=True)"
    answer = subprocess.run([*prefix, sys.executable, "-c", probe], capture_output=True, check=False)
    return () if answer.returncode else prefix


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may pass, as ``tmp_path`` is not: child processes have no capabilities."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def give_away(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)


def build(folder: Path, world: dict[str, str], umask: int, prefix: tuple[str, ...] = ()) -> dict[str, bytes]:
    """All files of a bundle made from scratch in ``folder``."""
    folder.mkdir(parents=True)
    save(conv_net(), folder / "net.onnx")
    np.savez(folder / "data.npz", x=normal(8, 3, 8, 8))
    for path in folder.iterdir():
        os.utime(path, (len(folder.name), 1_000_000))
    words = ["build", "net.onnx", "-o", "out", "--int8", "--calib-data", "data.npz", "--backend", "null",
             "--target", "sm89", "--shapes", "x:2x3x8x8", "--atol", "9", "--duration", "5ms"]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRTPIPE_")}
    environment |= {**world, "SECRET_TOKEN": SECRET, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"TRTPIPE_CACHE_DIR": str(folder / "cache"), "XDG_CONFIG_HOME": str(folder / "config")}
    if prefix:
        give_away(folder)
    answer = subprocess.run(
        [*prefix, sys.executable, "-m", "trtpipe", *words], cwd=folder, env=environment, umask=umask,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert {path.stat().st_uid for path in (folder / "out").iterdir()} == {NOBODY if prefix else os.getuid()}
    everything = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in content for content in (*everything, answer.stderr.encode()))
    files = (path for path in (folder / "out").iterdir() if path.name != ".trtpipe.json")  # under the user's own key
    return {path.name: path.read_bytes() for path in files}


def without_times(name: str, content: bytes) -> Any:
    """A file without what was measured: how fast the graph runs, how long the engine took to build; nor when it was."""
    if name in {"latency.json", "provenance.json", "reproduce.sh"}:
        return None
    if name not in {"manifest.json", "sm89.plan.json"}:
        return content
    found = json.loads(content)
    found.pop("build_seconds", None)
    measured = {"latency", "engine:sm89"}
    found["artifacts"] = [one for one in found.get("artifacts", ()) if one["label"] not in measured]
    found.get("verdict", {}).pop("latency", None)
    return found


@pytest.mark.parametrize("who", ["plain_user", "another_user"])
def test_the_second_one_is_by_another_user(who: str, request: pytest.FixtureRequest) -> None:
    """The tests below go on as the same user where there is no other one: this one says so, by being skipped."""
    prefix = request.getfixturevalue(who)
    if not prefix:
        pytest.skip(
            "the builds compared here are by one user: only root, with setpriv, can build as another one, who must be "
            f"able to run {sys.executable}"
        )
    words = [*prefix, sys.executable, "-c", "import os; print(os.getuid(), os.getgid())"]
    assert subprocess.check_output(words, text=True).split() == [str(NOBODY), str(NOBODY)]


def test_two_builds_are_equal_but_for_what_was_measured(open_folder: Path, plain_user: tuple[str, ...]) -> None:
    one = build(open_folder / "one", WORLDS[0], 0o077)
    two = build(open_folder / "a much longer name" / "two", WORLDS[1], 0o002, plain_user)
    assert set(one) == set(two)
    assert len(one) > 8
    assert [name for name in one if without_times(name, one[name]) != without_times(name, two[name])] == []
    assert not any(str(open_folder).encode() in content for content in one.values())


def copy_of_the_sources(folder: Path) -> Path:
    for name in ("trtpipe", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_the_wheel_and_the_source_archive_too(tmp_path: Path, another_user: tuple[str, ...]) -> None:
    pytest.importorskip("setuptools", minversion="77")
    made = []
    for number, world in enumerate(WORLDS):
        folder = copy_of_the_sources(tmp_path / ("x" * (1 + 30 * number)))
        for path in folder.rglob("*.py"):
            os.utime(path, (number, 1_000_000 * (1 + number)))
        prefix = another_user if number else ()
        if prefix:
            give_away(folder)
        subprocess.run(
            [*prefix, sys.executable, str(folder / "tools" / "make_dist.py"), str(folder / "dist")],
            env={**os.environ, **world}, umask=0o077 if number else 0o002, capture_output=True, check=True,
        )  # fmt: skip
        made.append({path.name: path.read_bytes() for path in (folder / "dist").iterdir()})
    assert sorted(Path(name).suffix for name in made[0]) == [".gz", ".whl"]
    assert made[0] == made[1]
