"""The locks of requirements/: complete, hashed, and what constraints.txt says; the tools that write and use them."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"
LOCKS = ("build.txt", "lock.txt", "tools.txt", "torch-cuda.txt")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def requirements(path: Path) -> list[tuple[Requirement, list[str]]]:
    """The requirements of a file with the hashes of each."""
    text = re.sub(r" *\\\n *", " ", path.read_text(encoding="utf-8"))
    lines = [line.partition(" #")[0] for line in text.splitlines() if line and not line.startswith("#")]
    return [(Requirement(line.partition(" --hash")[0]), re.findall(r"--hash=(\S+)", line)) for line in lines]


def pins(path: Path, python: str) -> dict[str, str]:
    """name -> version on Linux with ``python``."""
    world = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
    chosen = [one for one, _ in requirements(path) if one.marker is None or one.marker.evaluate(world)]
    return {canonicalize_name(one.name): str(one.specifier) for one in chosen}


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_is_one_version_with_sha256_hashes_and_names_no_index(name: str) -> None:
    found = requirements(FOLDER / name)
    assert found
    for requirement, hashes in found:
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        assert requirement.url is None
        assert hashes, requirement.name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes)
        assert len(set(hashes)) == len(hashes)
    assert "://" not in (FOLDER / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_holds_the_versions_of_the_constraints(python: str) -> None:
    wanted, locked = pins(ROOT / "constraints.txt", python), pins(FOLDER / "lock.txt", python)
    assert locked.items() <= wanted.items()
    # a pin that nothing asks for on this Python is not locked
    assert {name for name in wanted if name not in locked} <= {"tomli", "narwhals"}


@pytest.mark.parametrize("python", PYTHONS)
def test_what_the_cuda_wheel_needs_besides_is_locked_apart(python: str) -> None:
    cuda = pins(FOLDER / "torch-cuda.txt", python)
    assert cuda.keys().isdisjoint(pins(FOLDER / "lock.txt", python))
    assert all(re.match(r"cuda-|nvidia-|triton$", name) for name in cuda)


def test_torch_has_the_hashes_of_the_cpu_wheels_and_of_the_indexs() -> None:
    cpu = {one.name: set(hashes) for one, hashes in requirements(FOLDER / "torch-cpu.txt")}
    locked = {one.name: set(hashes) for one, hashes in requirements(FOLDER / "lock.txt")}
    assert cpu["torch"] < locked["torch"]


def test_isolated_builds_use_the_setuptools_of_the_lock() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {Requirement(line).name: str(Requirement(line).specifier) for line in project["build-system"]["requires"]}
    assert needed.items() <= pins(FOLDER / "build.txt", "3.11").items()
    assert needed["setuptools"] == pins(FOLDER / "lock.txt", "3.11")["setuptools"]


class TestAudit:
    """What ``make audit`` says to an answer of pip-audit."""

    @staticmethod
    def report(packages: list[dict[str, object]]) -> int:
        return runpy.run_path(str(ROOT / "tools" / "audit.py"))["report"](packages)

    def test_nothing_known_of_packages_that_were_looked_up_is_success(self) -> None:
        assert self.report([{"name": "a", "version": "1", "vulns": []}]) == 0

    def test_a_vulnerability_fails_and_is_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        flaw = {"id": "CVE-1", "fix_versions": ["2"]}
        assert self.report([{"name": "a", "version": "1", "vulns": [flaw]}, {"name": "b", "skip_reason": "?"}]) == 1
        assert "a 1: CVE-1, fixed in 2" in capsys.readouterr().out

    @pytest.mark.parametrize("rest", [[], [{"name": "b", "version": "1", "vulns": []}]], ids=["none", "some"])
    def test_what_was_not_looked_up_is_no_success(
        self, rest: list[dict[str, object]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.report([{"name": "a", "skip_reason": "not found"}, *rest]) == 3
        assert "NOT AUDITED" in capsys.readouterr().err
