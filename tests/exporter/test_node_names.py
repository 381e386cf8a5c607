"""Names of nodes after the user's modules."""

from __future__ import annotations

import inspect
from fnmatch import fnmatchcase

import pytest

torch = pytest.importorskip("torch")

from torch_exports import export  # noqa: E402

from trtpipe.passes.node_names import SOURCE_LINE  # noqa: E402

nn = torch.nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.act, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        y = self.act(self.conv2(self.act(self.conv1(x))))
        return y + x  # the sum


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(Block(), Block())
        self.head = nn.Linear(3, 2)
        self.node_mean = nn.Linear(2, 2)  # as torch calls the node of the line below

    def forward(self, x):
        return self.node_mean(self.head(self.layer1(x).mean((2, 3)) + 1)).exp()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    proto, _ = export(Net(), (torch.randn(1, 3, 8, 8),), tmp_path_factory.mktemp("net"))
    return {node.name: node for node in proto.graph.node}, proto


def test_modules_give_their_paths(nodes):
    found, proto = nodes
    assert len(found) == len(proto.graph.node)
    assert [name for name, node in found.items() if node.op_type == "Conv"] == [
        f"layer1.{block}.conv{conv}" for block in (0, 1) for conv in (1, 2)
    ]
    assert found["layer1.0/Add"].op_type == "Add"
    assert {"layer1.0.act", "layer1.0.act_2"} <= set(found)
    assert found["head"].op_type in ("Gemm", "MatMul")
    assert {"layer1.0.conv1.weight", "head.bias"} <= {tensor.name for tensor in proto.graph.initializer}


def test_a_pattern_for_a_module_means_all_its_nodes(nodes):
    found, _ = nodes
    inside = [name for name in found if fnmatchcase(name, "layer1*")]
    assert len(inside) == 10
    assert {found[name].op_type for name in inside} == {"Conv", "Relu", "Add"}


def test_each_node_has_the_users_line(nodes):
    found, _ = nodes
    lines, first = inspect.getsourcelines(Block.forward)
    where = first + next(i for i, line in enumerate(lines) if "the sum" in line)
    notes = {entry.key: entry.value for entry in found["layer1.1/Add"].metadata_props}
    assert notes == {SOURCE_LINE: f"test_node_names.py:{where}"}
