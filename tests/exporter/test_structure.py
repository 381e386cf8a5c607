"""Taking values apart into leaves and putting them together again."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple

import pytest

torch = pytest.importorskip("torch")

from trtpipe.exporter.structure import dotted, has_names, leaves_of, mapped, tensors_in  # noqa: E402

A, B, C = torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)


@dataclasses.dataclass(frozen=True)
class Frozen:
    left: object
    right: object = None


class Answer(OrderedDict):
    """As transformers' ModelOutput: a dict whose entries are attributes too, without those that are None."""

    def __init__(self, **entries):
        super().__init__((key, value) for key, value in entries.items() if value is not None)

    def __getattr__(self, name):
        return self[name]


class Layer:
    def __init__(self, keys, values):
        self.keys, self.values, self.seen = keys, values, 3


class Cache:
    """As transformers' DynamicCache: plain objects in a list, registered nowhere."""

    def __init__(self, *layers):
        self.layers, self.name, self.parent = list(layers), "cache", self


Pair = namedtuple("Pair", "x y")

CASES = {
    "tensor": (A, [()]),
    "dict": ({"heads": {"cls": A, "box": B}}, [("heads", "cls"), ("heads", "box")]),
    "sequences": ([A, (B, [C])], [(0,), (1, 0), (1, 1, 0)]),
    "named tuple": (Pair(A, [B]), [("x",), ("y", 0)]),
    "dataclass": (Frozen(A, Frozen(B)), [("left",), ("right", "left")]),
    "model output": (Answer(logits=A, loss=None, cache=[B]), [("logits",), ("cache", 0)]),
    "object": (Cache(Layer(A, B)), [("layers", 0, "keys"), ("layers", 0, "values")]),
    "return type": (torch.ones(2, 2).max(0), [(0,), (1,)]),
}


@pytest.mark.parametrize("name", CASES)
def test_tensors_have_paths(name):
    value, paths = CASES[name]
    found = [leaf.path for leaf in leaves_of(value) if isinstance(leaf.value, torch.Tensor)]
    if name == "return type":
        assert [tensor.shape for tensor in tensors_in(value)] == [(2,), (2,)]
    else:
        assert found == paths


@pytest.mark.parametrize("name", CASES)
def test_other_tensors_take_their_places_in_a_new_value(name):
    value, _ = CASES[name]
    before = tensors_in(value)
    changed = mapped(value, lambda leaf: leaf + 10 if isinstance(leaf, torch.Tensor) else leaf)
    assert type(changed) is type(value)
    assert all(new is not old for new, old in zip(tensors_in(changed), before, strict=True))
    assert [float(x.sum()) for x in tensors_in(changed)] == [float(x.sum()) + 10 * x.numel() for x in before]
    assert [x is y for x, y in zip(tensors_in(value), before, strict=True)] == [True] * len(before)


def test_registered_types_are_taken_apart_as_they_say():
    class Box:
        __slots__ = ("inside",)

        def __init__(self, inside):
            self.inside = inside

    torch.utils._pytree.register_pytree_node(Box, lambda box: ([box.inside], None), lambda parts, _: Box(*parts))
    found = mapped({"box": Box(A)}, lambda leaf: leaf + 1)
    assert dotted(leaves_of({"box": Box(A)})[0].path) == "box.0"
    assert found["box"].inside.tolist() == [1]


def test_numbers_words_and_objects_without_tensors_are_leaves():
    plain = object()
    assert [leaf.value for leaf in leaves_of([1, None, "x", plain, torch.float16])] == [
        1,
        None,
        "x",
        plain,
        torch.float16,
    ]
    assert not tensors_in({"config": Cache()})


def test_what_has_names():
    assert has_names({"x": A})
    assert has_names(Frozen(A))
    assert has_names(Pair(A, B))
    assert not any(map(has_names, ([A], (A, {"x": B}), A, {})))


def test_circles_end():
    cache = Cache(Layer(A, B))
    cache.layers[0].owner = cache
    assert len(tensors_in(cache)) == 2
    other = mapped(cache, lambda leaf: leaf)
    assert other.parent is other
    assert other.layers[0].owner is other
