"""A recording fake of TensorRT, which builds nothing: it has the names of one snapshot, and remembers what it was told.

A name the version does not have raises AttributeError, and a call with too many arguments TypeError. Networks have the
inputs and outputs of the ONNX file that was parsed; a plan is a header with the version and nothing in it.
"""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, Any

import onnx
from backends.trt_api_snapshot import APIS, Api, parameters, returned

if TYPE_CHECKING:
    from collections.abc import Callable

#: ONNX's element types -> TensorRT's.
_TYPES = {1: "FLOAT", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "HALF", 16: "BF16"}


class RecordingTensorRT:
    """Stands in for the module.

    Attributes:
        calls: ``Class.method(arguments)`` and ``Class.attribute = value``, in their order.
    """

    def __init__(self, name: str = "tensorrt-11.4.0.106") -> None:
        self._api = APIS[name]
        self.__version__ = self._api.version
        self.calls: list[str] = []
        self._classes: dict[str, type] = {}

    def __getattr__(self, name: str) -> Any:
        if name in self._api.classes:
            if name not in self._classes:
                self._classes[name] = _kind(self, self._api, name)
            return self._classes[name]
        if name in self._api.functions:
            signatures = self._api.functions[name]
            kind = returned(signatures) or {"get_plugin_registry": "IPluginRegistry"}.get(name, "")
            return _method(
                self, "", name, signatures, lambda *_: getattr(self, kind)() if kind in self._api.classes else True
            )
        raise AttributeError(f"{self._api.name} has no {name}")


class Member(int):
    """A member of an enum."""

    name: str

    def __new__(cls, name: str, value: int) -> Member:
        member = super().__new__(cls, value)
        member.name = name
        return member

    def __repr__(self) -> str:
        return self.name


class Recorded:
    """An object of a class; what is set on it and called is recorded."""

    _module: RecordingTensorRT
    _api: Api
    _own: str

    def __init__(self, *arguments: object) -> None:
        object.__setattr__(self, "_held", {})

    def __getattr__(self, name: str) -> Any:
        members = self._api.members(self._own)
        if name not in members:
            raise AttributeError(f"{self._own} of {self._api.name} has no {name}")
        if name in self._held:
            return self._held[name]
        signatures = members[name]
        if signatures is None:
            return None
        return _method(self._module, self._own, name, signatures, lambda *given: self._answer(name, *given))

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and name in self._api.members(self._own):
            self._module.calls.append(f"{self._own}.{name} = {_shown(value)}")
            self._held[name] = value
        elif name == "__class__" or type(self).__module__ != __name__:
            object.__setattr__(self, name, value)
        else:
            raise AttributeError(f"{self._own} of {self._api.name} has no {name}")

    def _answer(self, name: str, *given: Any) -> Any:
        """What the scripted methods below do; otherwise an object of the class a method returns, or true."""
        scripted = getattr(type(self), f"_do_{self._own}_{name}", None)
        if scripted is not None:
            return scripted(self, *given)
        kind = self._api.returns(self._own, name)
        return getattr(self._module, kind)() if kind in self._api.classes else True

    def _do_OnnxParser_parse_from_file(self, path: str) -> bool:
        graph = onnx.load(path).graph
        network = self._held["network"]
        for side, values in (("input", graph.input), ("output", graph.output)):
            tensors = [self._tensor(value) for value in values]
            network._held[f"num_{side}s"] = len(tensors)
            network._held[f"get_{side}"] = tensors.__getitem__
        network._held["num_layers"] = 0
        return True

    def _tensor(self, value: onnx.ValueInfoProto) -> Any:
        tensor = self._module.ITensor()
        dims = value.type.tensor_type.shape.dim
        kind = _TYPES[value.type.tensor_type.elem_type]
        tensor._held.update(
            name=value.name,
            shape=tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims),
            dtype=getattr(self._module.DataType, kind),
            is_shape_tensor=False,
            get_dimension_name=lambda axis: dims[axis].dim_param,
        )
        return tensor

    def _do_IBuilderConfig_add_optimization_profile(self, profile: object) -> int:
        return 0

    def _do_Runtime_deserialize_cuda_engine(self, plan: bytes) -> None:
        """There is nothing in its plans."""

    def _do_ITimingCache_serialize(self) -> bytes:
        return b"timings"

    def _do_Builder_build_serialized_network(self, network: object, config: object) -> bytes:
        version = [*map(int, self._api.version.split(".")), 0][:4]
        return struct.pack("<4s20x4B", b"ftrt", *version) + bytes(64)

    def _do_Builder_build_serialized_network_to_stream(self, network: object, config: object, writer: Any) -> bool:
        return writer.write(self._do_Builder_build_serialized_network(network, config)) > 0


def _kind(module: RecordingTensorRT, api: Api, name: str) -> type:
    """A class: enums have their members, others can be made and derived from."""
    entry = api.classes[name]
    bases = tuple(getattr(module, base) for base in entry["bases"]) or (Recorded,)
    body: dict[str, Any] = {"_module": module, "_api": api, "_own": name}
    enum = all(value is None for value in entry["members"].values()) and any(key.isupper() for key in entry["members"])
    constants = [key for key in entry["members"] if key.isupper() or (enum and key not in {"name", "value"})]
    body |= {key: Member(key, number) for number, key in enumerate(constants)}
    if name == "ILogger":  # TensorRT's own numbers: what is worse is lower
        worse = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
        body |= {key: Member(key, number) for number, key in enumerate(worse)}
    if name == "OnnxParser":

        def start(self: Any, network: Any, logger: object) -> None:
            Recorded.__init__(self)
            self._held["network"] = network

        body["__init__"] = start
    return type(name, bases, body)


def _method(
    module: RecordingTensorRT, kind: str, name: str, signatures: list[str], answer: Callable[..., Any]
) -> Callable[..., Any]:
    def method(*given: object) -> Any:
        if len(given) > max(len(parameters(text)) for text in signatures):
            raise TypeError(f"{kind}.{name} takes {signatures}, not {len(given)} arguments")
        module.calls.append(f"{kind}.{name}({', '.join(map(_shown, given))})".lstrip("."))
        return answer(*given)

    return method


def _shown(value: object) -> str:
    return type(value).__name__ if isinstance(value, (Recorded, ctypes.Structure)) else repr(value)
