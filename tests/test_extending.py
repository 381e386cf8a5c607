"""The examples of docs/extending.md run as they stand, and do what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from fixtures_stages import run_stage
from models import model as graph
from models import save

from trtpipe.backends.base import BACKENDS, EngineRequest
from trtpipe.config.formats import FORMATS
from trtpipe.config.profile import BuildSettings, DeploymentProfile
from trtpipe.config.settings import Settings
from trtpipe.config.target import find_target
from trtpipe.data.dataset import SOURCES
from trtpipe.errors import InputError, StageError
from trtpipe.passes.graph_pass import run_passes
from trtpipe.pipeline.run_state import artifact_from_file
from trtpipe.progress import NullProgress
from trtpipe.stages import lower
from trtpipe.stages.lower import Lower
from trtpipe.stages.stage import Inputs

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
#: Heading -> the code below it.
EXAMPLES = dict(re.findall(r"^## (.+)$(?:(?!^## ).*\n)*?^```python\n((?:.*\n)*?)^```$", PAGE.read_text(), re.MULTILINE))

Example = dict[str, Any]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Example]:
    """Run the code below a heading in an empty folder; what it defined."""
    monkeypatch.chdir(tmp_path)

    def run(heading: str) -> Example:
        names: Example = {"__name__": "example"}
        exec(compile(EXAMPLES[heading], f"{PAGE.name}: {heading}", "exec", dont_inherit=True), names)
        return names

    return run


def test_every_section_has_its_example() -> None:
    headings = re.findall(r"^## (.+)$", PAGE.read_text(), re.MULTILINE)
    assert list(EXAMPLES) == headings
    assert headings == ["A graph pass", "A stage", "A back-end", "A format", "A data source", "A metric"]


def test_a_graph_pass(example, capsys) -> None:
    names = example("A graph pass")
    assert capsys.readouterr().out == "True ['Relu', 'Neg']\n"
    assert names["model"].graph.outputs[0].name == "y"
    (again,) = run_passes(names["model"], names["PASSES"])
    assert not again.modified
    ends = ir.serde.deserialize_model(graph("(float[2] x) => (float[2] a, float[2] y) { a = Relu(x) y = Relu(a) }"))
    run_passes(ends, names["PASSES"])
    assert [node.op_type for node in ends.graph] == ["Relu", "Relu"]
    names["model"].functions[("own", "F", "")] = ir.Function(
        "own", "F", graph=ir.Graph([], [], nodes=[]), attributes=[]
    )
    with pytest.raises(StageError):
        run_passes(names["model"], names["PASSES"])


def test_a_graph_pass_listed_for_lowering(example, make_job, tmp_path: Path, heard_all, monkeypatch) -> None:
    names = example("A graph pass")
    net = graph("(float[2] x) => (float[2] y) { a = Relu(x) b = Relu(a) y = Neg(b) }")
    given = Inputs({"simplified": artifact_from_file("simplified", save(net, tmp_path / "net.onnx"))})

    def lowered(precision: str) -> list[str]:
        (tmp_path / precision).mkdir(exist_ok=True)
        draft = run_stage(Lower(), make_job(precision=precision), given, tmp_path / precision, heard_all)
        return [node.op_type for node in onnx.load(draft.path).graph.node]

    assert lowered("fp32") == ["Relu", "Relu", "Neg"]
    monkeypatch.setattr(lower, "lowering", names["lowering_and_more"])
    assert lowered("fp32") == ["Relu", "Neg"]
    assert lowered("fp16") == ["Cast", "Relu", "Neg", "Cast"]


def test_a_stage(example, tmp_path: Path, in_process, capsys) -> None:
    net = graph("(float[2,3] x) => (float[2,3] y) { h = Neg(x) i = Abs(h) y = Neg(i) }")
    for node, name in zip(net.graph.node, ("body", "middle", "head"), strict=True):
        node.name = name
    save(net, tmp_path / "net.onnx")
    names = example("A stage")
    assert capsys.readouterr().out == "built hit built\n"
    assert names["first"][1] == names["again"][1] == {"Abs": 1, "Neg": 2}
    assert names["other"][1] == {"Abs": 1, "Neg": 1}
    with pytest.raises(StageError):
        names["run_once"](("*",))


def test_a_back_end(example, tmp_path: Path) -> None:
    names = example("A back-end")
    assert names["TABLE"].keys() - BACKENDS.keys() == {"reference"}
    net = save(graph("(float[N,2] x) => (float[N,2] y) { y = Mul(x, w) }", w=np.float32([2, -1])), tmp_path / "n.onnx")
    backend, target, settings = names["Reference"](), find_target("sm89"), Settings(cache_dir=tmp_path)
    assert backend.refuses(net, DeploymentProfile(), target) is None
    assert backend.refuses(net, DeploymentProfile(build=BuildSettings(strip_weights=True)), target) is not None
    plan = tmp_path / "sm89.plan"
    record = backend.build(EngineRequest(net, DeploymentProfile(), (target,), plan, settings), NullProgress())
    assert (record.flavor, record.target, record.version) == ("reference", "sm89", onnx.__version__)
    with backend.open(plan, settings) as runner:
        assert runner.infer({"x": np.float32([[1, 2], [3, 4]])})["y"].tolist() == [[2, -2], [6, -4]]
        assert runner.infer_all([{"x": np.float32([[1, 1]])}])[0]["y"].tolist() == [[2, -1]]
        with pytest.raises(InputError):
            runner.infer({})


def test_a_format(example, capsys) -> None:
    names = example("A format")
    row, finite = names["FP8_E5M2"], ml_dtypes.finfo("float8_e5m2")
    assert names["TABLE"][:-1] == FORMATS
    assert row.largest == float(finite.max)
    assert row.normal == float(finite.smallest_normal)
    assert row.rounding == float(finite.eps) / 2
    assert row.dtype == np.dtype(ml_dtypes.float8_e5m2)
    assert int(onnx.TensorProto.DataType.Value(row.onnx)) == ir.DataType.FLOAT8E5M2
    table = names["table"]
    assert f"{ {name: round(value, 1) for name, value in table.items()} }\n" == capsys.readouterr().out
    assert table["fp8e5m2"] - table["fp8"] == pytest.approx(20 * np.log10(2), abs=0.5)  # one bit less


def test_a_data_source(example, tmp_path: Path, capsys) -> None:
    names = example("A data source")
    assert names["TABLE"][:-1] == SOURCES
    assert capsys.readouterr().out.endswith("[(2, 3), (1, 3)]\n")
    rows = np.concatenate([sample.feed["x"] for sample in names["dataset"]])
    assert rows.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert names["dataset"].digests() == names["dataset"].digests()
    (tmp_path / "samples.csv").write_text("1,2,3\n4,5\n")
    with pytest.raises(InputError):
        names["open_csv"](names["settings"], names["contract"])


def test_a_metric(example, capsys) -> None:
    names = example("A metric")
    assert capsys.readouterr().out == "mae 0.5 3\n"
    assert names["value"].lower_is_better
    assert names["value"].scores.arrays()[0].tolist() == [0.5, 0, 1]
    with pytest.raises(InputError):
        names["meter"].update({"y": np.zeros((2, 3), np.float32)}, {}, np.zeros(2))


def test_what_the_page_prints_is_what_its_comments_say(example, capsys) -> None:
    for heading in ("A graph pass", "A format", "A metric"):
        example(heading)
        (said,) = re.findall(r"^print\(.*\)  # (.+)$", EXAMPLES[heading], re.MULTILINE)
        assert capsys.readouterr().out == f"{said}\n"
