"""The files that one stage writes for another: JSON beside ONNX files, and PyTorch's outputs."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.artifact import IOContract, Record
from trtpipe.config.formats import Precision
from trtpipe.errors import InputError
from trtpipe.passes.decisions import NodeDecision, WorkShare
from trtpipe.quantization.engine_search import EngineTrial

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trtpipe.artifact import Feed


class OutputDifference(Record):
    """How far one output is from its reference: largest and mean absolute difference."""

    output: str
    max_abs: float
    mean_abs: float


class ExportRecord(Record):
    """``model.onnx.json``.

    Attributes:
        exporter: what wrote the graph.
        opset, nodes, weight_bytes: of the graph.
        contract: its inputs and outputs.
        parity: PyTorch against onnxruntime on the example inputs; empty for an ONNX source.
    """

    exporter: str
    opset: int
    nodes: int
    weight_bytes: int
    contract: IOContract
    parity: tuple[OutputDifference, ...] = ()
    notes: tuple[str, ...] = ()


class SimplifyRecord(Record):
    """``simplified.onnx.json``.

    Attributes:
        simplified: whether onnxsim's result was taken.
        nodes_before, nodes_after: size of the graph.
        opset: of the result.
        parity: input against result, on two samples of the data, or seeded random ones.
        notes: what was tried and given up, and why.
    """

    simplified: bool
    nodes_before: int
    nodes_after: int
    opset: int
    contract: IOContract
    parity: tuple[OutputDifference, ...] = ()
    notes: tuple[str, ...] = ()


class LowerRecord(Record):
    """``lowered.onnx.json``: what is in which precision, and why.

    Attributes:
        precision: what was asked for.
        counts: how many of the judged nodes ended up in each precision.
        nodes: the decision for each of them.
        samples: how many samples showed what 16 bits have to hold; 0 where fixed rules decided.
        trials: engines that were built to find the cheapest placement; only for ``best``.
        work: for 8 bits, how much of the multiply-accumulates they hold.
    """

    precision: Precision
    opset: int
    counts: dict[str, int]
    nodes: tuple[NodeDecision, ...]
    samples: int = 0
    trials: tuple[EngineTrial, ...] = ()
    work: WorkShare | None = None
    notes: tuple[str, ...] = ()


def save_reference(path: Path, feeds: Sequence[Feed], outputs: Sequence[Feed]) -> None:
    """Write feeds, and what a program answered to them, as ``<index>/in/<name>`` and ``<index>/out/<name>``."""
    arrays = {f"{i}/in/{name}": value for i, feed in enumerate(feeds) for name, value in feed.items()}
    arrays |= {f"{i}/out/{name}": value for i, found in enumerate(outputs) for name, value in found.items()}
    with path.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def load_reference(path: Path) -> tuple[list[Feed], list[Feed]]:
    """Read feeds and outputs back, in their order.

    Raises:
        InputError: it is no such file.
    """
    sides: dict[str, list[Feed]] = {"in": [], "out": []}
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            for key in file.files:
                index, side, name = key.split("/", 2)
                found = sides[side]
                found += [{} for _ in range(int(index) + 1 - len(found))]
                found[int(index)][name] = file[key]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise InputError(f"{path}: not a file of reference outputs: {error}", "build again") from error
    return sides["in"], sides["out"]
