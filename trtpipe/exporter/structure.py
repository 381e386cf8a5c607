"""Structured values: dicts, sequences, dataclasses, caches and other objects as trees whose leaves are tensors.

What PyTorch code passes around seldom is a plain tensor. Here a value is taken apart into its leaves, each with the
path that leads to it, and put together again with other leaves. Types need not be registered with anything.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from trtpipe.exporter.loading import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

#: From the outermost key to the innermost: keys of dicts, names of fields, positions (``int``).
Path: TypeAlias = "tuple[str | int, ...]"

_DEPTH = 16  # of objects in objects: a cache is 3 deep, and what refers to itself has no end
_PLAIN = (
    *(str, bytes, int, float, complex, type(None), type, ModuleType),
    *(torch.nn.Module, torch.dtype, torch.device),
)


@dataclass(frozen=True)
class Leaf:
    """A value without parts.

    Attributes:
        path: where it is.
        value: a tensor, a number, ``None``, or whatever else has no tensors inside.
    """

    path: Path
    value: object


def leaves_of(value: object) -> list[Leaf]:
    """All leaves of a value, in order.

    Example:
        >>> [leaf.path for leaf in leaves_of({"heads": {"cls": torch.ones(1)}, "sizes": [1, 2]})]
        [('heads', 'cls'), ('sizes', 0), ('sizes', 1)]
    """
    return list(_leaves(value, (), _DEPTH))


def tensors_of(value: object) -> list[Leaf]:
    """Those leaves of a value that are tensors."""
    return [leaf for leaf in leaves_of(value) if isinstance(leaf.value, torch.Tensor)]


def tensors_in(value: object) -> tuple[torch.Tensor, ...]:
    """The tensors themselves."""
    return tuple(leaf.value for leaf in leaves_of(value) if isinstance(leaf.value, torch.Tensor))


def mapped(value: Any, change: Callable[[object], object]) -> Any:
    """The same structure with every leaf replaced by ``change(leaf)``, in the order of ``leaves_of``; a new value."""
    return _mapped(value, change, _DEPTH, {})


def has_names(value: object) -> bool:
    """Whether the parts of a value have names: it is a dict, has fields or attributes."""
    parts = _parts(value, _DEPTH)
    return bool(parts) and all(isinstance(key, str) for key, _ in parts or ())


def dotted(path: Path) -> str:
    """A path as one name: ``heads.cls``."""
    return ".".join(map(str, path))


def _leaves(value: object, path: Path, depth: int) -> Iterator[Leaf]:
    parts = _parts(value, depth)
    if parts is None:
        yield Leaf(path, value)
        return
    for key, part in parts:
        yield from _leaves(part, (*path, key), depth - 1)


def _parts(value: object, depth: int) -> list[tuple[str | int, object]] | None:
    """The parts of a value with their keys; ``None`` for a leaf."""
    if depth == 0 or isinstance(value, (torch.Tensor, *_PLAIN)):
        return None
    if isinstance(value, Mapping):
        return [(key if isinstance(key, int) else str(key), part) for key, part in value.items()]
    if fields := getattr(value, "_fields", None):  # a named tuple
        return [(name, getattr(value, name)) for name in fields]
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if type(value) in torch.utils._pytree.SUPPORTED_NODES:
        return list(enumerate(torch.utils._pytree.SUPPORTED_NODES[type(value)].flatten_fn(value)[0]))
    return list(_attributes(value, depth).items()) or None


def _attributes(value: object, depth: int) -> dict[str, object]:
    """Those attributes of an object that have tensors inside."""
    known = {id(value): False}
    return {name: part for name, part in _held(value).items() if _holds_tensors(part, known, depth - 1)}


def _held(value: object) -> dict[str, object]:
    attributes: dict[str, object] = getattr(value, "__dict__", {})
    return {name: part for name, part in attributes.items() if not callable(part)}


def _holds_tensors(value: object, known: dict[int, bool], depth: int) -> bool:
    """Whether there is a tensor somewhere inside; objects may refer to each other in circles.

    Args:
        known: what was found out of objects already, by their ids.
    """
    if isinstance(value, torch.Tensor):
        return True
    if depth == 0 or isinstance(value, _PLAIN):
        return False
    if id(value) not in known:
        known[id(value)] = False
        if isinstance(value, Mapping):
            parts: Iterable[object] = value.values()
        else:
            parts = value if isinstance(value, (list, tuple)) else _held(value).values()
        known[id(value)] = any(_holds_tensors(part, known, depth - 1) for part in list(parts))
    return known[id(value)]


def _mapped(value: Any, change: Callable[[object], object], depth: int, outer: Mapping[int, object]) -> Any:
    """As ``mapped``.

    Args:
        outer: the objects around it, by the ids of those that they replace: what refers back to one gets the new one.
    """
    parts = _parts(value, depth)
    if parts is None:
        return change(value)
    registered = torch.utils._pytree.SUPPORTED_NODES.get(type(value))
    plain = isinstance(value, (Mapping, list, tuple))
    if not plain and (dataclasses.is_dataclass(value) or registered is None):
        return _changed_object(value, parts, change, depth, outer)
    new = [_mapped(part, change, depth - 1, outer) for _, part in parts]
    if isinstance(value, Mapping):
        return _changed_mapping(value, new)
    if hasattr(value, "_make"):
        return value._make(new)
    if plain or registered is None:
        return type(value)(new)
    return registered.unflatten_fn(new, registered.flatten_fn(value)[1])


def _changed_object(
    value: object,
    parts: Sequence[tuple[str | int, object]],
    change: Callable[[object], object],
    depth: int,
    outer: Mapping[int, object],
) -> object:
    result = copy.copy(value)
    outer = {**outer, id(value): result}
    changed = {str(name): _mapped(part, change, depth - 1, outer) for name, part in parts}
    back = {name: outer[id(part)] for name, part in getattr(value, "__dict__", {}).items() if id(part) in outer}
    for name, part in {**changed, **back}.items():
        object.__setattr__(result, name, part)  # dataclasses may be frozen
    return result


def _changed_mapping(value: Mapping[Any, object], new: Sequence[object]) -> object:
    changed = dict(zip(value, new, strict=True))
    result: Any = copy.copy(value)
    if not hasattr(result, "__setitem__"):
        return changed
    for key, part in changed.items():
        result[key] = part
    return result
