"""The error boundary: whatever happens becomes two lines, an exit code and, for --json, one document."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

import trtpipe
from trtpipe.cli.app import root
from trtpipe.errors import BuildError, InternalError, StoreCorrupt, WorkerError

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

REPORT = "  try: report it with what `trtpipe doctor` prints and with the output of this command with --debug"


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> type[Failing]:
    monkeypatch.setitem(vars(trtpipe), "inspect", Failing.inspect)
    return Failing


class Failing:
    """Stands in for the public function that a command calls."""

    error: BaseException

    @classmethod
    def inspect(cls, path: object) -> None:
        raise cls.error

    @classmethod
    def run(cls, error: BaseException, *words: str) -> Result:
        cls.error = error
        return CliRunner().invoke(root, ["inspect", "file", *words])


class TestTwoLines:
    @pytest.mark.parametrize(
        ("error", "code", "message", "remedy"),
        [
            (BuildError("node 'a' is odd", "drop it"), 5, "node 'a' is odd", "drop it"),
            (WorkerError("crashed", "try again"), 5, "crashed", "try again"),
            (StoreCorrupt("bad byte", "remove it"), 6, "bad byte", "remove it"),
            (BuildError("\x1b]0;title\x07\n\u202ename", "a\tb"), 5, r"\x1b]0;title\x07\n\u202ename", r"a\tb"),
            (MemoryError(), 6, "out of memory", "free some, or use a machine with more"),
            (
                ModuleNotFoundError("No module named 'onnx.x'", name="onnx.x"),
                6,
                "the package 'onnx' is missing",
                "run trtpipe doctor, or install trtpipe again",
            ),
            (
                PermissionError(13, "Permission denied", "secret.npz"),
                6,
                "cannot go on: no permission: secret.npz",
                "correct its owner or mode, or use another place",
            ),
            (click.FileError("x", "gone"), 2, "Could not open file 'x': gone", "see trtpipe --help"),
        ],
    )
    def test_of_a_known_error(
        self, failing: type[Failing], error: Exception, code: int, message: str, remedy: str
    ) -> None:
        result = failing.run(error)
        assert result.exit_code == code
        assert result.stdout == ""
        assert result.stderr.splitlines() == [f"error: {message}", f"  try: {remedy}"]

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("surprise\nsecond line"),
            InternalError("surprise"),
            EOFError("surprise"),
            FileNotFoundError(2, "surprise", "x"),
            ModuleNotFoundError("surprise", name="trtpipe.gone"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_of_a_bug(self, failing: type[Failing], error: Exception) -> None:
        result = failing.run(error)
        assert result.exit_code == 1
        first, second = result.stderr.lstrip("\n").splitlines()
        assert first.startswith(f"error: internal error: {type(error).__name__}: ")
        assert "surprise" in first
        assert "second line" not in first
        assert second == REPORT

    def test_traceback_only_with_debug(self, failing: type[Failing]) -> None:
        assert "Traceback" not in failing.run(ValueError("x")).stderr
        lines = failing.run(ValueError("x"), "--debug").stderr.splitlines()
        assert lines[0] == "Traceback (most recent call last):"
        assert lines[-2:] == ["error: internal error: ValueError: x", REPORT]

    def test_log_file_has_the_traceback_anyway(self, failing: type[Failing], tmp_path: Path) -> None:
        failing.run(ValueError("x"), "--log-file", str(tmp_path / "log"))
        log = (tmp_path / "log").read_text(encoding="utf-8")
        assert "Traceback (most recent call last):" in log
        assert "error: internal error: ValueError: x" in log


class TestJson:
    @pytest.mark.parametrize(
        ("error", "kind", "code"),
        [
            (BuildError("a\x1b", "b"), "BuildError", 5),
            (ValueError("a"), "InternalError", 1),
            (KeyboardInterrupt(), "Interrupted", 130),
        ],
    )
    def test_error_is_a_document(self, failing: type[Failing], error: BaseException, kind: str, code: int) -> None:
        result = failing.run(error, "--json")
        document = json.loads(result.stdout)
        assert (document["error"]["kind"], document["exit_code"], result.exit_code) == (kind, code, code)
        assert set(document["error"]) == {"kind", "message", "remedy"}
        assert "\x1b" not in result.stdout


class TestInterrupted:
    def test_exit_code_130_in_one_line(self, failing: type[Failing]) -> None:
        result = failing.run(KeyboardInterrupt())
        assert result.exit_code == 130
        assert result.stderr.split("\n")[-2] == "interrupted"

    def test_whatever_comes_out_instead(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Python up to 3.11 turns Ctrl-C in a class under construction into a RuntimeError."""
        usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run with Ctrl-C ignored

        def stop(*_: object) -> None:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt as error:
                raise RuntimeError("Error calling __set_name__") from error

        monkeypatch.setitem(vars(trtpipe), "inspect", stop)
        try:
            result = CliRunner().invoke(root, ["inspect", "file"])
            debugged = CliRunner().invoke(root, ["inspect", "file", "--debug"])
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        finally:
            signal.signal(signal.SIGINT, usual)
        assert (result.exit_code, result.stderr) == (130, "interrupted\n")
        assert debugged.exit_code == 130
        assert "RuntimeError: Error calling __set_name__" in debugged.stderr

    def test_says_that_the_output_is_untouched(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setitem(vars(trtpipe), "simplify", stop)
        words = ["simplify", "m.onnx", "-o", str(tmp_path / "out"), "--cache-dir", str(tmp_path / "cache")]
        result = CliRunner().invoke(root, words)
        assert result.exit_code == 130
        assert f"interrupted; nothing was written to {tmp_path}/out\n" in result.stderr
