"""Whole commands where streams are closed, memory may not be mapped, names are no text and devices are missing."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from models import model, save

NET = model("(float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu(x) }")
ARGUMENTS = ["build", "m.onnx", "--fp16", "--backend", "null", "--target", "sm89", "--duration", "50ms", "-o", "out"]


def build(folder, redirections="", *, arguments=ARGUMENTS, limit=None, umask=-1):
    """The finished process of a build in a shell, and whether a bundle is there."""
    if not (folder / "m.onnx").exists():
        save(NET, folder / "m.onnx")

    def narrow():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    end = subprocess.run(
        ["bash", "-c", f'"$@" {redirections}', "bash", sys.executable, "-m", "trtpipe", *arguments],
        cwd=folder,
        env={**os.environ, "TRTPIPE_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        preexec_fn=narrow,
        umask=umask,
        check=False,
    )
    assert b"Traceback" not in end.stderr
    return end, (folder / "out" / "manifest.json").exists()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_nowhere(tmp_path, closed):
    end, there = build(tmp_path, closed)
    assert (end.returncode, there) == (0, True)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["verdict"]  # nothing that was printed went into a file


def test_what_is_closed_does_not_hide_an_error(tmp_path):
    end, there = build(tmp_path, ">&-", arguments=["build", "none.onnx", "--fp16", "-o", "out"])
    assert (end.returncode, there) == (2, False)
    assert b"none.onnx" in end.stderr


def test_an_address_space_too_small_to_begin(tmp_path):
    end, there = build(tmp_path, limit=200 << 20)
    assert (end.returncode, there) == (6, False)
    assert b"ulimit -v" in end.stderr


def test_help_needs_no_memory(tmp_path):
    end, _ = build(tmp_path, arguments=["--help"], limit=200 << 20)
    assert end.returncode == 0


def test_an_address_space_too_small_for_a_child(tmp_path):
    end, there = build(tmp_path, limit=650 << 20)
    assert (end.returncode, there) == (6, False)
    assert b"ulimit -v" in end.stderr


def test_a_umask_that_takes_away_the_owners_rights(tmp_path):
    end, there = build(tmp_path, umask=0o777)
    assert (end.returncode, there) == (6, False)
    assert b"umask" in end.stderr


def test_names_that_are_no_text_are_told(tmp_path):
    save(NET, tmp_path / "m.onnx")
    (tmp_path / "m.onnx").rename(os.fsdecode(bytes(tmp_path) + b"/n\xff.onnx"))
    end, there = build(tmp_path, arguments=["build", os.fsdecode(b"n\xff.onnx"), *ARGUMENTS[2:]])
    assert (end.returncode, there) == (2, False)
    assert rb"n\udcff.onnx: not valid UTF-8" in end.stderr
    end, there = build(tmp_path, arguments=[*ARGUMENTS, "--cache-dir", os.fsdecode(b"c\xff")])
    assert (end.returncode, there) == (2, False)
    assert rb"c\udcff" in end.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_without_devices_the_missing_one_is_named(tmp_path):
    save(NET, tmp_path / "m.onnx")
    command = " ".join([sys.executable, "-m", "trtpipe", *ARGUMENTS])
    end = subprocess.run(
        ["unshare", "--mount", "bash", "-c", f"mount -t tmpfs none /dev && {command}"],
        cwd=tmp_path,
        env={**os.environ, "TRTPIPE_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if "mount" in end.stderr:
        pytest.skip(end.stderr)
    assert end.returncode == 6
    assert "/dev/null" in end.stderr


def test_a_log_does_not_follow_a_link(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "build.log").symlink_to(tmp_path / "victim")
    end, there = build(tmp_path, arguments=[*ARGUMENTS, "--log-file", "build.log"])
    assert (end.returncode, there) == (2, False)
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_message_is_bounded_whatever_it_quotes(tmp_path):
    Path(tmp_path / "m.onnx").write_bytes(b"")
    end, _ = build(tmp_path, arguments=["build", "m.onnx", "--fp16", "--target", "x" * 100_000, "-o", "out"])
    assert end.returncode == 2
    assert len(end.stderr) < 10_000
