"""How a module is called: its arguments as named tensors, and a module of tensors alone that torch.export can take.

``forward`` may take and return whatever Python has. An engine takes and returns tensors with names: those are the
tensors inside, named by the path that leads to them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import count, takewhile
from operator import is_
from typing import TYPE_CHECKING, Any

from trtpipe.data.first_feed import first_feed
from trtpipe.data.pixels import as_model_feed
from trtpipe.errors import InputError
from trtpipe.exporter.arrays import tensor_of
from trtpipe.exporter.loading import Example, parameters_of, torch
from trtpipe.exporter.structure import Leaf, dotted, has_names, leaves_of, mapped, tensors_in, tensors_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from trtpipe.artifact import Feed
    from trtpipe.exporter.request import TorchRequest

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Call:
    """One call of ``forward`` with example arguments.

    Attributes:
        args, kwargs: as the user gives them.
        labels: names of the positional arguments.
        names: of all tensors in them, in order.
        tensors: the same tensors.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    labels: tuple[str, ...]
    names: tuple[str, ...] = field(init=False)
    tensors: tuple[torch.Tensor, ...] = field(init=False)

    def __post_init__(self) -> None:
        found = tensors_of(self._tree())
        tops = dict.fromkeys(leaf.path[0] for leaf in found)
        alone = len(tops) == 1 and has_names(self._tree()[str(next(iter(tops)))])  # a batch: its keys say enough
        names = tuple(dotted(leaf.path[1:] if alone else leaf.path) for leaf in found)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "tensors", tensors_in(self._tree()))

    def _tree(self) -> dict[str, Any]:
        return {**dict(zip(self.labels, self.args, strict=True)), **self.kwargs}

    def with_tensors(self, tensors: Sequence[torch.Tensor]) -> Call:
        """The same call with other tensors, in the order of ``names``; every object in it is new."""
        left = iter(tensors)
        tree = mapped(self._tree(), lambda leaf: next(left) if isinstance(leaf, torch.Tensor) else leaf)
        args = tuple(tree[label] for label in self.labels)
        return Call(args, {name: tree[name] for name in self.kwargs}, self.labels)

    def with_copies(self) -> Call:
        """The same call with copies of the tensors: ``forward`` may write its arguments."""
        return self.with_tensors([tensor.clone() for tensor in self.tensors])

    def run(self, module: torch.nn.Module) -> object:
        """What the module returns."""
        return module(*self.args, **self.kwargs)

    def constants(self) -> tuple[str, ...]:
        """Numbers among the arguments, which become constants: ``scale = 1.0``."""
        numbers = [leaf for leaf in leaves_of(self._tree()) if isinstance(leaf.value, (int, float, complex))]
        return tuple(f"{dotted(leaf.path)} = {leaf.value}" for leaf in numbers)

    def __str__(self) -> str:
        return ", ".join(f"{n} {list(t.shape)}" for n, t in zip(self.names, self.tensors, strict=True)) or "no tensors"


class Tensors(torch.nn.Module):
    """A module that takes and returns nothing but tensors.

    Args:
        module: the user's.
        call: with which arguments; its tensors are replaced by those given.
    """

    #: The path of the user's module in this one.
    INNER = "module"

    def __init__(self, module: torch.nn.Module, call: Call) -> None:
        super().__init__()
        self.module = module
        self._call = call
        self.train(mode=module.training)

    def forward(self, *tensors: torch.Tensor) -> object:
        """What the module returns, if torch can take it apart into tensors; else a tuple of the tensors in it."""
        result = self._call.with_tensors(tensors).run(self.module)
        known, found = torch.utils._pytree.tree_leaves(result), tensors_in(result)
        return result if len(known) == len(found) and all(map(is_, known, found)) else found


def call_of(module: torch.nn.Module, example: Example | None, request: TorchRequest) -> Call:
    """The call with the user's example inputs, repeated along dynamic axes; or with the first sample of the data, or
    with zeros of the opt shapes.

    Every tensor has memory of its own, although the user may give one twice, a view of another, or a weight:
    torch.export takes tensors that share memory for one, and the others would be inputs that nothing reads.

    Raises:
        InputError: examples are missing, too many, of the wrong kind, or do not fit the shapes.
    """
    label = type(module).__name__
    if example is not None and not example.empty:
        call = bound(module, example)
    else:
        feed = None if request.data is None else first_feed(request.data)
        feed = None if feed is None else as_model_feed(feed, request.preprocessing)
        call = _call_of_shapes(module, request) if feed is None else _call_of_feed(module, feed, request)
    for leaf in leaves_of({**dict(zip(call.labels, call.args, strict=True)), **call.kwargs}):
        if (
            hasattr(leaf.value, "__array__")
            and not isinstance(leaf.value, (int, float))
            and not isinstance(leaf.value, torch.Tensor)
        ):
            kind = type(leaf.value).__name__
            raise InputError(f"example input {dotted(leaf.path)!r} is a {kind}, not a tensor", "give tensors")
    if not call.tensors:
        raise InputError(f"{label}: there is no tensor among the example inputs", "give tensors")
    public = public_names(call.names, request)
    stretched = [
        _stretch(name, tensor, request.shapes.get(name)) for name, tensor in zip(public, call.tensors, strict=True)
    ]
    return call.with_tensors(stretched).with_copies()


def bound(module: torch.nn.Module, example: Example) -> Call:
    """Example inputs under the names of forward's parameters.

    Raises:
        InputError: forward does not take them.
    """
    parameters = parameters_of(module.forward)
    names = [name for name, parameter in parameters if parameter.kind in _BY_POSITION]
    more = next((name for name, parameter in parameters if parameter.kind == parameter.VAR_POSITIONAL), None)
    if len(example.args) > len(names) and more is None:
        raise InputError(
            f"{type(module).__name__}.forward takes {len(names)} inputs, {len(example.args)} examples were given",
            "return one example per argument of forward",
        )
    any_keyword = any(parameter.kind == parameter.VAR_KEYWORD for _, parameter in parameters)
    known = [name for name, parameter in parameters if parameter.kind != parameter.POSITIONAL_ONLY]
    for name in example.kwargs:
        if name not in known and not any_keyword:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"{type(module).__name__}.forward has no argument {name!r}, for which an example is given",
                f"{hint}arguments: {', '.join(known)}",
            )
    extra = [f"{more}.{index}" for index in range(len(example.args) - len(names))]
    return Call(example.args, dict(example.kwargs), tuple([*names, *extra][: len(example.args)]))


def call_of_tensors(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> Call:
    """The call that tensors with names are meant for, where there is no example: as the names say, or by position.

    ``state.h`` is the entry ``h`` of the argument ``state``.
    """
    parameters = [name for name, _ in parameters_of(module.forward)]
    tops = {name.partition(".")[0] for name in tensors}
    if not tops <= set(parameters):
        required = [n for n, p in parameters_of(module.forward) if p.default is p.empty]
        if len(required) == 1 and len(tensors) > 1:
            return bound(module, Example(({**_nested(tensors)},), {}))
        return bound(module, Example(tuple(tensors.values()), {}))
    tree = _nested(tensors)
    leading = list(takewhile(lambda name: name in tree, parameters))
    by_name = {name: tree[name] for name in tree if name not in leading}
    return bound(module, Example(tuple(tree[name] for name in leading), by_name))


def _nested(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Dicts for names with dots, and lists where the keys are positions."""
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *outer, last = name.split(".")
        place = tree
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = tensor
    return {key: _listed(value) for key, value in tree.items()}


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    parts = {key: _listed(part) for key, part in value.items()}
    return list(parts.values()) if list(parts) == [str(index) for index in range(len(parts))] else parts


def _call_of_feed(module: torch.nn.Module, feed: Feed, request: TorchRequest) -> Call:
    """The first sample of the data; names of the user's for inputs stand for forward's own, in their order."""
    own = [name for name, parameter in parameters_of(module.forward) if parameter.kind in _BY_POSITION]
    renamed = dict(zip(request.input_names, own, strict=False))
    return call_of_tensors(module, {renamed.get(name, name): tensor_of(value) for name, value in feed.items()})


def _call_of_shapes(module: torch.nn.Module, request: TorchRequest) -> Call:
    """Zeros of the shapes that the request names."""
    parameters = [(name, parameter) for name, parameter in parameters_of(module.forward)
                  if parameter.kind in _BY_POSITION]  # fmt: skip
    names = [name for name, _ in parameters]
    public = dict(zip(names, request.input_names, strict=False))
    known = list(takewhile(lambda name: public.get(name, name) in request.shapes, names))
    needed = [name for name, parameter in parameters if parameter.default is parameter.empty] or names[:1]
    missing = [public.get(n, n) for n in needed if public.get(n, n) not in request.shapes]
    if missing or not known:
        raise InputError(
            f"{type(module).__name__}: no example inputs, and no shapes for {', '.join(missing) or 'its inputs'}",
            "return (module, example_inputs), give data that names the inputs (--calib-data), or, to build or export, "
            f"add --shapes {(missing or ['x'])[0]}:1x3x224x224 with its own dimensions",
        )
    return bound(module, Example(tuple(torch.zeros(request.shapes[public.get(name, name)][1]) for name in known), {}))


def public_names(names: Sequence[str], request: TorchRequest) -> tuple[str, ...]:
    """Input names as the user sees them: those asked for, else their own."""
    return (*request.input_names, *names[len(request.input_names) :])[: len(names)]


def dynamic_axes(call: Call, request: TorchRequest) -> tuple[tuple[dict[int, Any], ...]] | None:
    """The dynamic axes of every tensor, with their bounds; ``None`` if there are none."""
    found = []
    for name in public_names(call.names, request):
        low, _, high = request.shapes.get(name, ((), (), ()))
        auto = torch.export.Dim.AUTO
        found.append({i: auto(min=a, max=b) for i, (a, b) in enumerate(zip(low, high, strict=True)) if a != b})
    return (tuple(found),) if any(found) else None


def output_names(result: object, inputs: Collection[str] = ()) -> tuple[str, ...]:
    """Names of the tensors in what ``forward`` returns.

    Keys of dicts and fields, joined by dots (``heads.cls``); ``output``, ``output_1`` below a tuple or list. What has
    the name of an input, as a state that is updated does, gets ``_out`` behind it; what still has the name of an input
    or of an output before it (``{"a.b": x, "a": {"b": y}}``) gets a number.
    """
    paths = _output_paths(result)
    if paths is None:
        return tuple("output" if index == 0 else f"output_{index}" for index in range(len(tensors_of(result))))
    wanted = [f"{path}_out" if path in inputs else path for path in paths]
    names: list[str] = []
    for name in wanted:
        known = {*inputs, *names}
        numbered = (f"{name}_{number}" for number in count(1))
        names.append(name if name not in known else next(new for new in numbered if new not in {*known, *wanted}))
    return tuple(names)


def numbered_outputs(result: object, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Path and name of the outputs that ``output_names`` gave a number, because the name was taken."""
    paths = _output_paths(result) or names
    pairs = zip(paths, names, strict=True)
    return tuple((path, name) for path, name in pairs if name not in (path, f"{path}_out"))


def _output_paths(result: object) -> list[str] | None:
    """The paths of the tensors in a result whose parts have names; ``None`` for a tuple, a list or a tensor."""
    if not isinstance(result, Mapping) and not has_names(result):
        return None
    return [dotted(leaf.path) for leaf in tensors_of(result)]


def left_out(result: object) -> tuple[Leaf, ...]:
    """What ``forward`` returns besides tensors and ``None``: no engine can return it."""
    return tuple(
        leaf for leaf in leaves_of(result) if leaf.value is not None and not isinstance(leaf.value, torch.Tensor)
    )


def _stretch(name: str, example: torch.Tensor, shape: Sequence[Sequence[int]] | None) -> torch.Tensor:
    """Make every dynamic axis at least 2 long: torch.export treats 0 and 1 as constants."""
    if shape is None:
        return example
    low, opt, high = shape
    if len(low) != example.dim():
        raise InputError(
            f"shapes for {name!r} have rank {len(low)}, its example input has rank {example.dim()}",
            "give shapes of the example's rank",
        )
    for axis, (least, most) in enumerate(zip(low, high, strict=True)):
        wanted = most if least == most else min(most, max(2, least, min(opt[axis], example.shape[axis])))
        if example.shape[axis] != wanted:
            index = torch.arange(wanted) % example.shape[axis]
            example = example.index_select(axis, index)
    return example
