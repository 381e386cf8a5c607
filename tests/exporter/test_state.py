"""State inside modules: what harms is refused by name, what does not is exported."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch_exports import assert_computes, export  # noqa: E402

from trtpipe.errors import StageError  # noqa: E402

nn = torch.nn
X = torch.randn(1, 4)


class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("kept", torch.zeros(1, 4))
        self.plain = torch.zeros(1, 4)
        self.count, self.seen = 0, []


class Cache(nn.Module):
    """Written at a position, and masked behind it: one call with an empty cache does not tell."""

    def __init__(self):
        super().__init__()
        self.register_buffer("keys", torch.zeros(1, 8, 4))

    def forward(self, x, pos):
        self.keys[:, pos] = x
        late = torch.where(torch.arange(8) <= pos, 0.0, -1e4)
        return torch.softmax((self.keys * x).sum(-1) + late, -1) @ self.keys[0]


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Cache()

    def forward(self, x, pos):
        return self.layer(x, pos) * 2


class Average(Buffered):
    def forward(self, x):
        self.kept = self.kept * 0.5 + x
        return self.kept + 0


class InPlace(Buffered):
    def forward(self, x):
        self.plain.mul_(0.5).add_(x)
        return self.plain * 1


class Counter(Buffered):
    def forward(self, x):
        self.count += 1
        return x * self.count


class Growing(Buffered):
    def forward(self, x):
        self.seen.append(x)
        return torch.cat(self.seen).sum(0)


class Holder:
    def __init__(self):
        self.value = torch.zeros(1, 4)


class Held(Buffered):
    def __init__(self):
        super().__init__()
        self.holder = Holder()

    def forward(self, x):
        self.holder.value = self.holder.value + x
        return self.holder.value * 1


HARM = {
    "a cache": (Cache(), (X, torch.tensor([0])), ["keys"]),
    "one inside": (Outer(), (X, torch.tensor([0])), ["layer.keys"]),
    "an average": (Average(), (X,), ["kept"]),
    "no buffer": (InPlace(), (X,), ["plain"]),
    "a number": (Counter(), (X,), ["count"]),
    "a list": (Growing(), (X,), ["seen"]),
    "an object": (Held(), (X,), ["holder"]),
}


@pytest.mark.parametrize("name", HARM)
def test_state_is_refused_by_name(name, workdir):
    module, examples, names = HARM[name]
    with pytest.raises(StageError, match="keeps state between calls") as caught:
        export(module, examples, workdir)
    for each in names:
        assert f" {each}" in caught.value.message
        assert each.rpartition(".")[2] in caught.value.remedy  # as an input and an output
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize("name", HARM)
def test_the_module_gets_its_state_back(name, workdir):
    module, examples, _ = HARM[name]
    with pytest.raises(StageError):
        export(module, examples, workdir)
    assert not any(buffer.any() for buffer in module.buffers())
    if isinstance(module, Buffered):
        assert not module.plain.any()
        assert (module.count, module.seen) == (0, [])


class Remembering(Buffered):
    """Positions that are computed once, a result that is kept to be looked at, calls that are counted."""

    def forward(self, x):
        if not hasattr(self, "positions") or self.positions.shape != x.shape[-1:]:
            self.positions = torch.arange(x.shape[-1]).float()
        self.count += 1
        self.last = x * 2
        self.kept += 1
        return x + self.positions


class Collecting(Buffered):
    """Registers a hook on the first call, as backbones do that collect what their stages return."""

    def __init__(self):
        super().__init__()
        self.stage = nn.Identity()

    def forward(self, x):
        collected = []
        if not getattr(self, "hooked", False):
            self.stage.register_forward_hook(lambda _, __, result: self.sink.append(result))
            self.hooked = True
        self.sink = collected
        self.stage(x)
        return torch.stack(collected) * 2


class Overwriting(Buffered):
    """What lies in the buffer is replaced as a whole before it is read."""

    def forward(self, x):
        self.kept[:] = x
        return self.kept * 2


class Normalized(nn.Module):
    """In eval mode a batch normalization writes nothing."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.norm.running_mean += 1

    def forward(self, x):
        return self.norm(x)


@pytest.mark.parametrize("module", [Remembering(), Overwriting(), Normalized()], ids=lambda m: type(m).__name__)
def test_what_does_no_harm_is_exported(module, workdir):
    proto, _ = export(module, (X,), workdir)
    assert not any(key in module.__dict__ for key in ("positions", "last"))
    assert_computes(proto, [X + 1], module.eval()(X + 1))


def test_hooks_of_the_first_call_are_registered_once(workdir):
    """Else each stage would be collected twice on the next call."""
    module = Collecting()
    proto, _ = export(module, (X,), workdir)
    assert_computes(proto, [X + 1], (2 * (X + 1))[None])
    assert not module.stage._forward_hooks
    assert module.eval()(X).shape == (1, *X.shape)
    assert module(X).shape == (1, *X.shape)
    export(module, (X,), workdir)
    assert module(X).shape == (1, *X.shape)
    assert len(module.stage._forward_hooks) == 1


class TestRandom:
    def test_the_operator_and_the_line_are_named(self, workdir):
        class Noisy(nn.Module):
            def forward(self, x):
                return x + torch.randn_like(x)

        with pytest.raises(StageError, match=r"aten\.randn_like \(test_state\.py, line \d+, in forward"):
            export(Noisy(), (X,), workdir)

    def test_seeds_do_not_help(self, workdir):
        class Seeded(nn.Module):
            def forward(self, x):
                torch.manual_seed(0)
                return x + torch.rand(1, 4)

        with pytest.raises(StageError, match="draws random numbers"):
            export(Seeded(), (X,), workdir)

    def test_dropout_in_eval_mode_and_attention_draw_nothing(self, workdir):
        class Quiet(nn.Module):
            def __init__(self):
                super().__init__()
                self.drop = nn.Dropout(0.5)

            def forward(self, x):
                x = x[None, None]
                return nn.functional.scaled_dot_product_attention(x, x, self.drop(x))

        proto, _ = export(Quiet().train(), (X,), workdir)
        assert_computes(proto, [X], Quiet().eval()(X))

    def test_random_numbers_of_pythons(self, workdir):
        import random

        class Odd(nn.Module):
            def forward(self, x):
                return x * random.random()

        with pytest.raises(StageError, match="returns something else each time"):
            export(Odd(), (X,), workdir)
