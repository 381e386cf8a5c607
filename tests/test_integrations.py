"""What runs trtpipe elsewhere, as far as that can be tried here: GitHub Action, pre-commit hook, Dockerfile."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
yaml = pytest.importorskip("yaml")

_TOOLS = Path(f"{sys.prefix}-tools", "bin", "hadolint")
HADOLINT = shutil.which("hadolint") or (_TOOLS if _TOOLS.exists() else None)

#: A program that writes its words to a file, and ends with the code that the environment gives for its first word.
STUB = """#!/bin/sh
printf '%s\\n' "$@" > "$WORDS_OF/$1"
test "$1" = check && echo summary > "$6"
eval "exit \\${CODE_OF_$1:-0}"
"""


def loaded(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a runner whose trtpipe only takes notes."""
    program = tmp_path / "bin" / "trtpipe"
    program.parent.mkdir()
    program.write_text(STUB)
    program.chmod(0o755)
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    names = {name: str(tmp_path / name.lower()) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    return {**names, "PATH": f"{program.parent}:{os.environ['PATH']}", "WORDS_OF": str(tmp_path),
            "RUNNER_TEMP": str(tmp_path)}  # fmt: skip


class TestAction:
    STEPS = {step["name"]: step for step in loaded("action.yml")["runs"]["steps"] if "name" in step}

    def run(self, folder: Path, machine: dict[str, str], **inputs: str) -> int:
        step = self.STEPS["build"]
        given = {"build": "model.onnx", "out": "out", "baseline": "", "cache-key": "", **inputs}
        environment = {
            name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda match: given[match[1]], value)
            for name, value in step["env"].items()
        }
        script = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        return subprocess.run(script, cwd=folder, env={**machine, **environment}, check=False).returncode

    def test_its_inputs_reach_no_script_as_code(self) -> None:
        for step in self.STEPS.values():
            assert "${{" not in step["run"]
        assert set(loaded("action.yml")["inputs"]) == {
            name for step in loaded("action.yml")["runs"]["steps"]
            for name in re.findall(r"\$\{\{ inputs\.([\w-]+) \}\}", str(step))
        }  # fmt: skip

    def test_words_are_split_as_a_shell_does_and_not_run(self, tmp_path: Path, machine: dict[str, str]) -> None:
        words = "'my model.onnx' --keep '*/norm*' --int8 '$(touch hacked)'"
        assert self.run(tmp_path, machine, build=words) == 0
        assert (tmp_path / "build").read_text().splitlines() == [
            "build", "my model.onnx", "--keep", "*/norm*", "--int8", "$(touch hacked)", "-o", "out"
        ]  # fmt: skip
        assert not (tmp_path / "hacked").exists()
        assert not (tmp_path / "check").exists()

    @pytest.mark.parametrize(
        ("build", "check", "folder", "code"),
        [("0", "0", "out", 0), ("0", "3", "out", 3), ("3", "0", "out.rejected", 3), ("4", "3", "out.rejected", 4)],
    )
    def test_the_exit_code_is_that_of_build_and_then_of_check(
        self, tmp_path: Path, machine: dict[str, str], build: str, check: str, folder: str, code: int
    ) -> None:
        (tmp_path / folder).mkdir()
        machine |= {"CODE_OF_build": build, "CODE_OF_check": check}
        assert self.run(tmp_path, machine, baseline="b.json") == code
        assert (tmp_path / "check").read_text().splitlines()[1:4] == [folder, "--baseline", "b.json"]
        assert (tmp_path / "github_output").read_text() == f"build={folder}\n"
        assert (tmp_path / "github_step_summary").read_text() == "summary\n"

    @pytest.mark.parametrize(("code", "older"), [("5", "out"), ("2", "out"), ("6", "out.rejected")])
    def test_a_build_that_left_nothing_is_not_checked(
        self, tmp_path: Path, machine: dict[str, str], code: str, older: str
    ) -> None:
        (tmp_path / older).mkdir()
        assert self.run(tmp_path, machine | {"CODE_OF_build": code}, baseline="b.json") == int(code)
        assert not (tmp_path / "check").exists()


class TestHook:
    HOOK = loaded(".pre-commit-hooks.yaml")[0]

    def run(self, folder: Path, *files: Path) -> subprocess.CompletedProcess[str]:
        launcher = folder / "trtpipe"
        launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m trtpipe "$@"\n')
        launcher.chmod(0o755)
        environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        words = [*shlex.split(self.HOOK["entry"]), *map(str, files)]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    def test_own_profiles_and_recipes_pass(self, tmp_path: Path) -> None:
        found = self.run(tmp_path, ROOT / "profiles" / "digits.toml", ROOT / "calib" / "digits.toml")
        assert (found.returncode, found.stdout) == (0, "")

    def test_a_wrong_key_is_named_and_the_next_file_is_read_too(self, tmp_path: Path) -> None:
        bad = tmp_path / "bad.toml"
        bad.write_text('precision = "int8"\nworkspaze = "1G"\n')
        found = self.run(tmp_path, bad, ROOT / "profiles" / "digits.toml")
        assert found.returncode == 2
        assert "workspaze" in found.stderr

    @pytest.mark.parametrize(
        ("path", "ours"), [("profiles/a.toml", True), ("x/calib/b.toml", True), ("pyproject.toml", False)]
    )
    def test_which_files_it_is_for(self, path: str, ours: bool) -> None:
        assert bool(re.search(self.HOOK["files"], path)) == ours


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    ignored, copied = (ROOT / ".dockerignore").read_text(encoding="utf-8").split(), []
    for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists()
            assert f"!{name}" in ignored
            copied.append(ROOT / name)
    links = [link for folder in copied for link in folder.rglob("*") if link.is_symlink()]
    assert links, "recipes and profiles that come along"
    for link in links:
        assert any(link.resolve().is_relative_to(folder) for folder in copied), f"{link} leads out of the image"
    assert re.search(r"^USER [1-9]\d*$", text, re.MULTILINE), "a number, which says that it is not root"


@pytest.mark.skipif(HADOLINT is None, reason="needs hadolint, which is in the environment of make lint")
def test_the_dockerfile_is_linted() -> None:
    words = [str(HADOLINT), "--no-color", "Dockerfile"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_dockerfile_s_commands_do_what_the_extras_say(tmp_path: Path) -> None:
    """Each RUN by the shell that docker takes, with a pip that takes notes."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    (script,) = re.findall(r"^RUN (.*)$", text, re.MULTILINE)
    for name in ("pip", "useradd"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s\\n" "{name} $*" >> "$NOTES"\n')
        (tmp_path / name).chmod(0o755)
    for extras, cpu in (("torch,rtx,images", True), ("images", False), ("torch-tensorrt", False)):
        notes = tmp_path / f"{extras}.txt"
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTES": str(notes), "EXTRAS": extras}
        subprocess.run(["/bin/sh", "-c", script], env=environment, check=True)
        said = notes.read_text().splitlines()
        assert any("download.pytorch.org/whl/cpu" in line for line in said) == cpu
        assert f"pip install --no-build-isolation -c constraints.txt .[{extras}]" in said
        assert said[-1].startswith("useradd")


def test_the_dockerfile_s_extras_exist() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE))
    for extras in re.findall(r"EXTRAS=([\w,-]+)", text):
        assert set(extras.split(",")) <= known
