"""What the package's metadata says is needed."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement as Reference

import trtpipe
from trtpipe.config.requirements import Requirement, install, parse_requirement, require, requirements
from trtpipe.errors import HostError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class TestParse:
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("numpy>=1.26", Requirement("numpy", "1.26")),
            ("onnx-ir", Requirement("onnx-ir")),
            ('torch>=2.10; extra == "torch"', Requirement("torch", "2.10", "torch")),
            ("pkg[a,b] >= 1.0, <3 ; extra == 'x-y'", Requirement("pkg", "1.0", "x-y")),
            ('tomli>=2.0; python_version < "3.0"', None),
            ('later>=2.0; python_version < "99.0"', Requirement("later", "2.0")),
            ('site>=0.1; python_full_version >= "3.99.5"', None),
            ('site>=0.1; python_full_version >= "3.1.5"', Requirement("site", "0.1")),
        ],
    )
    def test_line(self, line: str, expected: Requirement | None) -> None:
        assert parse_requirement(line) == expected


class TestAllows:
    @pytest.mark.parametrize(
        ("least", "version", "allowed"),
        [
            ("2.10", "2.9.1", False),
            ("2.10", "2.10", True),
            ("2.10", "2.10.0", True),
            ("2.10.0", "2.10", True),
            ("2.10", "2.13.0+cpu", True),
            ("1.5", "1.7.1.116", True),
            ("0.53.6", "0.53.10", True),
            ("", "0", True),
        ],
    )
    def test_compares_numbers(self, least: str, version: str, allowed: bool) -> None:
        assert Requirement("x", least).allows(version) is allowed


class TestLoading:
    def broken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "broken_native.py").write_text("raise ImportError('libx.so: failed to map segment')")
        monkeypatch.syspath_prepend(tmp_path)

    def test_a_package_that_is_not_there(self) -> None:
        with pytest.raises(HostError, match="which is not installed") as caught:
            require("no_such_package", "reading", "hdf5")
        assert caught.value.remedy == install("hdf5")

    def test_one_that_is_there_and_does_not_load(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken(tmp_path, monkeypatch)
        with pytest.raises(HostError, match=r"broken_native cannot be loaded: libx\.so") as caught:
            require("broken_native", "reading", "hdf5")
        assert "ulimit" not in str(caught.value)

    def test_the_limit_on_addresses_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken(tmp_path, monkeypatch)
        monkeypatch.setattr("trtpipe.config.os_errors.address_space_limit", lambda: 1_000_000_000)
        with pytest.raises(HostError, match=r"limited to 1\.0 GB \(ulimit -v\): libx\.so") as caught:
            require("broken_native", "reading", "hdf5")
        assert "ulimit -v unlimited" in caught.value.remedy


def test_reads_every_line_of_pyproject_as_packaging_does() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    for line in lines:
        reference, found = Reference(line), parse_requirement(line)
        if reference.marker is not None and not reference.marker.evaluate():
            assert found is None
            continue
        (bound,) = reference.specifier
        assert bound.operator == ">="
        assert found == Requirement(reference.name, bound.version)


def test_lists_the_core_first() -> None:
    found = requirements()
    assert {"numpy", "onnx", "click", "torch", "obstore"} <= {need.name for need in found}
    assert [need.extra != "" for need in found] == sorted(need.extra != "" for need in found)


class TestInstall:
    """Never trtpipe's own name, which is on no index."""

    @pytest.fixture
    def elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The package outside of its checkout, in an environment whose folder is returned."""
        monkeypatch.setattr("trtpipe.__file__", str(tmp_path / "lib" / "trtpipe" / "__init__.py"))
        monkeypatch.setattr("trtpipe.config.requirements.sys.prefix", str(tmp_path))
        (tmp_path / "lib").mkdir()
        return tmp_path

    def says(self, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
        monkeypatch.setattr("trtpipe.config.requirements.metadata.requires", lambda package: list(lines))

    def test_of_a_checkout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.says(monkeypatch, "numpy", "old>=1; extra == 'torch'")
        assert re.fullmatch(r"pip install 'torch>=[\d.]+' 'onnxscript>=[\d.]+'", install("torch"))

    @pytest.mark.usefixtures("elsewhere")
    def test_of_a_wheel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.says(monkeypatch, "numpy", 'h5py>=3.12; extra == "hdf5"', 'b; python_version > "3" and extra == "hdf5"')
        assert install("hdf5") == "pip install 'h5py>=3.12' 'b'"

    def test_beside_the_project_of_somebody_else(self, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (elsewhere / "lib" / "pyproject.toml").write_text("[project]\nname = 'other'\n")
        self.says(monkeypatch, "a; extra == 'x'")
        assert install("x") == "pip install 'a'"

    @pytest.mark.parametrize(
        ("mark", "command"),
        [("pipx_metadata.json", "pipx inject trtpipe 'a'"), ("uv-receipt.toml", "uv pip install --python {} 'a'")],
    )
    def test_in_the_environment_of_a_tool(
        self, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, mark: str, command: str
    ) -> None:
        (elsewhere / mark).touch()
        self.says(monkeypatch, "a; extra == 'x'")
        assert install("x") == command.format(elsewhere)

    @pytest.mark.usefixtures("elsewhere")
    def test_without_metadata(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def no(package: str) -> list[str]:
            raise PackageNotFoundError(package)

        monkeypatch.setattr("trtpipe.config.requirements.metadata.requires", no)
        assert requirements() == ()
        assert "pyproject.toml" in install("hdf5")

    def test_every_extra_that_a_message_names_is_there(self) -> None:
        extras = {need.extra for need in requirements()}
        named = set()
        for path in Path(trtpipe.__file__).parent.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"pip install[^\n]*trtpipe\[", text), path
            named |= set(re.findall(r"""\binstall\(["']([\w-]+)["']\)""", text))
        assert {"torch", "rtx", "farm", "store"} <= named <= extras
