"""Reading and writing ``.onnx`` files: confined external data, clear refusals, deterministic bytes.

External data is only ever read from regular files inside the model's own folder: a path that leaves it, directly or
through a link, is refused before any native parser opens the model.
"""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.errors import InputError
from trtpipe.preflight.model import External
from trtpipe.preflight.reading import VALUE_BITS
from trtpipe.preflight.sealing import open_external, open_model
from trtpipe.preflight.versions import OPSETS_SINCE
from trtpipe.preflight.wire import read_without_weights, with_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx
    import onnx_ir as ir

#: Models with more weight bytes than this are saved with external data: protobuf stops at 2 GB, and external
#: data can be memory-mapped, so big models need no second copy in memory.
INLINE_LIMIT = 512 * 1024 * 1024

_ANY_SIZE = frozenset({None, "", "?", "-1", "None"})
_GIVE_MODEL = "give an .onnx file as an exporter wrote it"


@dataclass(frozen=True)
class ExternalRef:
    """One tensor's place in an external data file; ``location`` is relative to the model's folder."""

    tensor: str
    location: str
    path: Path
    offset: int
    length: int


def read_proto(path: Path, *, weights: bool = False, repairable: bool = False) -> onnx.ModelProto:
    """Parse the graph of ``path``; external data stays on disk and is checked for confinement and length.

    Args:
        weights: whether values of more than 1 kB in the file itself are read too.
        repairable: whether the opset may be missing; see ``check_model``.

    Raises:
        InputError: the file is missing, a folder, empty, truncated, not ONNX, or its external data is missing,
            short, or outside the model's folder.
    """
    import onnx
    from google.protobuf.message import DecodeError

    os.close(open_model(path))
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes() if weights else read_without_weights(path))
    except (DecodeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not an ONNX model, or cut short ({error})", _GIVE_MODEL) from error
    if not proto.graph.node and not proto.graph.output:
        raise InputError(f"{path}: holds no graph (truncated, or not an ONNX model)", _GIVE_MODEL)
    if not proto.opset_import and proto.ir_version >= OPSETS_SINCE and not repairable:
        raise InputError(f"{path}: states no opset (truncated, or not an ONNX model)", _GIVE_MODEL)
    for ref in external_refs(proto, path):
        os.close(open_external(path, External(ref.tensor, ref.location, ref.offset, ref.length)))
    return proto


def load_model(path: Path) -> ir.Model:
    """Load ``path`` into onnx-ir. External tensors stay memory-mapped until they are read.

    Raises:
        InputError: as for ``read_proto``.
    """
    return model_of(read_proto(path, weights=True), path)


def model_of(proto: onnx.ModelProto, path: Path) -> ir.Model:
    """A parsed model in onnx-ir.

    Args:
        path: the file it is from, beside which its external data lies.

    Raises:
        InputError: onnx-ir refuses it.
    """
    import onnx_ir as ir

    with attributed_to(path):
        model = ir.serde.deserialize_model(proto)
    ir.external_data.set_base_dir(model.graph, path.parent)
    _load_attributes(model)
    opsets = model.graph.opset_imports
    if "ai.onnx" in opsets:  # the long name of the domain that all others write as ""
        opsets[""] = opsets.pop("ai.onnx")
    return model


def without_meaningless_names(model: Path) -> bytes | None:
    """The model without dimension names that only mean "any size"; ``None`` if it has none.

    TensorRT requires dimensions of one name to be equal.
    """
    import onnx

    try:
        if not _meaningless(read_proto(model)):
            return None
    except InputError:  # the parser reports what is wrong
        return None
    proto = onnx.load(model, load_external_data=False)
    for dim in _meaningless(proto):
        dim.ClearField("dim_param")
    return bytes(proto.SerializeToString())


def _meaningless(proto: onnx.ModelProto) -> list[onnx.TensorShapeProto.Dimension]:
    values = [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]
    dims = [dim for value in values for dim in value.type.tensor_type.shape.dim]
    return [dim for dim in dims if dim.dim_param and named_dimension(dim.dim_param) is None]


def save_model(model: ir.Model, path: Path) -> tuple[str, ...]:
    """Write ``model`` to ``path``; equal models give equal bytes.

    Big models (see ``INLINE_LIMIT``) put their weights into ``<name>.data`` beside the file.

    Returns:
        The names of the files written, main file first.
    """
    import onnx_ir as ir

    weights = sum(value.const_value.nbytes for value in _initializers(model) if value.const_value is not None)
    data_name = f"{path.name}.data"
    if weights <= INLINE_LIMIT:
        ir.external_data.load_to_model(model)  # otherwise they would still name the file they came from
        with path.open("wb") as stream:
            stream.writelines(_serialized(model))
        return (path.name,)
    ir.save(model, path, external_data=data_name, size_threshold_bytes=1024)
    return (path.name, data_name)


def with_shared_weights(model: Path, folder: Path) -> Path:
    """A copy of the model in ``folder`` whose weights are a file beside it, which graphs made from it can share: see
    ``save_sharing``. A model that is too large for a file of its own stays where it is.

    Raises:
        InputError: as for ``read_proto``.
    """
    import onnx_ir as ir

    loaded, copy = load_model(model), folder / "shared.onnx"
    if sum(value.const_value.nbytes for value in _initializers(loaded) if value.const_value is not None) > INLINE_LIMIT:
        return model
    ir.save(loaded, copy, external_data="shared.data", size_threshold_bytes=1024)
    return copy


def save_sharing(model: ir.Model, path: Path) -> tuple[str, ...]:
    """Write ``model`` to ``path`` and its weights to ``<name>.data`` beside it; those that lie in a file beside it
    already are not written again.

    Returns:
        The names of the files written, main file first.
    """
    import onnx_ir as ir

    tensors = [value.const_value for value in _initializers(model) if value.const_value is not None]
    beside = [each for each in tensors if isinstance(each, ir.ExternalTensor) and Path(each.base_dir) == path.parent]
    if not beside or sum(each.nbytes for each in tensors) - sum(each.nbytes for each in beside) > INLINE_LIMIT:
        data = f"{path.name}.data"
        ir.save(model, path, external_data=data, size_threshold_bytes=1024)
        return (path.name, data) if path.with_name(data).exists() else (path.name,)
    path.write_bytes(ir.serde.serialize_model(model).SerializeToString())
    return (path.name,)


def _serialized(model: ir.Model) -> Iterator[bytes]:
    """The file in parts: each weight is copied once, where onnx-ir and protobuf together would copy it twice."""
    import onnx_ir as ir

    values = list(model.graph.initializers.values())
    tensors, nothing = [value.const_value for value in values], ir.tensor([0.0])
    try:
        for value in values:
            value.const_value = nothing
        proto = ir.serde.serialize_model(model)
    finally:
        for value, tensor in zip(values, tensors, strict=True):
            value.const_value = tensor
    del proto.graph.initializer[:]
    named = [(value.name, tensor) for value, tensor in zip(values, tensors, strict=True) if tensor is not None]
    for name, tensor in named:
        tensor.name = name
    weights = [ir.serde.serialize_tensor(tensor).SerializeToString() for _, tensor in named]
    return with_weights(proto.SerializeToString(), weights)


def read_contract(path: Path) -> IOContract:
    """The inputs and outputs of the model at ``path``; initializers that are also listed as inputs do not count.

    Raises:
        InputError: as for ``read_proto``.
    """
    proto = read_proto(path)
    with attributed_to(path):
        return contract_of_proto(proto)


def read_metadata(path: Path) -> dict[str, str]:
    """What the model at ``path`` says of itself, by name.

    Raises:
        InputError: as for ``read_proto``.
    """
    return {entry.key: entry.value for entry in read_proto(path).metadata_props}


@contextmanager
def attributed_to(path: Path) -> Iterator[None]:
    """Attribute what libraries raise over malformed names, types and numbers to the file they come from.

    Raises:
        InputError: the file is damaged.
    """
    try:
        yield
    except (ValueError, TypeError, RuntimeError) as error:  # onnx-ir's own errors are RuntimeErrors
        raise InputError(f"{path}: not a valid ONNX model: {_innermost(error)}", _GIVE_MODEL) from error


def contract_of_proto(proto: onnx.ModelProto) -> IOContract:
    """The I/O contract of a parsed model."""
    constant = {tensor.name for tensor in proto.graph.initializer}
    constant |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    return IOContract(
        inputs=tuple(_spec_of_proto(value) for value in proto.graph.input if value.name not in constant),
        outputs=tuple(_spec_of_proto(value) for value in proto.graph.output),
    )


def contract_of(model: ir.Model) -> IOContract:
    """The I/O contract of a model in onnx-ir."""
    inputs = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    return IOContract(
        inputs=tuple(_spec_of(value) for value in inputs),
        outputs=tuple(_spec_of(value) for value in model.graph.outputs),
    )


def dtype_name(code: int) -> str:
    """numpy's name of an ONNX element type code (``TensorProto.FLOAT`` -> ``float32``).

    Raises:
        ValueError: ONNX has no such type.
    """
    import onnx

    special: dict[int, str] = {onnx.TensorProto.STRING: "str", onnx.TensorProto.UNDEFINED: "unknown"}
    if code not in onnx.TensorProto.DataType.values():
        raise ValueError(f"unknown element type {code}")
    return special[code] if code in special else onnx.helper.tensor_dtype_to_np_dtype(code).name


def named_dimension(dim: int | str | None) -> int | str | None:
    """A dimension as ONNX means it: a size, a symbol (equal symbols are equal sizes), or ``None`` for unknown.

    Some exporters write 0 or -1, or the symbol ``?`` everywhere, for "any size".
    """
    if isinstance(dim, int):
        return dim if dim > 0 else None
    return None if dim in _ANY_SIZE else dim


def external_refs(proto: onnx.ModelProto, model: Path) -> Iterator[ExternalRef]:
    """Every external tensor of the file ``model``, in initializers, attributes and subgraphs.

    Raises:
        InputError: a tensor does not state where its data is.
    """
    import onnx

    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            try:
                offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
                least = _bytes_of(tensor)
            except ValueError as error:
                raise InputError(f"{model}: external data of tensor {tensor.name!r}: {error}", _GIVE_MODEL) from error
            location = entries.get("location", "")
            yield ExternalRef(tensor.name, location, model.parent / location, offset, max(length, least))


def _bytes_of(tensor: onnx.TensorProto) -> int:
    """Bytes that the tensor's type and dimensions take: the stated length may be missing or wrong.

    Raises:
        ValueError: an unknown type, or strings.
    """
    if tensor.data_type not in VALUE_BITS:
        raise ValueError(f"element type {tensor.data_type} has no size")
    return -(-math.prod(map(int, tensor.dims)) * VALUE_BITS[tensor.data_type] // 8)


def _innermost(error: BaseException) -> str:
    """The first cause in a chain of errors, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def _load_attributes(model: ir.Model) -> None:
    """Read external tensors that are attributes of nodes (constants): only initializers can be saved externally."""
    import onnx_ir as ir

    for node in model.graph.all_nodes():
        for name, attribute in tuple(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                values = attribute.value.numpy().copy()
                node.attributes[name] = ir.AttrTensor(name, ir.Tensor(values, name=attribute.value.name))


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model."""
    yield from _tensors_of(proto.graph)
    for function in proto.functions:
        for node in function.node:
            yield from _tensors_in(node)


def _tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _tensors_in(node)


def _tensors_in(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        yield from ((attribute.t,) if attribute.HasField("t") else ())
        yield from attribute.tensors
        for sparse in (attribute.sparse_tensor,) if attribute.HasField("sparse_tensor") else attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g,) if attribute.HasField("g") else attribute.graphs:
            yield from _tensors_of(graph)


def _initializers(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.initializers.values()
    for graph in model.graph.subgraphs():
        yield from graph.initializers.values()


def _spec_of_proto(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape: tuple[int | str | None, ...] | None = None
    if tensor.HasField("shape"):
        shape = tuple(
            named_dimension(dim.dim_value if dim.HasField("dim_value") else dim.dim_param) for dim in tensor.shape.dim
        )
    return TensorSpec(name=value.name, dtype=dtype_name(tensor.elem_type), shape=shape)


def _spec_of(value: ir.Value) -> TensorSpec:
    shape = None
    if value.shape is not None:
        shape = tuple(named_dimension(dim if isinstance(dim, int) else dim.value) for dim in value.shape)
    code = value.dtype.value if value.dtype is not None else 0
    return TensorSpec(name=value.name or "", dtype=dtype_name(code), shape=shape)
