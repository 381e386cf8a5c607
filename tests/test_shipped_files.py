"""The files beside the package: profiles, recipes, the examples' READMEs, the Makefile and the pinned versions."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROFILES = sorted((ROOT / "profiles").glob("*.toml"))
RECIPES = sorted((ROOT / "calib").glob("*.toml"))
READMES = sorted((ROOT / "examples").glob("*/README.md"))
SHIPPED = sorted(
    path
    for top in (
        "calib",
        "examples",
        "profiles",
        "Makefile",
        ".ci/run",
        "constraints.txt",
        "pyproject.toml",
        "requirements",
    )
    for path in ([ROOT / top] if (ROOT / top).is_file() else (ROOT / top).rglob("*"))
    if path.is_file() and "__pycache__" not in path.parts
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a fresh shell, whichever make runs these tests."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


class TestProfiles:
    @pytest.mark.parametrize("path", PROFILES, ids=name_of)
    def test_loads_and_says_what_it_is_for(self, path: Path) -> None:
        profile = DeploymentProfile.load(path)
        assert profile.description
        assert profile.targets

    @pytest.mark.parametrize(
        ("name", "targets"),
        [
            ("digits", ("sm86", "sm89", "sm120")),
            ("edge", ("sm87",)),
            ("rtx-desktop", ("sm86", "sm89", "sm120")),
            ("server", ("sm80", "sm89", "sm90")),
        ],
    )
    def test_targets_are_the_gpus_that_its_name_promises(self, name: str, targets: tuple[str, ...]) -> None:
        assert DeploymentProfile.load(ROOT / "profiles" / f"{name}.toml").targets == targets

    def test_general_profiles_know_no_input_and_need_no_calibration_data(self) -> None:
        for path in PROFILES:
            if path.stem != "digits":
                profile = DeploymentProfile.load(path)
                assert not profile.shapes, path.name
                assert not profile.precision.calibrated, path.name


class TestRecipes:
    @pytest.mark.parametrize("path", RECIPES, ids=name_of)
    def test_loads_and_its_sources_exist(self, path: Path) -> None:
        recipe = CalibrationRecipe.load(path)
        assert recipe.description
        sources = [recipe.data.source, recipe.evaluation.source if recipe.evaluation else ""]
        for file, _, function in (source.rpartition(":") for source in sources if source):
            assert f"def {function}(" in Path(file).read_text(encoding="utf-8")

    def test_imagenet_leaves_the_folder_to_the_user(self) -> None:
        data = CalibrationRecipe.load(ROOT / "calib" / "imagenet.toml").data
        assert data.source == ""
        assert data.image is not None
        assert data.image.crop == (224, 224)


#: Examples whose commands have tests of their own in tests/examples.
RUN = {"decoder", "deploy", "detection", "farm", "imagefolder", "jetson", "regression-ci", "speech", "text", "triton"}


class TestReadmes:
    @pytest.mark.parametrize("path", READMES, ids=name_of)
    def test_commands_are_those_of_the_makefile_and_name_files_that_exist(self, path: Path) -> None:
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        recipes = [line.strip().replace("$(VENV)/bin/", "") for line in makefile.splitlines() if line.startswith("\t")]
        blocks = re.findall(r"^```sh\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        commands = [line for block in blocks for line in block.splitlines()]
        assert commands
        for command in commands:
            program, *arguments = shlex.split(command)
            if program == "make":
                assert f"\n{arguments[0]}:" in makefile
            elif program == "trtpipe":
                assert command in recipes or path.parent.name in RUN
            for argument in arguments:
                if re.search(r"\.(py|toml)\b", argument) and not argument.startswith("build/"):
                    assert (ROOT / argument.partition(":")[0]).is_file(), argument


class TestMakefile:
    def test_with_everything_installed_demo_is_the_build_command_alone(self, tmp_path: Path) -> None:
        (tmp_path / ".installed").touch()
        planned = make("-n", "demo", f"VENV={tmp_path}").stdout.splitlines()
        assert [line.split()[:2] for line in planned] == [[f"{tmp_path}/bin/trtpipe", "build"]]

    def test_changed_requirements_install_again(self, tmp_path: Path) -> None:
        stamp = tmp_path / ".installed"
        stamp.touch()
        os.utime(stamp, (0, 0))
        planned = [
            line for line in make("-n", "test", f"VENV={tmp_path}").stdout.splitlines() if " pip install " in line
        ]
        assert all(
            "--require-hashes" in line or line.endswith("--no-deps --no-build-isolation -e .") for line in planned
        )
        assert len(planned) == 4
        assert planned[-1].endswith(" -e .")

    def test_python_without_ensurepip_says_what_to_install(self, tmp_path: Path) -> None:
        python = tmp_path / "python"
        python.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\n')
        python.chmod(0o755)
        done = make("venv", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}")
        assert done.returncode != 0
        assert "apt-get install python3-venv" in done.stderr
        assert not (tmp_path / "venv").exists()

    def test_missing_python_says_how_to_choose_another(self, tmp_path: Path) -> None:
        done = make("venv", f"PYTHON={tmp_path / 'nowhere'}", f"VENV={tmp_path / 'venv'}")
        assert done.returncode != 0
        assert "make PYTHON=" in done.stderr


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_constraints_pin_every_requirement_once_for_each_python(python: str) -> None:
    version = {"python_version": python, "python_full_version": f"{python}.7"}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins: dict[str, str] = {}
    for pin in (Requirement(line) for line in lines if line and not line.startswith("#")):
        if pin.marker is None or pin.marker.evaluate(version):
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            assert pins.setdefault(canonicalize_name(pin.name), specifier.version) == specifier.version
            assert "+" not in specifier.version, "a local version exists on some machines only"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"]]
    for extra in runpy.run_path(str(ROOT / "tools" / "make_lock.py"))["EXTRAS"]:
        needed += project["optional-dependencies"][extra]
    for requirement in map(Requirement, needed):
        if requirement.marker is None or requirement.marker.evaluate(version):
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement.name


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_names_no_folder_of_the_machine_it_was_made_on(path: Path) -> None:
    content = path.read_bytes().removeprefix(b"#!/usr/bin/env bash\n")
    folders = rb"(?<![\w.:/)}-])/(home|root|work|tmp|opt|usr|var|mnt|srv|Users)/|[A-Za-z]:\\\\?Users"
    assert not re.search(folders, content)


def test_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.split()[:5] == ["Apache", "License", "Version", "2.0,", "January"]
    assert "END OF TERMS AND CONDITIONS" in text
