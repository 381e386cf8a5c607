"""Writing the preprocessing of images in front of a model, so that it takes bytes; done in a child process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.accuracy.alignment import largest_plain
from trtpipe.backends.base import load_backend
from trtpipe.config.formats import FP32
from trtpipe.config.preprocessing import METADATA
from trtpipe.config.settings import Settings
from trtpipe.config.units import suggestion
from trtpipe.data.input_checks import is_float, numpy_type
from trtpipe.data.pixels import as_model_feed
from trtpipe.data.synthetic import RandomDataset
from trtpipe.errors import InputError, StageError
from trtpipe.exporter.onnx_import import node_count, weight_bytes
from trtpipe.exporter.request import MODEL, ExportReply, FoldRequest
from trtpipe.exporter.simplification import absolute_gap
from trtpipe.isolation.worker import Report
from trtpipe.passes.constants import add_constant
from trtpipe.passes.graph_pass import FreshNames
from trtpipe.preflight.onnx_io import contract_of, load_model, save_model
from trtpipe.report.stage_records import ExportRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.artifact import Feed, IOContract
    from trtpipe.config.preprocessing import FoldedPreprocessing

#: Largest accepted difference, relative to the largest magnitude of an output.
_RELATIVE = 1e-3
#: Height and width of the images on which the two are compared, where nothing tells them.
_SIDE = 64


def fold(request: FoldRequest, report: Report) -> ExportReply:
    """Rewrite the model in the work folder, and compare the outputs for random bytes with those of the model itself for
    what readers of images make of these bytes.

    Raises:
        InputError: the model has no input for an image in float, or takes other channels.
        StageError: the outputs differ.
    """
    folder, folded = Path(request.workdir), request.preprocessing
    path = folder / MODEL
    report("fold", 0, 2)
    model = load_model(path)
    index = _image_input(contract_of(model), folded)
    name, dtype = str(model.graph.inputs[index].name), model.graph.inputs[index].dtype
    assert dtype is not None
    written = folder / "folded"
    written.mkdir()
    _write_nodes(model, index, folded)
    model.metadata_props[METADATA] = folded.model_copy(update={"input": name}).model_dump_json()
    names = save_model(model, written / MODEL)
    report("fold", 1, 2)
    feed = _feed(contract_of(model), name, request.shapes)
    own = as_model_feed(feed, folded.model_copy(update={"input": name}), dtype.numpy())
    compared = _compare(path, own, written / MODEL, feed)
    mean, std = (" ".join(f"{number:g}" for number in values) for values in (folded.mean, folded.std))
    note = f"input {name} takes images as uint8 [N, H, W, C]: (x / 255 - mean) / std with mean {mean} and std {std}"
    record = ExportRecord.read(folder / f"{MODEL}.json")
    for file in names:
        (written / file).replace(folder / file)
    written.rmdir()
    record.model_copy(
        update={
            "nodes": node_count(model),
            "weight_bytes": weight_bytes(model),
            "contract": contract_of(model),
            "image_type": dtype.numpy().name,
            "notes": (*record.notes, f"{note}, {folded.layout} inside; {compared}"),
        }
    ).write(folder / f"{MODEL}.json")
    report("fold", 2, 2)
    return ExportReply(names=names)


def _image_input(contract: IOContract, folded: FoldedPreprocessing) -> int:
    """The position of the input that takes the image."""
    names = [spec.name for spec in contract.inputs]
    if folded.input and folded.input not in names:
        raise InputError(
            f"fold_preprocessing: the model has no input {folded.input!r}",
            suggestion(folded.input, names, "inputs here"),
        )
    if not folded.input and len(names) != 1:
        raise InputError(
            f"fold_preprocessing: the model has {len(names)} inputs: {', '.join(names)}",
            "name the one that takes the image: the key input of the recipe's image table",
        )
    index = names.index(folded.input) if folded.input else 0
    spec = contract.inputs[index]
    if not is_float(numpy_type(spec, "fold_preprocessing")):
        raise InputError(
            f"fold_preprocessing: input {spec} takes no floats: there is nothing to cast or to normalize",
            "leave fold_preprocessing out; images are read as bytes for an input of uint8",
        )
    if spec.shape is None or len(spec.shape) != len(folded.axes):
        raise InputError(
            f"fold_preprocessing: input {spec} is no batch of images",
            "give a model whose image input has four axes: the batch, height, width and channels",
        )
    channels = spec.shape[folded.layout.index("C") + 1]
    if isinstance(channels, int) and channels != folded.channels:
        raise InputError(
            f"fold_preprocessing: input {spec} takes {channels} channels, an image of layout {folded.layout} has "
            f"{folded.channels}",
            "correct layout and channels in the recipe's image table",
        )
    return index


def _write_nodes(model: ir.Model, index: int, folded: FoldedPreprocessing) -> None:
    """The operations of ``as_model_feed`` in its order, so that the floats are the same, bit for bit."""
    graph, fresh = model.graph, FreshNames(model)
    image = graph.inputs[index]
    name, shape = str(image.name), image.shape
    assert shape is not None
    if image.is_graph_output():
        raise InputError(f"fold_preprocessing: {name!r} is an output too", "give a model that computes its outputs")
    dims: list[int | str | None] = [None] * len(folded.axes)
    for dim, axis in zip(shape, folded.axes, strict=True):
        dims[axis] = dim if isinstance(dim, int) else dim.value
    dims[-1] = folded.channels
    pixels = ir.val(name, ir.DataType.UINT8, ir.Shape(dims))
    nodes: list[ir.Node] = []

    def add(op_type: str, *others: ir.Value, output: ir.Value | None = None, **attributes: int | list[int]) -> None:
        source = nodes[-1].outputs[0] if nodes else pixels
        label = fresh(f"{name}_{op_type.lower()}")
        made = ir.val(fresh(f"{label}_output"), ir.DataType.FLOAT, ir.Shape(dims)) if output is None else output
        nodes.append(ir.node(op_type, [source, *others], attributes, outputs=[made], name=label))

    def constant(words: str, numbers: object) -> ir.Value:
        return add_constant(graph, fresh, f"{name}_{words}", np.asarray(numbers, FP32.dtype))

    image.name = fresh(f"{name}_normalized")
    add("Cast", to=int(ir.DataType.FLOAT))
    add("Div", constant("scale", 255.0))
    add("Sub", constant("mean", folded.mean))
    add("Div", constant("std", folded.std))
    graph.inputs[index] = pixels
    if image.dtype != ir.DataType.FLOAT:
        assert image.dtype is not None
        add("Cast", to=int(image.dtype))
        nodes[-1].outputs[0].dtype = image.dtype
    add("Transpose", output=image, perm=list(folded.axes))
    if len(graph):
        graph.insert_before(graph[0], nodes)
    else:
        graph.extend(nodes)


def _feed(contract: IOContract, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Feed:
    """Random values for all inputs, and bytes of every size for the image."""
    (spec,) = (each for each in contract.inputs if each.name == name)
    assert spec.shape is not None
    batch, *sides = (dim if isinstance(dim, int) else None for dim in spec.shape)
    usual = (batch or 1, *(side or _SIDE for side in sides))
    (sample,) = RandomDataset(contract, {**shapes, name: shapes.get(name, usual)}, samples=1)
    pixels = np.random.default_rng(0).integers(0, 256, sample.feed[name].shape).astype(np.uint8)
    return {**sample.feed, name: pixels}


def _compare(before: Path, own: Feed, after: Path, feed: Feed) -> str:
    """How the two compare, in words."""
    onnx = load_backend("onnxruntime")
    try:
        with onnx.open(before, Settings.in_child()) as runner:
            wanted = runner.infer(own)
    except (InputError, StageError) as error:
        return f"the result was not compared with the model itself: {error.message}"
    with onnx.open(after, Settings.in_child()) as runner:
        found = runner.infer(feed)
    largest = 0.0
    for name, value in wanted.items():
        difference = absolute_gap(value, found[name])
        scale = max(1.0, largest_plain(value))
        worst = float(difference.max(initial=0.0)) / scale
        if not worst <= _RELATIVE:
            raise StageError(
                f"fold_preprocessing: output {name!r} differs by {worst:.3g} of its largest value from that of the "
                "model with images prepared outside of it",
                "report this with the model; leave fold_preprocessing out to go on without it",
            )
        largest = max(largest, worst)
    return f"on random bytes outputs differ by at most {largest:.1g} of their largest value"
