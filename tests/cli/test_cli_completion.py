"""What the Tab key gives, by the scripts that the shells source."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.shell_completion import ShellComplete

from trtpipe.cli.app import root

if TYPE_CHECKING:
    from tests.cli.conftest import Run


def completed(*words: str) -> list[tuple[str, str]]:
    """Type and value of what completes the last word."""
    *before, last = words
    return [
        (each.type, str(each.value))
        for each in ShellComplete(root, {}, "trtpipe", "_TRTPIPE_COMPLETE").get_completions(before, last)
    ]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("pack",), ["package"]),
        (("package", "self"), ["selftest"]),
        (("build", "--calib-me"), ["--calib-method"]),
        (("build", "--calib-method", "ent"), ["entropy"]),
        (("build", "--calib", "image"), ["imagenet"]),
        (("completion", ""), ["bash", "zsh", "fish"]),
    ],
)
def test_names_are_completed(words: tuple[str, ...], values: list[str]) -> None:
    assert completed(*words) == [("plain", value) for value in values]


@pytest.mark.parametrize(
    "words",
    [("build", "mod"), ("inspect", "x"), ("build", "--calib-data", "ph"), ("build", "--profile", "mine")],
)
def test_what_may_be_a_file_is_left_to_the_shell(words: tuple[str, ...]) -> None:
    assert completed(*words) == [("file", words[-1])]


def test_bash_sources_the_script_and_asks_the_command(tmp_path: Path) -> None:
    launcher = tmp_path / "trtpipe"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m trtpipe "$@"\n')
    launcher.chmod(0o755)
    script = (
        'eval "$(trtpipe completion bash)"; COMP_WORDS=(trtpipe package ver); COMP_CWORD=2; '
        '_trtpipe_completion trtpipe; echo "${COMPREPLY[@]}"'
    )
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    found = subprocess.run(
        ["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["verify"]
    assert found.stderr == ""


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_scripts_call_the_command(run: Run, shell: str) -> None:
    script = run("completion", shell).stdout
    assert f"_TRTPIPE_COMPLETE={shell}_complete" in script
    assert json.loads(run("completion", shell, "--json").stdout)["script"] == script.rstrip("\n")
