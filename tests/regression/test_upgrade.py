"""Two engines of one graph, node by node: what differs is found, and nothing else."""

from __future__ import annotations

import pytest

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.engine.record import EngineRecord
from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor
from trtpipe.regression.upgrade import Stored, UpgradeReport, compare_engines, not_built
from trtpipe.report.verdict import Evidence, verdict_of

SPEC = TensorSpec(name="x", dtype="float32", shape=(1, 4))


def tensor(type_: str, *dims: int) -> EngineTensor:
    return EngineTensor(name="any", type=type_, dims=dims or (4,))


def kernel(kind: str, reads: str, writes: str, *nodes: str, holds: tuple[EngineTensor, ...] = ()) -> EngineLayer:
    return EngineLayer(
        name="k", kind=kind, inputs=(tensor(reads),), outputs=(tensor(writes),), constants=holds, nodes=nodes
    )


CONV = kernel("correlation", "Int8", "Int8", "conv", "relu", holds=(tensor("Int8", 8, 4, 3, 3), tensor("Float", 8)))
HEAD = kernel("gemm", "Int8", "Float", "head", holds=(tensor("Int8", 10, 8),))
POOL = kernel("kgen", "Int8", "Int8", "pool", "flatten")
COPY = kernel("kgen", "Float", "Int8")
LAYERS = (COPY, CONV, POOL, HEAD)


def engine(
    *layers: EngineLayer, version: str = "2.0", separate: tuple[str, ...] = (), **fields: object
) -> EngineRecord:
    plain: dict[str, object] = {
        "flavor": "rtx", "version": version, "target": "sm89", "targets": ("sm89",),
        "io": IOContract(inputs=(SPEC,), outputs=(SPEC.model_copy(update={"name": "y"}),)),
        "build_seconds": 1.0, "weight_bytes": 100_000, "activation_bytes": 1_000_000,
        "report": EngineReport(source="log", layers=layers, separate=separate) if layers else None,
    }  # fmt: skip
    return EngineRecord.model_validate(plain | fields)


def found(new: EngineRecord, old: EngineRecord | None = None, stored: Stored | None = None) -> dict[str, str]:
    """Respect -> status, of those that are not as before."""
    findings = compare_engines(old or engine(*LAYERS, version="1.0"), new, stored or Stored())
    assert all(finding.name.startswith("sm89, rtx ") for finding in findings)
    return {each.name.rpartition(": ")[2]: each.status for each in findings if each.status != "ok"}


def text(new: EngineRecord, what: str, stored: Stored | None = None) -> str:
    findings = compare_engines(engine(*LAYERS, version="1.0"), new, stored or Stored())
    return next(each.message for each in findings if each.name.endswith(what))


class TestTheSame:
    def test_nothing_differs(self):
        assert found(engine(*LAYERS)) == {}

    def test_names_tactics_and_the_order_of_kernels_do_not_count(self):
        renamed = tuple(
            layer.model_copy(update={"name": f"n{index}", "tactic": f"t{index}", "constants": layer.constants[::-1]})
            for index, layer in enumerate(LAYERS)
        )
        assert found(engine(*renamed[::-1])) == {}

    def test_memory_of_another_alignment_does_not_count(self):
        assert found(engine(*LAYERS, activation_bytes=1_000_256, weight_bytes=100_128)) == {}


class TestPrecision:
    @pytest.mark.parametrize(("reads", "writes"), [("Half", "Int8"), ("Int8", "Half"), ("FP8", "FP8")])
    def test_another_type_of_a_convolution(self, reads, writes):
        other = kernel("correlation", reads, writes, "conv", "relu", holds=CONV.constants)
        new = engine(COPY, other, POOL, HEAD)
        assert found(new) == {"precision": "failed"}
        assert f"2 of 5 nodes changed: conv: Int8 to Int8 -> {reads} to {writes}" in text(new, "precision")

    def test_of_a_node_that_is_no_product(self):
        assert found(engine(COPY, CONV, kernel("kgen", "Int8", "Half", "pool", "flatten"), HEAD)) == {
            "precision": "failed"
        }

    def test_a_product_is_judged_by_its_own_kernel(self):
        """A cast behind it that also names it says nothing about the product."""
        before = engine(*LAYERS, kernel("kgen", "Float", "Float", "head"))
        after = engine(*LAYERS, kernel("kgen", "Float", "Half", "head"))
        assert "precision" not in found(after, before)


class TestFusion:
    def test_a_kernel_in_two(self):
        alone = CONV.model_copy(update={"nodes": ("conv",)})
        new = engine(COPY, alone, kernel("kgen", "Int8", "Int8", "relu"), POOL, HEAD)
        assert found(new)["fusion"] == "failed"
        assert text(new, "fusion") == "4 kernels before, 5 now; no longer one kernel: conv, relu"

    def test_a_node_that_moved_to_another_kernel(self):
        """As many kernels as before."""
        moved = (
            CONV.model_copy(update={"nodes": ("conv",)}),
            POOL.model_copy(update={"nodes": ("relu", "pool", "flatten")}),
        )
        new = engine(COPY, *moved, HEAD)
        assert found(new)["fusion"] == "failed"

    def test_another_copy(self):
        assert found(engine(COPY, COPY, CONV, POOL, HEAD)) == {"fusion": "failed"}

    def test_a_node_in_one_more_kernel(self):
        new = engine(*LAYERS, kernel("kgen", "Float", "Float", "head"))
        assert "in more kernels: head" in text(new, "fusion")
        assert "a kernel of its own: relu" in text(engine(*LAYERS, kernel("kgen", "Int8", "Int8", "relu")), "fusion")

    def test_a_node_that_was_folded(self):
        new = engine(COPY, CONV, kernel("kgen", "Int8", "Int8", "pool", "flatten", "shape"), HEAD)
        assert found(new) == {"fusion": "failed"}
        assert "in a kernel, and was in none: shape" in text(new, "fusion")

    def test_a_quantizer_that_became_a_kernel(self):
        assert found(engine(*LAYERS, separate=("x_quantize",))) == {"fusion": "failed"}

    def test_fewer_kernels_are_a_note(self):
        merged = kernel("correlation", "Int8", "Int8", "conv", "relu", "pool", "flatten", holds=CONV.constants)
        new = engine(COPY, merged, HEAD)
        assert found(new)["fusion"] == "note"
        assert text(new, "fusion") == "4 kernels before, 3 now; one kernel now: conv, flatten, pool and 1 more"


class TestWeights:
    @pytest.mark.parametrize("held", [
        (tensor("Half", 8, 4, 3, 3), tensor("Float", 8)), (tensor("Int8", 8, 8, 3, 3), tensor("Float", 8)),
        (tensor("Int8", 8, 4, 3, 3),), (*CONV.constants, tensor("Float", 8)),
    ])  # fmt: skip
    def test_of_another_type_size_or_number(self, held):
        new = engine(COPY, CONV.model_copy(update={"constants": held}), POOL, HEAD)
        assert found(new) == {"weights": "failed"}
        assert "1 kernels changed: conv, relu: " in text(new, "weights")

    @pytest.mark.parametrize("held", [("Half", 8, 4, 3, 3), ("Int8", 8, 8, 3, 3)])
    def test_where_kernels_differ_too(self, held):
        split = kernel("correlation", "Int8", "Int8", "conv", holds=(tensor(*held), tensor("Float", 8)))
        new = engine(COPY, split, kernel("kgen", "Int8", "Int8", "relu"), POOL, HEAD)
        assert "1 kernels changed: conv, relu: " in text(new, "weights")

    def test_that_moved_to_another_kernel_of_the_same_nodes_are_no_others(self):
        first = kernel("correlation", "Int8", "Int8", "conv", holds=CONV.constants[:1])
        new = engine(COPY, first, kernel("kgen", "Int8", "Int8", "conv", "relu", holds=CONV.constants[1:]), POOL, HEAD)
        assert found(new) == {"fusion": "failed"}

    @pytest.mark.parametrize("layer", [HEAD, COPY])
    def test_single_values_are_the_builder_s_own(self, layer):
        more = layer.model_copy(update={"constants": (*layer.constants, tensor("Float", 1), tensor("Half", 1, 1))})
        assert found(engine(*(more if each is layer else each for each in LAYERS))) == {}

    def test_with_other_bytes(self):
        stored = Stored(frozenset("ab"), frozenset("bc"), 3)
        assert found(engine(*LAYERS), stored=stored) == {"weights": "failed"}
        assert "1 are stored with other bytes, or not as they are: a" in text(engine(*LAYERS), "weights", stored)

    def test_how_many_could_be_compared_is_said(self):
        stored = Stored(frozenset("ab"), frozenset("ab"), 3)
        assert text(engine(*LAYERS), "weights", stored) == "the same; 2 of 3 constants compared byte by byte"

    @pytest.mark.parametrize(("size", "status"), [(102_000, "failed"), (90_000, "note")])
    def test_memory(self, size, status):
        assert found(engine(*LAYERS, weight_bytes=size)) == {"weights": status}


class TestMemoryAndInterface:
    @pytest.mark.parametrize(("size", "status"), [(1_020_000, "failed"), (500_000, "note")])
    def test_activation_memory(self, size, status):
        assert found(engine(*LAYERS, activation_bytes=size)) == {"activation memory": status}

    def test_outputs(self):
        other = IOContract(inputs=(SPEC,), outputs=(SPEC.model_copy(update={"name": "y", "dtype": "float16"}),))
        assert found(engine(*LAYERS, io=other)) == {"inputs and outputs": "failed"}

    def test_a_builder_that_reports_nothing(self):
        assert found(engine()) == {"layers": "skipped"}


class TestReport:
    def report(self, *findings):
        return UpgradeReport(
            baseline="rtx 1.0",
            build="out",
            verdict=verdict_of(Evidence()),
            findings=findings,
            versions=("rtx 2.0", "rtx 3.0"),
        )

    def test_the_headline_says_that_nothing_ran(self):
        report = self.report(*compare_engines(engine(*LAYERS), engine(*LAYERS)))
        assert report.passed
        assert report.headline == (
            "PASSED: engines of out by rtx 2.0, rtx 3.0 against those by rtx 1.0; "
            "engine reports compared, no engine executed"
        )

    def test_an_engine_that_cannot_be_built_fails_a_gate_of_its_own(self):
        report = self.report(not_built("sm89", "rtx 2.0", "no such kernel"))
        assert not report.passed
        assert not report.gate_passed("build")
        assert report.gate_passed("accuracy")
        assert report.gate_passed("latency")
        assert report.headline.startswith("FAILED: ")
