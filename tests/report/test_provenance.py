from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

import trtpipe
from trtpipe.api import stages
from trtpipe.report.manifest import Manifest
from trtpipe.report.provenance import PROVENANCE, SCRIPT, Provenance, git_state


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "code").mkdir(parents=True)
    git(folder, "init", "-q")
    (folder / "code" / "model.py").write_text("a = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


class TestGit:
    def test_commit_and_dirtiness_are_those_of_git(self, repository: Path) -> None:
        clean = git_state(repository / "code")
        assert clean is not None
        assert (clean.commit, clean.dirty) == (git(repository, "rev-parse", "HEAD"), False)
        (repository / "untracked").write_text("no part of it")
        assert git_state(repository) == clean
        (repository / "code" / "model.py").write_text("a = 2\n")
        dirty = git_state(repository)
        assert dirty is not None
        assert (dirty.commit, dirty.dirty) == (clean.commit, True)

    def test_there_may_be_none(self, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert git_state(tmp_path) is None
        (tmp_path / "empty").mkdir()
        git(tmp_path / "empty", "init", "-q")
        assert git_state(tmp_path / "empty") is None, "no commit yet"
        monkeypatch.setenv("PATH", str(tmp_path))
        assert git_state(repository) is None, "no git"

    def test_a_repository_does_not_make_git_run_its_monitor(self, repository: Path, tmp_path: Path) -> None:
        hook = tmp_path / "hook"
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        hook.chmod(0o755)
        git(repository, "config", "core.fsmonitor", str(hook))
        assert git_state(repository) is not None
        assert not (tmp_path / "ran").exists()


#: As they may stand in a command line.
SECRETS = (
    *("https://me:canary@host/net.onnx", "token=ghp_CANARYcanaryCANARYcanary", "password=canary"),
    "hf_CANARYcanaryCANARYcanary",
)


def called(script: Path, folder: Path) -> list[str]:
    """The words that a reproduction script gives to trtpipe, with one more of the user's; the TOML files it names are
    copied into ``folder``.
    """
    program = folder / "bin" / "trtpipe"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport json, pathlib, shutil, sys\nfolder = pathlib.Path({str(folder)!r})\n"
        "(folder / 'words.json').write_text(json.dumps(sys.argv[1:]))\n"
        "[shutil.copy(word, folder) for word in sys.argv if word.endswith(('/profile.toml', '/calib.toml'))]\n"
    )
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    subprocess.run(["sh", script, "--json"], env=environment, check=True, cwd=folder, timeout=60)
    return json.loads((folder / "words.json").read_text())


class TestOfABuild:
    def test_tells_when_and_by_what(self, world, heard_all, monkeypatch) -> None:
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/trtpipe", "build", "net.onnx", "--int8", *SECRETS])
        monkeypatch.setenv("TRTPIPE_CACHE_KEY", "a secret that is long enough")
        before = datetime.now(timezone.utc).replace(microsecond=0)
        result = stages.build(world.job(), world.folder / "out", progress=heard_all)
        found = Provenance.beside(world.folder / "out" / "manifest.json")
        assert found is not None
        assert before <= datetime.fromisoformat(found.created) <= datetime.now(timezone.utc)
        assert found.command == (
            *("trtpipe", "build", "net.onnx", "--int8"),
            *("https://host/net.onnx", "token=(removed)", "password=(removed)", "(removed)"),
        )
        assert found.source == "net.onnx"
        assert found.toolchain == result.manifest.toolchain
        text = (world.folder / "out" / PROVENANCE).read_text()
        assert "secret" not in text
        assert "canary" not in text.lower()
        assert os.uname().nodename not in text

    def test_the_script_repeats_the_command_word_by_word(self, world, heard_all, monkeypatch, tmp_path) -> None:
        words = ["build", "net.onnx", "--keep", "it's; echo $HOME `id`\n# x", "--int8"]
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/trtpipe", *words])
        stages.build(world.job(), world.folder / "out", progress=heard_all)
        assert called(world.folder / "out" / SCRIPT, tmp_path) == [*words, "--json"]
        assert trtpipe.inspect(world.folder / "out" / SCRIPT).kind == "reproduction script"

    def test_the_script_of_a_call_from_python_holds_profile_and_recipe(self, world, heard_all, tmp_path) -> None:
        job = world.job(keep=['it\'s "$HOME"'])
        stages.build(job, world.folder / "out", progress=heard_all)
        words = called(world.folder / "out" / SCRIPT, tmp_path)
        assert words[0] == "build"
        kept = {name: tmp_path / f"{name}.toml" for name in ("profile", "calib")}
        assert trtpipe.DeploymentProfile.load(kept["profile"]).keep == job.profile.keep
        assert trtpipe.CalibrationRecipe.load(kept["calib"]).data.source == job.recipe.data.source

    def test_a_call_from_python_has_no_command(self, world, heard_all) -> None:
        stages.build(world.job(), world.folder / "out", progress=heard_all)
        found = Provenance.beside(world.folder / "out" / "manifest.json")
        assert found is not None
        assert found.command == ()

    def test_is_in_no_digest_and_stays_while_the_bundle_does(self, world, heard_all, monkeypatch) -> None:
        out = world.folder / "out"
        first = stages.build(world.job(), out, progress=heard_all)
        listed = {entry.name for artifact in first.manifest.artifacts for entry in artifact.files}
        assert PROVENANCE not in listed
        before = (out / PROVENANCE).read_bytes(), (out / PROVENANCE).stat().st_mtime_ns
        stages.build(world.job(), out, progress=heard_all)
        assert ((out / PROVENANCE).read_bytes(), (out / PROVENANCE).stat().st_mtime_ns) == before
        stages.build(world.job(precision="fp16"), out, progress=heard_all)
        assert (out / PROVENANCE).read_bytes() != before[0]
        assert Provenance.beside(out / "manifest.json") is not None

    def test_of_another_bundle_is_none_of_this(self, world, heard_all) -> None:
        out = world.folder / "out"
        stages.build(world.job(), out, progress=heard_all)
        text = (out / "manifest.json").read_text()
        (out / "manifest.json").write_text(text + "\n")
        assert Provenance.beside(out / "manifest.json") is None

    def test_the_manifest_itself_tells_what_is_content(self, world, heard_all) -> None:
        names = list("abcde")
        job = world.job(recipe={"classes": names})
        manifest = stages.build(job, world.folder / "out", progress=heard_all).manifest
        assert manifest == Manifest.read(world.folder / "out" / "manifest.json")
        assert manifest.classes == tuple(names)
        assert [str(each) for each in manifest.signature.inputs] == ["x: float32[Nx3x8x8]"]
        assert [str(each) for each in manifest.signature.outputs] == ["y: float32[Nx5]"]
        assert manifest.evaluation.metric == "top1"
        assert manifest.evaluation.preprocessing is None
        assert len(manifest.evaluation.data_digest) == 64
