"""``trtpipe inspect`` on everything a build writes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import trtpipe
from trtpipe.artifact import IOContract
from trtpipe.engine.record import EngineRecord
from trtpipe.reference.pytorch_outputs import save_reference

if TYPE_CHECKING:
    from tests.cli.conftest import Run


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("model.onnx", "model", ["ai.onnx 20", "x: float32[2x8]", "MatMul", "exported by"]),
        ("simplified.onnx", "model", ["simplified by", "trtpipe only: 2 -> 2 nodes"]),
        (
            "lowered.onnx",
            "model",
            [
                "1 QuantizeLinear",
                "2 DequantizeLinear",
                "int8: 1 float32, 1 int8",
                "INT8 coverage",
                "100.0 % of 64 MACs",
                "reason",
            ],
        ),
        ("sm89.plan", "engine", ["null", "sm89", "y: float32[2x4]"]),
        ("ranges.json", "ranges", ["percentile 99.99 %", "128 from", "amax", "method"]),
        ("statistics.npz", "statistics", ["128 from", "1024", "NaN or infinite"]),
        ("parity.json", "parity", ["PASSED", "cosine", "onnxruntime", "engine:sm89: null engines"]),
        ("manifest.json", "manifest", ["PASSED", "model.onnx", "onnx-ir", "128 samples from", "sm89.plan"]),
        ("lowered.onnx.json", "model metadata", ["lowered to"]),
    ],
)
def test_shows_kind_and_contents(run: Run, bundle: Path, name: str, kind: str, words: list[str]) -> None:
    result = run("inspect", bundle / name)
    assert result.exit_code == 0
    head = dict(line.split(maxsplit=1) for line in result.stdout.splitlines()[:4])
    assert head["file"] == str(bundle / name)
    assert head["kind"] == kind
    assert len(head["sha256"]) == 64
    for word in words:
        assert word in result.stdout
    document = json.loads(run("inspect", bundle / name, "--json").stdout)
    assert (document["command"], document["exit_code"], document["kind"]) == ("inspect", 0, kind)
    assert document["sha256"] == head["sha256"]


def test_folder_stands_for_its_manifest(run: Run, bundle: Path) -> None:
    assert json.loads(run("inspect", bundle, "--json").stdout)["path"] == str(bundle / "manifest.json")


def test_long_lists_are_cut_unless_verbose(run: Run, bundle: Path, tmp_path: Path) -> None:
    ranges = json.loads((bundle / "ranges.json").read_text())
    ((_, one),) = ranges["tensors"].items()
    ranges["tensors"] = {f"tensor{number:02}": one for number in range(30)}
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps(ranges))
    short, full = run("inspect", path), run("inspect", path, "-v")
    assert "... and 10 more: --verbose shows all" in short.stdout
    assert "tensor20" not in short.stdout
    assert "tensor29" in full.stdout


def test_ranges_tell_the_method_of_each_tensor_and_which_have_no_values(run: Run, bundle: Path, tmp_path: Path) -> None:
    ranges = json.loads((bundle / "ranges.json").read_text())
    ((_, one),) = ranges["tensors"].items()
    ranges["tensors"] = {"a": one, "b": one | {"method": "mse", "percentile": None}}
    (tmp_path / "r.json").write_text(json.dumps(ranges | {"method": "auto", "percentile": None, "unseen": ["c", "d"]}))
    lines = [line.split() for line in run("inspect", tmp_path / "r.json").stdout.splitlines()]
    assert ["method", "auto"] in lines
    assert lines[lines.index(["no", "values", "c"]) + 1] == ["d"]
    (first,) = (words for words in lines if words[:1] == ["a"])
    (second,) = (words for words in lines if words[:1] == ["b"])
    assert first[2:5] == ["percentile", "99.99", "%"]
    assert second[2] == "mse"


def test_names_cannot_command_the_terminal(run: Run, bundle: Path, tmp_path: Path) -> None:
    ranges = json.loads((bundle / "ranges.json").read_text())
    ((_, one),) = ranges["tensors"].items()
    ranges["tensors"] = {"\x1b[2J\r\n[red]evil": one}
    (tmp_path / "r\x1b.json").write_text(json.dumps(ranges))
    result = run("inspect", tmp_path / "r\x1b.json")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "\r" not in result.stdout
    assert "[red]evil" in result.stdout


@pytest.mark.parametrize("content", [b"", b"hello", b"{}", b"[1]", b"{", b"PK\x03\x04", b"ftrt", b"\x00" * 100])
def test_what_it_does_not_know_is_bad_input(run: Run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    result = run("inspect", tmp_path / "file")
    assert result.exit_code == 2
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error: {tmp_path}/file: ")
    assert second.startswith("  try: ")


def test_explaining_a_node(run: Run, bundle: Path) -> None:
    names = [node["node"] for node in json.loads((bundle / "lowered.onnx.json").read_text())["nodes"]]
    product = next(name for name in names if "relu" not in name)
    for file in ("lowered.onnx", "lowered.onnx.json", "manifest.json"):
        result = run("inspect", bundle / file, "--explain", product)
        assert result.exit_code == 0
        assert "Conv/GEMM with constant weight" in result.stdout
        assert "MACs" in result.stdout
        assert "relu" not in result.stdout
        document = json.loads(run("inspect", bundle / file, "--explain", "*", "--json").stdout)
        assert [node["node"] for node in document["nodes"]] == names


def test_explaining_a_node_that_is_not_there(run: Run, bundle: Path) -> None:
    result = run("inspect", bundle / "lowered.onnx", "--explain", "rellu")
    assert result.exit_code == 2
    assert "no node is called 'rellu'" in result.stderr
    assert "similar names: relu" in result.stderr
    assert run("inspect", bundle / "ranges.json", "--explain", "relu").exit_code == 2


class TestPlots:
    """``--plot``: pictures of the statistics a file has, or that lie beside it."""

    @pytest.mark.parametrize("name", ["ranges.json", "statistics.npz"])
    def test_draws_every_tensor(self, run: Run, bundle: Path, tmp_path: Path, name: str) -> None:
        pytest.importorskip("matplotlib", reason="pictures are an extra")
        result = run("inspect", bundle / name, "--plot", tmp_path / "plots")
        assert result.exit_code == 0
        (picture,) = (tmp_path / "plots").iterdir()
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert "plotted 1 tensors" in result.stdout
        document = json.loads(run("inspect", bundle / name, "--plot", tmp_path / "plots", "--json").stdout)
        assert document["plots"] == [str(picture)]

    def test_there_must_be_statistics(self, run: Run, bundle: Path, tmp_path: Path) -> None:
        alone = tmp_path / "ranges.json"
        alone.write_bytes((bundle / "ranges.json").read_bytes())
        for path, words in ((alone, "no statistics.npz beside it"), (bundle / "model.onnx", "of kind model")):
            result = run("inspect", path, "--plot", tmp_path / "plots")
            assert result.exit_code == 2
            assert words in result.stderr
        assert not (tmp_path / "plots").exists()


class TestAltered:
    """A bundle whose files are not those that were judged has not passed."""

    @pytest.fixture
    def copy(self, bundle: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(bundle, tmp_path / "copy"))

    @staticmethod
    def shown(run: Run, path: Path) -> str:
        result = run("inspect", path)
        document = json.loads(run("inspect", path, "--json").stdout)
        assert result.exit_code == document["exit_code"] == 2
        assert document["altered"]
        assert re.search(r"^verdict +FAILED: changed since the build", result.stdout, re.MULTILINE)
        assert "PASSED" not in result.stdout
        return str(result.stdout)

    def test_untouched_ones_pass(self, run: Run, copy: Path) -> None:
        for name in ("", "manifest.json", "parity.json", "lowered.onnx", "sm89.plan"):
            assert run("inspect", copy / name).exit_code == 0
        assert "PASSED on the lowered graph" in run("inspect", copy).stdout

    @pytest.mark.parametrize("name", ["sm89.plan", "lowered.onnx", "lowered.onnx.json", "statistics.npz"])
    def test_another_file_of_the_bundle(self, run: Run, copy: Path, name: str) -> None:
        with (copy / name).open("ab") as stream:
            stream.write(b" ")
        for shown in (copy, copy / "parity.json"):  # its verdict is of other files
            assert f"{name}: not the file that the manifest lists" in self.shown(run, shown)

    def test_a_file_that_is_gone(self, run: Run, copy: Path) -> None:
        (copy / "sm89.plan").unlink()
        assert "sm89.plan: missing" in self.shown(run, copy / "manifest.json")

    def test_a_report_with_better_figures(self, run: Run, copy: Path) -> None:
        path = copy / "parity.json"
        path.write_text(path.read_text().replace('"samples": 16', '"samples": 1600'))
        self.shown(run, path)
        self.shown(run, copy)

    def test_a_verdict_that_its_reports_do_not_give(self, run: Run, copy: Path) -> None:
        path = copy / "manifest.json"
        document = json.loads(path.read_text())
        document["verdict"]["scope"] = document["verdict"]["headline"] = "PASSED on the engine for sm89 (tensorrt, L4)"
        path.write_text(json.dumps(document))
        for shown in (copy, copy / "lowered.onnx", copy / "sm89.plan"):
            assert "its verdict is not that of the reports it lists" in self.shown(run, shown)


class TestEverythingThatIsWritten:
    """``inspect`` knows every file that trtpipe writes."""

    def test_what_a_command_printed_as_json(self, run: Run, bundle: Path, tmp_path: Path) -> None:
        trtpipe.save_baseline(bundle, tmp_path / "good.json")
        saved = tmp_path / "result.json"
        for words in (("check", bundle, "--baseline", tmp_path / "good.json"), ("inspect", bundle)):
            saved.write_text(run(*words, "--json").stdout)
            found = trtpipe.inspect(saved)
            assert (found.kind, found.contents["command"]) == ("command result", words[0])
            assert found.contents["exit_code"] == "0"

    def test_of_a_bundle(self, bundle: Path) -> None:
        kinds = {path.name: trtpipe.inspect(path).kind for path in bundle.iterdir() if path.suffix != ".html"}
        assert kinds["outputs.json"] == "outputs"
        assert kinds["lowered.onnx"] == "model"
        assert kinds[".trtpipe.json"] == "written files"
        written = trtpipe.inspect(bundle / ".trtpipe.json")
        assert set(written.contents) == {path.name for path in bundle.iterdir()} - {".trtpipe.json"}
        assert written.altered == ()
        outputs = trtpipe.inspect(bundle / "outputs.json").contents
        assert list(outputs) == ["model", "simplified", "lowered"]
        assert outputs["lowered"].endswith("feeds: y float32[2x4]")

    def test_pytorchs_outputs(self, tmp_path: Path) -> None:
        x, y = np.zeros((2, 3), np.float32), np.zeros(2, np.int64)
        save_reference(tmp_path / "reference.npz", [{"a/b": x}] * 4, [{"y": y}] * 4)
        found = trtpipe.inspect(tmp_path / "reference.npz")
        assert found.kind == "reference outputs"
        assert found.contents == {"feeds": "4", "input a/b": "float32[2x3]", "output y": "int64[2]"}

    def test_profiles_and_recipes(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "p.toml").write_text('precision = "fp16"\n[build]\nopt_level = 2\n')
        (tmp_path / "c.toml").write_text('method = "max"\n[data]\nsource = "photos"\n')
        (tmp_path / "none.toml").write_text("colour = 1\n")
        profile, recipe = (trtpipe.inspect(tmp_path / name) for name in ("p.toml", "c.toml"))
        assert (profile.kind, profile.contents) == ("profile", {"precision": "fp16", "build.opt_level": "2"})
        assert recipe.kind == "recipe"
        assert recipe.contents["method"] == "max"
        assert run("inspect", tmp_path / "none.toml").exit_code == 2

    def test_a_log(self, run: Run, bundle: Path, tmp_path: Path) -> None:
        words = ("compile", bundle / "lowered.onnx", "--backend", "null", "--target", "sm89", "-o", tmp_path / "e")
        assert run(*words, "--log-file", tmp_path / "log").exit_code == 0
        assert trtpipe.inspect(tmp_path / "log").kind == "log"

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("<?xml version='1.0'?>\n<testsuite name='pytest'/>", "not of a kind that trtpipe writes"),
            ("<?xml version='1.0'?>\n<testsuite", "not valid XML"),
            ("<?xml version='1.0'?>\n<!DOCTYPE x [<!ENTITY a 'b'>]>\n<testsuite/>", "definitions of its own"),
        ],
    )
    def test_xml_of_others(self, run: Run, tmp_path: Path, text: str, words: str) -> None:
        (tmp_path / "j.xml").write_text(text)
        result = run("inspect", tmp_path / "j.xml")
        assert result.exit_code == 2
        assert words in result.stderr


def test_plans_of_rtx_say_which_runtime_loads_them(run: Run, tmp_path: Path) -> None:
    record = EngineRecord(
        flavor="tensorrt-rtx", version="1", target="sm89", io=IOContract(inputs=(), outputs=()), build_seconds=1.0
    )
    record.write(tmp_path / "sm89.plan.json")
    assert "not for TensorRT, Triton or trtexec" in run("inspect", tmp_path / "sm89.plan.json").stdout
