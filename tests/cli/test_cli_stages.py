"""Each stage alone, one after the other, as the commands suggest it."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from models import conv_net, save
from onnx.parser import parse_model

import trtpipe
from trtpipe.config.requirements import install

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
        assert lowered.lowered.counts == {"float32": 1, "int8": 1}

    def test_lowering_explains_a_node(self, run: Run, bundle: Path, tmp_path: Path) -> None:
        words = ("lower", bundle / "simplified.onnx", "--int8", "--ranges", bundle / "ranges.json", "-o", tmp_path)
        told = run(*words, "--explain", "relu")
        assert told.exit_code == 0
        assert "activation: fuses with the node before it" in told.stdout
        assert (tmp_path / "lowered.onnx").is_file()
        unknown = run(*words, "--explain", "relux")
        assert unknown.exit_code == 2
        assert "similar names: relu" in unknown.stderr

    def test_random_data_only_when_asked_for(self, run: Run, bundle: Path, tmp_path: Path) -> None:
        words = ("calibrate", bundle / "simplified.onnx", "-o", tmp_path, "-q")
        refused = run(*words)
        assert refused.exit_code == 2
        assert "error: int8 needs calibration data" in refused.stderr
        assert "add --data (" in refused.stderr
        assert run(*words, "--allow-random-calibration").exit_code == 0
        ranges = trtpipe.inspect(tmp_path / "ranges.json").ranges
        assert ranges is not None
        assert ranges.data_summary is not None
        assert "synthetic" in ranges.data_summary.source

    def test_compile_for_several_targets_into_a_folder(self, run: Run, bundle: Path, tmp_path: Path) -> None:
        words = ("compile", bundle / "lowered.onnx", "--backend", "null", "--target", "sm89", "--target", "sm120")
        result = run(*words, "-o", tmp_path)
        assert result.exit_code == 0
        assert {path.name for path in tmp_path.glob("*.plan")} == {"sm89.plan", "sm120.plan"}
        assert result.stdout.splitlines()[-3] == "done: made sm89.plan, sm120.plan"

    def test_compile_for_the_shapes_of_the_data(self, run: Run, tmp_path: Path) -> None:
        text = '<ir_version: 10, opset_import: ["": 20]> g (float[N,S] x) => (float[N,S] y) { y = Relu(x) }'
        onnx.save(parse_model(text), tmp_path / "m.onnx")
        np.savez(tmp_path / "data.npz", x=np.zeros((7, 5), np.float32))
        words = ("compile", tmp_path / "m.onnx", "--backend", "null", "--target", "sm89", "--shapes", "auto")
        result = run(*words, "--calib-data", tmp_path / "data.npz", "-o", tmp_path / "out")
        assert result.exit_code == 0, result.output
        assert "x 1x5 to 1x5, opt 1x5" in result.stderr
        shown = run("inspect", tmp_path / "out" / "sm89.plan").stdout
        assert "x: 1x5 to 1x5, opt 1x5" in shown
        assert run(*words, "-o", tmp_path / "out").exit_code == 2

    def test_compile_to_a_file(self, run: Run, bundle: Path, tmp_path: Path) -> None:
        words = ("compile", bundle / "lowered.onnx", "--backend", "null", "--target", "sm89", "--json")
        document = json.loads(run(*words, "-o", tmp_path / "mine.engine").stdout)
        assert document["out"] == document["steps"][0]["artifact"]["path"] == str(tmp_path / "mine.engine")
        assert trtpipe.inspect(tmp_path / "mine.engine").targets == ("sm89",)

    def test_export_needs_no_tensorrt(
        self, run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trtpipe.api.request.choose_backend", lambda _: pytest.fail("a back-end was asked for"))
        assert run("export", model, "-o", tmp_path).exit_code == 0


class TestCalibrate:
    @pytest.fixture
    def simplified(self, bundle: Path, tmp_path: Path) -> Path:
        path = tmp_path / "simplified.onnx"
        path.write_bytes((bundle / "simplified.onnx").read_bytes())
        return path

    def test_other_ranges_from_statistics_without_data(
        self, run: Run, bundle: Path, simplified: Path, tmp_path: Path
    ) -> None:
        words = ("calibrate", simplified, "--statistics", bundle / "statistics.npz", "--method", "max")
        assert suggested(run(*words, "-o", tmp_path / "r.json"))[0] == "lower"
        document = json.loads(run(*words, "-o", tmp_path / "out", "--json").stdout)
        assert [step["stage"] for step in document["steps"]] == ["calibrate"]
        found = trtpipe.inspect(tmp_path / "r.json").ranges
        statistics = trtpipe.inspect(bundle / "statistics.npz").statistics
        assert found is not None
        assert statistics is not None
        assert found.method == "max"
        assert found.tensors["x"].amax == max(statistics.tensors["x"].maximum, -statistics.tensors["x"].minimum)

    def test_shards_give_the_ranges_of_the_whole(self, run: Run, simplified: Path, data: Path, tmp_path: Path) -> None:
        x = np.load(data)["x"]
        run("calibrate", simplified, "--data", data, "--method", "mse", "-o", tmp_path / "whole")
        for number, rows in enumerate(np.split(x, [50])):
            np.savez(tmp_path / f"{number}.npz", x=rows)
            run("calibrate", simplified, "--data", tmp_path / f"{number}.npz", "-o", tmp_path / str(number))
        shards = ("--statistics", tmp_path / "0" / "statistics.npz", "--statistics", tmp_path / "1")
        merged = run("calibrate", simplified, *shards, "--method", "mse", "-o", tmp_path / "merged")
        assert merged.exit_code == 0, merged.output
        whole, both = (trtpipe.inspect(tmp_path / name / "ranges.json").ranges for name in ("whole", "merged"))
        assert whole is not None
        assert both is not None
        assert both.tensors == whole.tensors
        assert both.samples == whole.samples == 128
        statistics = trtpipe.inspect(tmp_path / "merged" / "statistics.npz").statistics
        assert statistics is not None
        assert statistics.samples == 128
        files = (tmp_path / "0" / "statistics.npz", tmp_path / "1")
        modelless = run("calibrate", "--merge", *files, "--method", "mse", "-o", tmp_path / "alone")
        assert modelless.exit_code == 0, modelless.output
        for name in ("ranges.json", "statistics.npz"):
            assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "merged" / name).read_bytes()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--merge", "{b}", "--statistics", "{b}"), "--merge takes statistics as its arguments"),
            (("--merge", "{b}", "--method", "auto"), "method auto judges by the model itself"),
            (("{b}/simplified.onnx", "{b}/lowered.onnx"), "one model is calibrated at a time"),
        ],
    )
    def test_what_does_not_go_together(
        self, run: Run, bundle: Path, tmp_path: Path, words: tuple[str, ...], message: str
    ) -> None:
        filled = [word.format(b=bundle) for word in words]
        result = run("calibrate", *filled, "-q", "-o", tmp_path / "out")
        assert result.exit_code == 2
        assert message in result.stderr
        assert not (tmp_path / "out").exists()

    def test_one_shard_twice_is_refused_and_nothing_is_written(self, run: Run, bundle: Path, tmp_path: Path) -> None:
        words = ("--statistics", bundle, "--statistics", bundle / "statistics.npz", "-q", "-o", tmp_path / "out")
        result = run("calibrate", bundle / "simplified.onnx", *words)
        assert result.exit_code == 2
        assert "of the same samples" in result.stderr
        assert not (tmp_path / "out").exists()

    def test_a_tensorrt_cache(self, run: Run, simplified: Path, tmp_path: Path) -> None:
        (tmp_path / "c.cache").write_text("TRT-8601-MinMaxCalibration\nx: 3d000000\nold: 3f800000\n")
        words = ("calibrate", simplified, "--import-trt-cache", tmp_path / "c.cache")
        lower = suggested(run(*words, "-o", tmp_path))
        assert lower[:5] == ["lower", str(simplified), "--int8", "--ranges", str(tmp_path / "ranges.json")]
        ranges = trtpipe.inspect(tmp_path / "ranges.json").ranges
        assert ranges is not None
        assert ranges.tensors["x"].amax == 127 / 32
        document = json.loads(run(*words, "-o", tmp_path / "mine.json", "--json").stdout)
        assert (document["matched"], document["missing"], document["unused"]) == (["x"], [], ["old"])
        assert document["out"] == str(tmp_path / "mine.json")
        assert run(*lower).exit_code == 0

    @pytest.mark.parametrize(
        "more", [("--method", "mse"), ("--data", "x.npz"), ("--statistics", "s.npz"), ("--plot", "p")]
    )
    def test_a_cache_leaves_nothing_else_to_choose(
        self, run: Run, simplified: Path, tmp_path: Path, more: tuple[str, ...]
    ) -> None:
        words = ("--import-trt-cache", tmp_path / "c.cache", *more, "-q", "-o", tmp_path / "out")
        result = run("calibrate", simplified, *words)
        assert result.exit_code == 2
        assert "takes every range from the cache" in result.stderr

    def test_plots_of_the_statistics(self, run: Run, simplified: Path, data: Path, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib", reason="pictures are an extra")
        words = ("calibrate", simplified, "--data", data, "--plot", tmp_path / "plots", "-o", tmp_path / "r.json")
        assert suggested(run(*words))[0] == "lower"
        (picture,) = (tmp_path / "plots").iterdir()
        assert picture.name == "000_x.png"
        assert picture.read_bytes().startswith(b"\x89PNG")

    def test_plots_without_matplotlib_are_refused_before_any_work(
        self, run: Run, simplified: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        words = ("calibrate", simplified, "--data", data, "--plot", tmp_path / "plots", "-o", tmp_path / "r.json", "-q")
        result = run(*words)
        assert result.exit_code == 6
        assert install("plots") in result.stderr
        assert not (tmp_path / "r.json").exists()


class TestVerify:
    def test_fails_with_3(self, run: Run, bundle: Path) -> None:
        words = ("verify", bundle / "lowered.onnx", "--reference", bundle / "model.onnx")
        random = run(*words)
        assert random.exit_code == 0
        last = random.stdout.splitlines()[-1]
        assert last == "NOT JUDGED on real data: ran the lowered graph (onnxruntime, CPU, 16 random samples)"
        result = run(*words, "--atol", "1e-9", "--rtol", "1e-9")
        assert result.exit_code == 3
        assert result.stdout.splitlines()[-1] == (
            "FAILED on the lowered graph (onnxruntime, CPU, 16 random samples); accuracy gate failed, first in lower"
        )

    def test_data_counts_as_real(self, run: Run, bundle: Path, data: Path) -> None:
        words = ("verify", bundle / "lowered.onnx", "--reference", bundle / "model.onnx", "--data", data, "--json")
        document = json.loads(run(*words).stdout)
        assert document["parity"]["synthetic"] is False
        assert document["parity"]["samples"] == 16
        assert document["out"] is None

    @pytest.mark.parametrize("command", ["verify", "measure"])
    def test_engine_that_cannot_run_here_is_an_environment_matter(self, run: Run, bundle: Path, command: str) -> None:
        reference = ("--reference", bundle / "model.onnx") if command == "verify" else ()
        result = run(command, bundle / "sm89.plan", *reference, "-q")
        assert result.exit_code == 6
        assert result.stderr.splitlines() == [
            f"error: {bundle}/sm89.plan cannot run here: null engines are placeholders, for tests only",
            "  try: build with --backend tensorrt-rtx or tensorrt",
        ]


class TestMeasure:
    def test_graph_on_the_cpu_is_labeled(self, run: Run, bundle: Path, tmp_path: Path) -> None:
        words = ("measure", bundle / "lowered.onnx", "--warmup", "1ms", "--duration", "10ms", "--max-p99", "1us")
        result = run(*words, "-o", tmp_path)
        assert result.exit_code == 0, "a CPU's latency is never judged"
        assert "not a GPU latency" in result.stdout
        assert result.stdout.splitlines()[-3] == "NOT JUDGED; latency gate not evaluated: no engine was timed"
        shown = run("inspect", tmp_path / "latency.json").stdout
        assert [word for word in ("not a GPU latency", "p99", "CoV") if word not in shown] == []

    def test_batches_are_swept_with_real_data_and_shown_row_by_row(self, run: Run, tmp_path: Path) -> None:
        graph, data = save(conv_net(), tmp_path / "net.onnx"), tmp_path / "some.npz"
        np.savez(data, x=np.ones((4, 3, 8, 8), np.float32))
        words = ("measure", graph, "--warmup", "1ms", "--duration", "10ms", "--iterations", "3")
        result = run(*words, "--batch", "1,3", "--data", data)
        assert result.exit_code == 0
        assert [f"x:{batch}x3x8x8" in result.stdout for batch in (1, 3, 4)] == [True, True, False]
        document = json.loads(run(*words, "--batch", "2", "--data", data, "--json").stdout)
        [figure] = document["latency"]["measurements"]
        assert figure["shapes"] == {"x": [2, 3, 8, 8]}
        assert data.name in figure["data"]

    def test_two_graphs_run_in_turns(self, run: Run, bundle: Path, tmp_path: Path) -> None:
        words = ("measure", bundle / "model.onnx", bundle / "lowered.onnx", "--warmup", "1ms")
        result = run(*words, "-o", tmp_path / "c.json")
        assert result.exit_code == 0
        assert "95% interval" in result.stdout
        assert "no GPU latencies" in result.stdout
        document = json.loads(run(*words, "--json").stdout)
        [pair] = document["comparison"]["pairs"]
        assert pair["low"] <= pair["ratio"] <= pair["high"]
        assert trtpipe.inspect(tmp_path / "c.json").comparison is not None

    def test_a_fixed_batch_is_not_swept(self, run: Run, bundle: Path) -> None:
        result = run("measure", bundle / "lowered.onnx", "--batch", "4", "-q")
        assert result.exit_code == 2
        assert "the batch size is fixed in the model" in result.stderr

    @pytest.mark.parametrize("text", ["0", "x", "1,-2"])
    def test_batch_sizes_are_whole_numbers_from_1(self, run: Run, bundle: Path, text: str) -> None:
        result = run("measure", bundle / "lowered.onnx", "--batch", text, "-q")
        assert result.exit_code == 2
        assert "--batch" in result.stderr


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
