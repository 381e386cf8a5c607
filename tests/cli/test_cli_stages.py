"""Each stage alone, one after the other, as the commands suggest it."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

import trtpipe

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from tests.cli.conftest import Run


def suggested(result: Result) -> list[str]:
    """The words behind ``next:``, without the program's name."""
    assert result.exit_code == 0, result.output
    line = result.stdout.splitlines()[-1]
    assert line.startswith("next:   trtpipe ")
    return shlex.split(line)[2:]


class TestChain:
    def test_from_export_to_inspect_by_the_suggested_commands(self, run: Run, model: Path, tmp_path: Path) -> None:
        exported = run("export", model, "-o", tmp_path / "my model" / "first.onnx")
        words = suggested(exported)
        assert words[:2] == ["simplify", str(tmp_path / "my model" / "first.onnx")]
        words = suggested(run(*words))
        assert words[0] == "lower"
        words = suggested(run(*words))
        assert words[0] == "verify"
        verified = run(*words, "-o", tmp_path / "parity.json")
        assert suggested(verified) == ["inspect", str(tmp_path / "parity.json")]
        parity = trtpipe.ParityReport.read(tmp_path / "parity.json")
        assert parity.precision == "fp16", "the lowered graph says so itself"

    def test_eight_bits(self, run: Run, bundle: Path, data: Path, tmp_path: Path) -> None:
        simplified = tmp_path / "simplified.onnx"
        simplified.write_bytes((bundle / "simplified.onnx").read_bytes())
        calibrated = run("calibrate", simplified, "--data", data, "--samples", "100", "-o", tmp_path / "ranges.json")
        words = suggested(calibrated)
        assert words == [
            *("lower", str(simplified), "--int8"),
            *("--ranges", str(tmp_path / "ranges.json"), "-o", str(tmp_path / "lowered.onnx")),
        ]
        ranges = trtpipe.inspect(tmp_path / "ranges.json").ranges
        assert ranges is not None
        assert ranges.samples == 100
        assert run(*words).exit_code == 0
        lowered = trtpipe.inspect(tmp_path / "lowered.onnx")
        assert lowered.lowered is not None
        assert lowered.lowered.counts == {"int8": 1}

    def test_random_data_only_when_asked_for(self, run: Run, bundle: Path, tmp_path: Path) -> None:
        words = ("calibrate", bundle / "simplified.onnx", "-o", tmp_path, "-q")
        refused = run(*words)
        assert refused.exit_code == 2
        assert "int8 needs calibration data" in refused.stderr
        assert run(*words, "--allow-random-calibration").exit_code == 0
        ranges = trtpipe.inspect(tmp_path / "ranges.json").ranges
        assert ranges is not None
        assert ranges.account is not None
        assert "synthetic" in ranges.account.source

    def test_compile_for_several_targets_into_a_folder(self, run: Run, bundle: Path, tmp_path: Path) -> None:
        words = ("compile", bundle / "lowered.onnx", "--backend", "null", "--target", "sm89", "--target", "sm120")
        result = run(*words, "-o", tmp_path)
        assert result.exit_code == 0
        assert {path.name for path in tmp_path.glob("*.plan")} == {"sm89.plan", "sm120.plan"}
        assert result.stdout.splitlines()[-3] == "PASSED | made sm89.plan, sm120.plan"

    def test_compile_to_a_file(self, run: Run, bundle: Path, tmp_path: Path) -> None:
        words = ("compile", bundle / "lowered.onnx", "--backend", "null", "--target", "sm89", "--json")
        document = json.loads(run(*words, "-o", tmp_path / "mine.engine").stdout)
        assert document["out"] == document["steps"][0]["artifact"]["path"] == str(tmp_path / "mine.engine")
        assert trtpipe.inspect(tmp_path / "mine.engine").targets == ("sm89",)

    def test_export_needs_no_tensorrt(
        self, run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trtpipe.api.choose_backend", lambda _: pytest.fail("a back-end was asked for"))
        assert run("export", model, "-o", tmp_path).exit_code == 0


class TestVerify:
    def test_fails_with_3(self, run: Run, bundle: Path) -> None:
        words = ("verify", bundle / "lowered.onnx", "--reference", bundle / "model.onnx")
        assert run(*words).exit_code == 0
        result = run(*words, "--atol", "1e-9", "--rtol", "1e-9")
        assert result.exit_code == 3
        assert result.stdout.splitlines()[-1] == "FAILED | accuracy does not hold"

    def test_data_counts_as_real(self, run: Run, bundle: Path, data: Path) -> None:
        words = ("verify", bundle / "lowered.onnx", "--reference", bundle / "model.onnx", "--data", data, "--json")
        document = json.loads(run(*words).stdout)
        assert document["parity"]["synthetic"] is False
        assert document["parity"]["samples"] == 128
        assert document["out"] is None

    @pytest.mark.parametrize("command", ["verify", "measure"])
    def test_engine_that_cannot_run_here_is_an_environment_matter(self, run: Run, bundle: Path, command: str) -> None:
        reference = ("--reference", bundle / "model.onnx") if command == "verify" else ()
        result = run(command, bundle / "sm89.plan", *reference, "-q")
        assert result.exit_code == 6
        assert result.stderr.splitlines() == [
            f"error: {bundle}/sm89.plan cannot run here: null engines hold no computation",
            "  try: build with --backend tensorrt-rtx or tensorrt",
        ]


class TestMeasure:
    def test_graph_on_the_cpu_is_labelled(self, run: Run, bundle: Path, tmp_path: Path) -> None:
        words = ("measure", bundle / "lowered.onnx", "--warmup", "1ms", "--duration", "10ms", "--max-p99", "1us")
        result = run(*words, "-o", tmp_path)
        assert result.exit_code == 0, "a CPU's latency is never judged"
        assert "not a GPU latency" in result.stdout
        assert result.stdout.splitlines()[-3] == "PASSED | latency not judged"
        assert trtpipe.LatencyReport.read(tmp_path / "latency.json").max_p99 == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("words", "error", "remedy"),
    [
        (
            ["lower", "MODEL", "--int8", "-o", "OUT"],
            "lowering to int8 needs ranges",
            "make them with trtpipe calibrate",
        ),
        (["simplify", "nowhere.onnx", "-o", "OUT"], "nowhere.onnx: no such file", "check the path"),
        (["compile", "DATA", "-o", "OUT", "--backend", "null"], "", ""),
        (["verify", "nowhere.onnx", "--reference", "MODEL"], "nowhere.onnx: no such file", "give an ONNX model"),
    ],
)
def test_bad_input_is_exit_code_2(
    run: Run, model: Path, data: Path, tmp_path: Path, words: list[str], error: str, remedy: str
) -> None:
    names = {"MODEL": model, "DATA": data, "OUT": tmp_path / "out"}
    result = run(*(names.get(word, word) for word in words), "-q")
    assert result.exit_code == 2
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error: {error}")
    assert second.startswith(f"  try: {remedy}")
    assert not (tmp_path / "out").exists()
