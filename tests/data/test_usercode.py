from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from trtpipe.data.usercode import load_function
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def private_modules() -> set[str]:
    return {name for name in sys.modules if name.startswith("_trtpipe_data_")}


class TestFiles:
    def test_neighbors_are_importable_while_loading_and_yielding_and_nothing_is_left_behind(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "neighbor_a.py").write_text("VALUE = 1")
        (tmp_path / "neighbor_b.py").write_text("VALUE = 2")
        (tmp_path / "data.py").write_text(
            "from __future__ import annotations\n"
            "import neighbor_a\n"
            "from dataclasses import dataclass\n"
            "@dataclass\n"
            "class Item:\n"
            "    value: int\n"
            "def feeds():\n"
            "    import neighbor_b\n"
            "    yield Item(neighbor_a.VALUE).value\n"
            "    yield neighbor_b.VALUE\n"
        )
        path = list(sys.path)
        try:
            function = load_function(f"{tmp_path / 'data.py'}:feeds")
            assert sys.path == path
            walk = function.items()
            assert next(walk) == 1
            assert sys.path == path
            assert list(walk) == [2]
            assert sys.path == path
        finally:
            for name in ("neighbor_a", "neighbor_b"):
                sys.modules.pop(name, None)
        assert "data" not in sys.modules
        assert function.label == "data.py:feeds"

    def test_two_files_of_one_name_do_not_meet(self, tmp_path: Path) -> None:
        functions = []
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "data.py").write_text(f"def feeds():\n    yield __file__[-9:], {folder!r}\n")
            functions.append(load_function(f"{tmp_path / folder / 'data.py'}:feeds"))
        assert [list(function.items()) for function in functions] == [[("a/data.py", "a")], [("b/data.py", "b")]]

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("import nonexistent_package_x\n", r"ModuleNotFoundError: No module named 'nonexistent_package_x' \(data"),
            ("def feeds(:\n", "SyntaxError"),
            ("\n\nraise SystemExit(3)\n", r"SystemExit: 3 \(data.py, line 3\)"),
        ],
    )
    def test_a_file_that_cannot_be_loaded(self, tmp_path: Path, body: str, message: str) -> None:
        (tmp_path / "data.py").write_text(body)
        before = private_modules(), list(sys.path)
        with pytest.raises(InputError, match=rf"data\.py: loading it failed: {message}"):
            load_function(f"{tmp_path / 'data.py'}:feeds")
        assert (private_modules(), sys.path) == before

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "data.py").write_text("def feeds():\n    yield 1\nvalue = 3\n")
        with pytest.raises(InputError, match="there is no function 'feds'") as error:
            load_function(f"{tmp_path / 'data.py'}:feds")
        assert "did you mean 'feeds'?" in error.value.remedy
        with pytest.raises(InputError, match="there is no function 'value'"):
            load_function(f"{tmp_path / 'data.py'}:value")
        with pytest.raises(InputError, match=r"nothing\.py: no such file"):
            load_function(f"{tmp_path / 'nothing.py'}:feeds")


class TestModules:
    def test_are_found_from_the_working_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        package = tmp_path / "calibration_data_package"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "feeds.py").write_text("def make():\n    yield 5\n")
        monkeypatch.chdir(tmp_path)
        try:
            assert list(load_function("calibration_data_package.feeds:make").items()) == [5]
        finally:
            for name in [name for name in sys.modules if name.startswith("calibration_data_package")]:
                del sys.modules[name]

    def test_that_are_not_installed(self) -> None:
        with pytest.raises(InputError, match=r"no\.such\.module: loading it failed: ModuleNotFoundError") as error:
            load_function("no.such.module:feeds")
        assert error.value.remedy == "correct the file"

    def test_that_need_what_is_not_installed(self, tmp_path: Path) -> None:
        (tmp_path / "data.py").write_text("def feeds():\n    yield 1\n    import no_such_package.part\n")
        with pytest.raises(InputError, match="sample 1 failed: ModuleNotFoundError") as error:
            list(load_function(f"{tmp_path / 'data.py'}:feeds").items())
        assert error.value.remedy.startswith("pip install no_such_package;")


class TestFailures:
    def test_name_the_sample_the_exception_and_the_users_line(self, tmp_path: Path) -> None:
        (tmp_path / "data.py").write_text(
            "import json\ndef feeds():\n    yield 1\n    yield 2\n    json.loads('nonsense')\n"
        )
        walk = load_function(f"{tmp_path / 'data.py'}:feeds").items()
        assert (next(walk), next(walk)) == (1, 2)
        with pytest.raises(
            InputError, match=r"data\.py:feeds: sample 2 failed: JSONDecodeError: .*\(data.py, line 5\)"
        ):
            next(walk)

    def test_an_interrupt_is_not_swallowed(self, tmp_path: Path) -> None:
        (tmp_path / "data.py").write_text("def feeds():\n    raise KeyboardInterrupt\n    yield\n")
        with pytest.raises(KeyboardInterrupt):
            list(load_function(f"{tmp_path / 'data.py'}:feeds").items())
