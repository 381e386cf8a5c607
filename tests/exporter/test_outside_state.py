"""What ``forward`` reads outside of the module: state is refused by line, tables are constants."""

from __future__ import annotations

import functools

import pytest

torch = pytest.importorskip("torch")

from torch_exports import assert_computes, export  # noqa: E402

from trtpipe.errors import StageError  # noqa: E402

nn = torch.nn
X = torch.randn(2, 4)
MEMORY: dict[str, torch.Tensor] = {}
TABLE = torch.randn(10, 4)


class PreviousGlobal(nn.Module):
    def forward(self, x):
        difference = x - MEMORY.get("previous", torch.zeros_like(x))
        MEMORY["previous"] = x * 1
        return difference


class PreviousClosure(nn.Module):
    def __init__(self):
        super().__init__()
        kept = [torch.zeros(2, 4)]
        self.step = lambda x: kept.append(x * 2) or x + kept[-2]

    def forward(self, x):
        return self.step(x)


class Normalized(nn.Module):
    """Inputs that are shifted give the same state."""

    def forward(self, x):
        before = MEMORY.get("normalized", 0)
        MEMORY["normalized"] = nn.functional.layer_norm(x, (4,))
        return x + before


class Tokens(nn.Module):
    """Other inputs must be tokens, too."""

    def forward(self, tokens):
        before = MEMORY.get("tokens", 0)
        MEMORY["tokens"] = now = TABLE[tokens]
        return now + before


@pytest.mark.parametrize(
    ("module", "example"),
    [(PreviousGlobal(), X), (PreviousClosure(), X), (Normalized(), X), (Tokens(), torch.tensor([[9, 0, 0]]))],
    ids=lambda value: type(value).__name__,
)
def test_tensors_of_earlier_calls_are_refused(module, example, workdir):
    MEMORY.clear()
    with pytest.raises(StageError, match=r"outside of the module.*test_outside_state\.py, line \d+"):
        export(module, (example,), workdir)
    MEMORY.clear()


@functools.cache
def positions(size):
    return torch.arange(size).float()


class Constants(nn.Module):
    """Tables made on import, on the first call, and anew in each call; and what is only kept to be looked at."""

    def forward(self, x, tokens):
        MEMORY["seen"] = x
        return x * torch.tensor([1.0, 2.0, 3.0, 4.0]) + positions(4) + TABLE[tokens]


def test_constants_are_exported(workdir):
    proto, _ = export(Constants(), (X, torch.tensor([9, 9])), workdir)
    tokens = torch.tensor([3, 4])
    assert_computes(proto, [X + 1, tokens], Constants()(X + 1, tokens))


def test_only_what_comes_from_outside_costs_calls(workdir):
    calls = []

    class Counted(nn.Module):
        def forward(self, x):
            calls.append(0)
            return x * torch.tensor([1.0, 2.0, 3.0, 4.0]) + (TABLE[0] if outside else 0)

    outside = False
    export(Counted(), (X,), workdir)
    without = len(calls)
    outside = True
    export(Counted(), (X,), workdir)
    assert len(calls) == 2 * without + 2
