"""State inside a module: what ``forward`` writes, and whether its outputs depend on what was there before.

A graph computes the same from the same inputs; a module may remember. A cache of keys and values, a hidden state or a
counter becomes a constant of the exported graph: right on the first call, wrong from the second on. What is merely
remembered to save time (positions, anchors), or kept to be looked at, is left alone.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.utils._python_dispatch import TorchDispatchMode

from trtpipe.errors import StageError
from trtpipe.exporter.calling import Call, Tensors
from trtpipe.exporter.decompositions import functional
from trtpipe.exporter.loading import torch
from trtpipe.exporter.places import Place, place_of_frame
from trtpipe.exporter.refusals import Failure, export_error
from trtpipe.exporter.structure import leaves_of, mapped, tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Where nn.Module keeps what is no attribute of the user's.
_INTERNAL = frozenset(vars(torch.nn.Module()))
#: Relative to the largest magnitude: what other orders of sums may do to the same call.
_SAME = 1e-4
_NAMED = 6
#: What code may raise that meets values it was not made for.
OF_VALUES = (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class _Slot:
    """An attribute or buffer of a submodule.

    Attributes:
        owner: the dict that it is an entry of.
        value: what it holds; ``copied``: the same with containers of its own.
        kept: of every tensor in it, by its position among the leaves: a copy.
    """

    owner: dict[str, Any]
    key: str
    value: Any
    copied: Any
    kept: Mapping[int, torch.Tensor]

    def restore(self) -> None:
        """Put back what it held, with the content of that time."""
        before = [leaf.value for leaf in leaves_of(self.copied)]
        for index, kept in self.kept.items():
            tensor = before[index]
            if isinstance(tensor, torch.Tensor) and not tensor.is_inference() and not torch.equal(tensor, kept):
                tensor.resize_(kept.shape).copy_(kept)
        now = [leaf.value for leaf in leaves_of(self.value)]
        whole = len(now) == len(before) and all(a is b for a, b in zip(now, before, strict=True))
        self.owner[self.key] = self.value if whole else self.copied


@contextlib.contextmanager
def restored(module: torch.nn.Module) -> Iterator[None]:
    """Whatever happens to buffers, attributes and hooks of ``module`` inside is undone.

    A module that registers hooks when it is first called remembers in an attribute that it did, so that one is not
    undone without the other.
    """
    slots = {name: _slot(owner, key) for name, owner, key in owners_in(module)}
    owners = [(owner, set(owner)) for owner in _spaces(module)]
    hooks = [(registry, dict(registry)) for registry in _hooks(module)]
    try:
        yield
    finally:
        for registry, registered in hooks:
            registry.clear()
            registry.update(registered)
        for owner, known in owners:
            for key in set(owner) - known:
                del owner[key]
        for slot in slots.values():
            slot.restore()


def run_stateless(module: torch.nn.Module, call: Callable[[], Call]) -> tuple[object, tuple[str, ...]]:
    """What a module returns for one call, seen to be the same again; and what it writes each time.

    Args:
        call: makes the arguments anew.

    Returns:
        The result, and names of buffers and attributes: ``refuse_state`` asks the graph whether they matter.

    Raises:
        StageError: the outputs depend on earlier calls, or on random numbers; the message names buffers or the line.
    """
    first = copied(call().run(module))
    before = _written_marks(module)
    second = call().run(module)
    written = [name for name, mark in _written_marks(module).items() if before.get(name) != mark]
    if same_result(first, second):
        held = [name for name in written if name in _slots_with_tensors(module)]
        if not held or same_result(first, _run_disturbed(module, call(), held)):
            return first, tuple(written)
        raise _state_error(module, written)
    if written:
        raise _state_error(module, written)
    raise random_error(type(module).__name__, _random_places(module, call()))


def refuse_state(module: torch.nn.Module, program: torch.export.ExportedProgram, written: Sequence[str]) -> None:
    """Raise StageError if outputs of the program depend on what lay in a buffer that ``forward`` writes.

    One example does not show it: a cache may be masked where it was not written yet.

    Args:
        program: of ``Tensors``, whose inner module is ``module``.
        written: names of buffers and attributes.
    """
    if not written:
        return
    try:
        found = functional(program)
    except RuntimeError as error:  # torch has no graph for a tensor that is written and no buffer
        raise _state_error(module, written) from error
    read = _read_by_outputs(found)
    held = [name for name in written if f"{Tensors.INNER}.{name}" in read]
    if held:
        raise _state_error(module, held)


def refuse_saved_state(program: torch.export.ExportedProgram) -> None:
    """Raise StageError if outputs of a program that came exported depend on what lay in a buffer that it writes."""
    if not program.graph_signature.buffers_to_mutate and not any(map(_writes, program.graph.nodes)):
        return
    try:
        found = functional(program)
    except Exception as error:
        raise export_error("the program", Failure(None, error)) from error
    read = _read_by_outputs(found)
    held = [name for name in found.graph_signature.buffers_to_mutate.values() if name in read]
    if held:
        raise _kept_error("the program", {**program.constants, **program.state_dict}, held)


def _writes(node: torch.fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _read_by_outputs(program: torch.export.ExportedProgram) -> set[str]:
    """Names of the buffers and constants that user outputs of a functional program depend on."""
    signature = program.graph_signature
    count = len(signature.user_outputs)
    results = program.graph.output_node().args[0]
    assert isinstance(results, tuple)
    ahead = [node for node in results[len(results) - count :] if isinstance(node, torch.fx.Node)]
    seen: set[torch.fx.Node] = set()
    while ahead:
        node = ahead.pop()
        if node not in seen:
            seen.add(node)
            ahead += [other for other in node.all_input_nodes if other is not _overwritten(node)]
    names = {**signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    return {names[node.name] for node in seen if node.name in names}


def _overwritten(node: torch.fx.Node) -> object:
    """The input of which an operator takes the shape alone."""
    aten = torch.ops.aten
    alike = (aten.copy, aten.fill, aten.zero, aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like)
    packet = getattr(node.target, "overloadpacket", None)
    if packet in alike:
        return node.args[0]
    if packet is aten.slice_scatter and isinstance(node.args[0], torch.fx.Node):
        whole, part = (argument.meta.get("val") for argument in node.args[:2] if isinstance(argument, torch.fx.Node))
        if whole is not None and part is not None and whole.shape == part.shape:
            return node.args[0]
    return None


def random_error(what: str, places: Mapping[str, Place | None]) -> StageError:
    """The error for random numbers in ``forward``: operator -> where."""
    if not places:
        return StageError(
            f"{what}.forward returns something else each time it is called with the same inputs",
            "an engine computes the same from the same inputs: remove what depends on time, on Python's or numpy's "
            "random numbers, or on earlier calls",
        )
    found = "; ".join(f"{name} ({place})" if place else name for name, place in places.items())
    return StageError(
        f"{what}.forward draws random numbers, and its outputs depend on them: {found}",
        "make the noise an input of forward, drawn by the caller; or use the mean in eval mode "
        "(if self.training: ...), and dropout only through nn.Dropout",
    )


def _state_error(module: torch.nn.Module, written: Sequence[str]) -> StageError:
    values = {name: owner[key] for name, owner, key in owners_in(module)}
    return _kept_error(f"{type(module).__name__}.forward", values, written)


def _kept_error(what: str, values: Mapping[str, object], written: Sequence[str]) -> StageError:
    shapes = {name: _value(values[name]) for name in written if name in values}
    found = [f"{name} ({shapes[name]})" if shapes.get(name) else name for name in written]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    names = ", ".join(name.rpartition(".")[2] for name in written[:_NAMED])
    return StageError(
        f"{what} keeps state between calls: it writes {', '.join(found[:_NAMED])}{more}, and its outputs "
        "depend on what was there; an engine forgets everything between calls",
        f"make the state inputs and outputs: forward(..., {names}) takes the old values and returns the new ones "
        "beside its result; or set the state anew at the start of forward",
    )


def _value(value: object) -> str:
    tensors = tensors_in(value)
    return ", ".join(f"{str(t.dtype).removeprefix('torch.')}[{'x'.join(map(str, t.shape))}]" for t in tensors[:2])


def _spaces(module: torch.nn.Module) -> Iterator[dict[str, Any]]:
    for part in module.modules():
        yield part._buffers
        yield part.__dict__


def _hooks(module: torch.nn.Module) -> Iterator[dict[int, Any]]:
    """The registries of hooks of every submodule, number -> hook."""
    for part in module.modules():
        yield from (part.__dict__[key] for key in _INTERNAL if "_hooks" in key and key in part.__dict__)


def owners_in(module: torch.nn.Module) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Name, dict and key of every buffer and of every attribute that may hold state."""
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        for key in part._buffers:
            yield f"{prefix}{key}", part._buffers, key
        for key, value in part.__dict__.items():
            if key not in _INTERNAL and not isinstance(value, torch.nn.Module) and not callable(value):
                yield f"{prefix}{key}", part.__dict__, key


def _slot(owner: dict[str, Any], key: str) -> _Slot:
    value = owner[key]
    copied_value = mapped(value, lambda leaf: leaf)
    kept = {
        index: leaf.value.clone()
        for index, leaf in enumerate(leaves_of(value))
        if isinstance(leaf.value, torch.Tensor) and not isinstance(leaf.value, torch.nn.Parameter)
    }
    return _Slot(owner, key, value, copied_value, kept)


def _slots_with_tensors(module: torch.nn.Module) -> set[str]:
    return {name for name, owner, key in owners_in(module) if tensors_in(owner[key])}


def _written_marks(module: torch.nn.Module) -> dict[str, object]:
    """Of every slot what changes when it is written: identities and version counters of tensors, values of numbers."""
    marks: dict[str, object] = {}
    for name, owner, key in owners_in(module):
        marks[name] = [(leaf.path, *_mark(leaf.value)) for leaf in leaves_of(owner[key])]
    for name, parameter in module.named_parameters():
        marks[name] = _mark(parameter)
    return marks


def _mark(value: object) -> tuple[object, ...]:
    if isinstance(value, torch.Tensor):
        # The tensor itself is held by the mark, so that no other one gets its id.
        return (_Held(value), 0 if value.is_inference() else value._version)
    return (value,) if isinstance(value, (int, float, complex, str, bytes, type(None))) else (_Held(value),)


class _Held:
    """An object that is equal to itself alone."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def _run_disturbed(module: torch.nn.Module, call: Call, names: list[str]) -> object:
    """What the module returns where other values lie in the slots that it writes; ``None`` where it fails."""
    before = {name: (owner, key, owner[key]) for name, owner, key in owners_in(module) if name in names}
    for owner, key, value in before.values():
        owner[key] = mapped(value, _disturbed)
    try:
        return call.run(module)
    except OF_VALUES:
        return None
    finally:
        for owner, key, value in before.values():
            owner[key] = value


def _disturbed(leaf: object) -> object:
    if not isinstance(leaf, torch.Tensor) or isinstance(leaf, torch.nn.Parameter):
        return leaf
    if leaf.is_floating_point() or leaf.is_complex():
        return leaf + 1 + leaf.abs().amax() if leaf.numel() else leaf
    return ~leaf if leaf.dtype == torch.bool else leaf + 1


def same_result(a: object, b: object) -> bool:
    """Whether two results of a module have the same tensors, but for the order of sums."""
    mine, theirs = tensors_in(a), tensors_in(b)
    return len(mine) == len(theirs) and all(_close(x, y) for x, y in zip(mine, theirs, strict=True))


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    scale = float(a.abs().nan_to_num(0, 0, 0).max()) if a.numel() else 0.0
    return torch.allclose(a.float(), b.float(), rtol=0, atol=_SAME * scale, equal_nan=True)


def copied(result: Any) -> Any:
    """A result that later calls cannot change."""
    return mapped(result, lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else copy.copy(leaf))


class _RandomOperators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operator that draws from torch's random numbers, with the user's line."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, Place | None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.found.setdefault(str(func).rpartition(".")[0], place_of_frame(sys._getframe(1)))
        return func(*args, **(kwargs or {}))


def _random_places(module: torch.nn.Module, call: Call) -> dict[str, Place | None]:
    operators = _RandomOperators()
    with operators:
        call.run(module)
    return operators.found
