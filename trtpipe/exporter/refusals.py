"""Why torch cannot export a module, in words: the kind of thing it stopped at, the user's line, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from trtpipe.errors import StageError
from trtpipe.exporter.loading import torch
from trtpipe.exporter.places import Place, frames_of, place_of_error, place_of_trace

_NAMED = 3
_NO_TRANSLATION = re.compile(r"No ONNX function found for <OpOverload\(op='(?P<op>[^']+)'")
_AO_KERNELS = re.compile(r"torch\.ao\..*\bquantized\b")
_FLOAT_MODEL = (
    "build the float module with the trained weights instead (load_state_dict(state, strict=False) leaves the "
    "quantizers out), with --int8 and calibration data: trtpipe quantizes it itself; or give an .onnx file with Q/DQ"
)


@dataclass(frozen=True)
class Failure:
    """A failed export.

    Attributes:
        module: the user's; ``None`` for a program that came exported.
        error: torch's.
    """

    module: torch.nn.Module | None
    error: Exception

    @cached_property
    def node(self) -> torch.fx.Node | None:
        """The operator that the ONNX exporter was at."""
        found = None
        for frame, _ in frames_of(self.error):
            node = frame.f_locals.get("node")
            found = node if isinstance(node, torch.fx.Node) and node.op == "call_function" else found
        return found

    @cached_property
    def place(self) -> Place | None:
        """The user's line: that of the operator, or that where tracing stopped."""
        if self.node is not None and (trace := self.node.meta.get("stack_trace")):
            return place_of_trace(trace)
        return place_of_error(self.error)

    @cached_property
    def text(self) -> str:
        """What torch says, from the first error to its last cause."""
        errors: list[BaseException] = [self.error]
        while (cause := errors[-1].__cause__) is not None and cause not in errors:
            errors.append(cause)
        return "\n".join(str(each) for each in errors)

    @property
    def first_line(self) -> str:
        """The beginning of what torch says of the cause."""
        lines = str(self.error.__cause__ or self.error).strip().splitlines()
        return lines[0] if lines else type(self.error).__name__

    @property
    def operator(self) -> str:
        """The operator without translation, or the one that the exporter was at; else empty."""
        found = _NO_TRANSLATION.search(self.text)
        return found["op"] if found else str(self.node.target).removesuffix(".default") if self.node is not None else ""


def parts_of(module: torch.nn.Module | None, wanted: Callable[[torch.nn.Module], bool]) -> str:
    """Names of the submodules that are ``wanted``, of many the first few; empty for none."""
    named = [] if module is None else module.named_modules()
    names = [name or "the module itself" for name, part in named if wanted(part)]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}" if names else ""


Reason: TypeAlias = "tuple[str, str]"


def export_error(what: str, failure: Failure, remedy: str = "") -> StageError:
    """The error for a failed export.

    Args:
        what: the name of what was exported.
        remedy: in place of the one for this kind of failure.
    """
    reason, usual = next((found for kind in _KINDS if (found := kind(failure)) is not None), (failure.first_line, ""))
    where = f" at {failure.place}" if failure.place is not None else ""
    if not usual:
        usual = "rewrite that line" if where else "export it by hand to .onnx, or report it to PyTorch"
    return StageError(f"torch cannot export {what}: {' '.join(reason.split())}{where}", remedy or usual)


def refuse_scripted(module: torch.nn.Module) -> None:
    """Raise StageError if the module, or a part of it, is TorchScript."""
    scripted = parts_of(module, lambda part: isinstance(part, torch.jit.ScriptModule))
    if not scripted:
        return
    raise StageError(
        f"torch cannot export {type(module).__name__}: TorchScript holds no Python code (ScriptModule: {scripted})",
        "give the nn.Module itself, without torch.jit.script or torch.jit.trace; load weights of a TorchScript file "
        "into it by module.load_state_dict(torch.jit.load(file).state_dict())",
    )


def _fake_quantized(failure: Failure) -> Reason | None:
    fake = parts_of(failure.module, lambda part: any("FakeQuant" in base.__name__ for base in type(part).__mro__))
    if not fake:
        return None
    return f"it is in quantization-aware training (FakeQuantize: {fake})", _FLOAT_MODEL


def _observed(failure: Failure) -> Reason | None:
    observers = parts_of(
        failure.module, lambda part: any(base.__name__ == "ObserverBase" for base in type(part).__mro__)
    )
    return (f"it is prepared for quantization by PyTorch (observers: {observers})", _FLOAT_MODEL) if observers else None


def _quantized(failure: Failure) -> Reason | None:
    kernels = parts_of(
        failure.module, lambda part: ".quantized" in type(part).__module__ and "torch.ao" in type(part).__module__
    )
    if not kernels and "quantized::" not in failure.text and "quantized." not in failure.operator:
        return None
    return f"it computes with PyTorch's own quantized operators ({kernels or failure.operator})", _FLOAT_MODEL


def _packed(failure: Failure) -> Reason | None:
    for frame, _ in frames_of(failure.error):
        if any(isinstance(value, torch.nn.utils.rnn.PackedSequence) for value in list(frame.f_locals.values())):
            break
    else:
        return None
    return (
        "a packed sequence (pack_padded_sequence), whose size depends on the lengths",
        "run the LSTM or GRU on the padded tensor, and mask what lies behind each length: "
        "y * (torch.arange(T) < lengths[:, None])[..., None]",
    )


def _data_dependent(failure: Failure) -> Reason | None:
    known = type(failure.error).__name__ == "GuardOnDataDependentSymNode"
    if not known and "data-dependent" not in failure.text:
        return None
    return (
        "data-dependent control flow",
        "Python control flow (if, while, range, int(), slices) cannot follow the values of tensors: compute both "
        "branches and choose by torch.where, loop a fixed number of times with a mask, or move it behind the engine",
    )


def _outside_torch(failure: Failure) -> Reason | None:
    if ".numpy() is not supported" not in failure.text and "NumPy" not in failure.text:
        return None
    return "values leave PyTorch (.numpy())", "compute that line by operators of torch, or outside of the model"


def _state(failure: Failure) -> Reason | None:
    found = re.search(r"Constant (?P<name>\S+) is mutated in the forward", failure.text)
    if found is None:
        return None
    name = found["name"].removeprefix("module.")
    return (
        f"forward writes {name}, which would be state between calls; an engine keeps none",
        f"take {name} as an input and return its new value, or write to a copy: {name}.clone()",
    )


def _complex(failure: Failure) -> Reason | None:
    if failure.node is None or not any(_is_complex(node) for node in (failure.node, *failure.node.all_input_nodes)):
        return None
    return (
        f"complex numbers in {failure.operator}, which has no ONNX translation for them",
        "compute with real and imaginary parts as two real tensors (torch.view_as_real); a Fourier transform of a "
        "fixed length is a product with constant cosines and sines",
    )


def _is_complex(node: torch.fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_complex()


def _untranslated(failure: Failure) -> Reason | None:
    found = _NO_TRANSLATION.search(failure.text)
    if found is None and failure.node is None:
        return None
    remedy = "write that line in other operators, or move it before or behind the engine"
    if found is not None:
        return f"{failure.operator} has no ONNX translation", remedy
    return f"the ONNX translation of {failure.operator} fails: {_last_line(failure)}", remedy


def _last_line(failure: Failure) -> str:
    lines = failure.text.strip().splitlines() or [type(failure.error).__name__]
    return lines[-1]


#: The kinds, in the order in which they are asked: what is in the module before what torch says.
_KINDS: tuple[Callable[[Failure], Reason | None], ...] = (
    _fake_quantized,
    _observed,
    _quantized,
    _packed,
    _data_dependent,
    _outside_torch,
    _state,
    _complex,
    _untranslated,
)
