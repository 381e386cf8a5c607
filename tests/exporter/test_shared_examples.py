"""Example inputs that share memory: each is an input of its own, which is read."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch_exports import assert_computes, export, inputs_of  # noqa: E402

from trtpipe.exporter.loading import Example  # noqa: E402

nn = torch.nn
X = torch.randn(2, 4)
BOTH = torch.randn(2, 2, 4)


class Difference(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=False)

    def forward(self, a, b):
        return self.layer(a) - 2 * b


class Stereo(Difference):
    def forward(self, pair):
        return super().forward(pair["left"], pair["right"][0])


class Tied(Difference):
    """Given its own weight."""

    def forward(self, a):
        return self.layer(a) @ self.layer.weight


TIED = Tied()
CASES = {
    "positions": (Difference(), (X, X)),
    "keywords": (Difference(), Example((), {"a": X, "b": X})),
    "views": (Difference(), (BOTH[0], BOTH.select(0, 0))),
    "one tensor expanded": (Difference(), (X, X[:1].expand(2, 4))),
    "structures": (Stereo(), ({"left": X, "right": [X]},)),
    "its weight": (TIED, (TIED.layer.weight.detach(),)),
}


@pytest.mark.parametrize("name", CASES)
def test_all_inputs_are_read(name, workdir):
    module, examples = CASES[name]
    proto, _ = export(module, examples, workdir)
    read = {used for node in proto.graph.node for used in node.input}
    assert set(inputs_of(proto)) <= read
    fresh = [torch.randn(*(dim.dim_value for dim in value.type.tensor_type.shape.dim)) for value in proto.graph.input]
    wanted = Stereo.forward(module, {"left": fresh[0], "right": fresh[1:]}) if name == "structures" else module(*fresh)
    assert_computes(proto, fresh, wanted)


def test_a_program_that_was_exported_so_gives_a_note(workdir):
    _, record = export(torch.export.export(Difference(), (X, X)), None, workdir)
    assert [note.partition(";")[0] for note in record.notes] == ["the program does not read input a"]
    _, record = export(torch.export.export(Difference(), (X, X.clone())), None, workdir)
    assert record.notes == ()
