"""Structured arguments and results: names from their paths, values as PyTorch's."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch_exports import assert_computes, export, inputs_of, outputs_of, request  # noqa: E402

from trtpipe.config.recipe import DataSettings  # noqa: E402
from trtpipe.errors import InputError  # noqa: E402
from trtpipe.exporter.calling import call_of, call_of_tensors, output_names  # noqa: E402
from trtpipe.exporter.loading import Example  # noqa: E402
from trtpipe.exporter.torch_export import run_module  # noqa: E402

nn = torch.nn
X, Y = torch.randn(2, 4), torch.rand(2, 4)
BATCHES = ((1, 4), (2, 4), (8, 4))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 4)


class Scaled(Net):
    """Optional arguments, a number, and one that goes by keyword only."""

    def forward(self, x, mask=None, scale=1.0, *, bias=None):
        y = self.layer(x) * scale
        y = y if mask is None else y * mask
        return y if bias is None else y + bias


class Batch(Net):
    def forward(self, batch, scale=1.0):
        return {"logits": self.layer(batch["img"]) * scale + batch["meta"]["bias"], "n": 3}


@dataclass
class State:
    h: torch.Tensor
    c: torch.Tensor


class Cell(Net):
    """A state that goes in and comes out as an object."""

    def forward(self, x, state):
        h = torch.tanh(self.layer(x) + state.h)
        return {"y": h * 2, "state": State(h, state.c + h)}


class Slot:
    def __init__(self, keys):
        self.keys = keys


class Cache:
    def __init__(self, *keys):
        self.slots = [Slot(key) for key in keys]


class Cached(Net):
    """Objects that no library registers with torch; their content is replaced in place."""

    def forward(self, x, cache=None):
        for slot in cache.slots:
            slot.keys = torch.cat((slot.keys, self.layer(x)))
        return {"sum": sum(slot.keys.sum(0) for slot in cache.slots), "cache": cache, "nothing": None}


class ModelOutput(OrderedDict):
    pass


class Language(Net):
    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None, return_dict=True, **more):
        hidden = self.layer(inputs_embeds if input_ids is None else input_ids.float()) * attention_mask
        return ModelOutput(last=hidden, states=(hidden, hidden + 1)) if return_dict else (hidden, None)


IDS = torch.ones(2, 4, dtype=torch.int64)
CASES = {
    "keywords": (Scaled(), {"x": X, "mask": Y}, ["x", "mask"], ["output"]),
    "a trailing dict is keywords": (Scaled(), (X, {"bias": Y}), ["x", "bias"], ["output"]),
    "None, and numbers": (Scaled(), (X, None, 2.5), ["x"], ["output"]),
    "a dict is one argument": (Batch(), ({"img": X, "meta": {"bias": Y}},), ["img", "meta.bias"], ["logits"]),
    "the same alone": (Batch(), {"img": X, "meta": {"bias": Y}}, ["img", "meta.bias"], ["logits"]),
    "dataclasses": (Cell(), (X, State(Y, X)), ["x", "state.h", "state.c"], ["y", "state.h_out", "state.c_out"]),
    "objects": (
        Cached(),
        (X, Cache(X, Y)),
        ["x", "cache.slots.0.keys", "cache.slots.1.keys"],
        ["sum", "cache.slots.0.keys_out", "cache.slots.1.keys_out"],
    ),
    "a language model": (
        Language(),
        {"input_ids": IDS, "attention_mask": Y},
        ["input_ids", "attention_mask"],
        ["last", "states.0", "states.1"],
    ),
    "a flag": (Language(), {"inputs_embeds": X, "attention_mask": Y, "return_dict": False},
               ["inputs_embeds", "attention_mask"], ["output"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_arguments_and_results_of_every_shape(name, workdir):
    module, examples, inputs, outputs = CASES[name]
    proto, record = export(module, examples, workdir)
    assert inputs_of(proto) == inputs
    assert outputs_of(proto) == outputs
    assert [difference.output for difference in record.parity] == outputs
    call = call_of(module.eval(), Example.of(module, examples), request(workdir))
    other = [tensor + 1 for tensor in call.tensors]
    assert_computes(proto, other, call.with_tensors([tensor.clone() for tensor in other]).run(module))


class TestNotes:
    def test_numbers_are_constants_and_are_left_out_of_the_outputs(self, workdir):
        class Counted(Net):
            def forward(self, x, scale):
                y = self.layer(x) * scale
                return y, x.shape[0], y.argmax(-1), x, y

        module = Counted()
        proto, record = export(module, (X, 2), workdir)
        assert outputs_of(proto) == ["output", "output_1", "output_2", "output_3"]
        assert record.notes[0] == "argument scale = 2 is a constant of the model"
        assert "output 1 is left out" in record.notes[1]
        assert_computes(proto, [X], module(X, 2))

    def test_an_input_that_is_written(self, workdir):
        class Centered(Net):
            def forward(self, x):
                x -= x.mean()
                return self.layer(x)

        module, before = Centered(), X.clone()
        proto, record = export(module, (X,), workdir)
        assert torch.equal(X, before)
        assert record.notes[0].startswith("input x is written in place by forward")
        assert_computes(proto, [X], module(X.clone()))


class TestNames:
    def test_shapes_and_names_of_the_users_reach_structured_inputs(self, workdir):
        shapes = {"x": BATCHES, "h": BATCHES, "state.c": BATCHES}
        proto, record = export(Cell(), (X, State(Y, X)), workdir, shapes=shapes, input_names=("x", "h", "state.c"))
        assert inputs_of(proto) == ["x", "h", "state.c"]
        assert {spec.shape for spec in record.contract.inputs} == {("batch", 4)}
        assert_computes(proto, [torch.ones(5, 4)] * 3, Cell()(torch.ones(5, 4), State(*[torch.ones(5, 4)] * 2)))

    def test_positions_number_outputs(self):
        assert output_names((X, [Y, {"a": X}])) == ("output", "output_1", "output_2")
        assert output_names({"a": (X, Y)}) == ("a.0", "a.1")

    def test_any_dict_names_outputs_by_its_keys(self):
        assert output_names({"a": X, 0: Y, (1, 2): X}) == ("a", "0", "(1, 2)")

    @pytest.mark.parametrize(
        ("result", "inputs", "names"),
        [
            ({"a.b": X, "a": {"b": Y}}, (), ("a.b", "a.b_1")),
            ({"a.b": X, "a": {"b": Y}, "a.b_1": X}, (), ("a.b", "a.b_2", "a.b_1")),
            ({"x": X, "x_out": Y}, ("x",), ("x_out", "x_out_1")),
            ({"x": X}, ("x", "x_out"), ("x_out_1",)),
            ({0: X, "0": Y}, (), ("0", "0_1")),
        ],
    )
    def test_names_that_are_taken_get_a_number(self, result, inputs, names):
        assert output_names(result, inputs) == names

    def test_notes_say_what_got_a_number(self, workdir):
        class Ambiguous(nn.Module):
            def forward(self, x):
                return {"x": x, "a.b": x + 1, "a": {"b": x + 2}, 0: x + 3}

        proto, record = export(Ambiguous(), (X,), workdir)
        assert outputs_of(proto) == ["x_out", "a.b", "a.b_1", "0"]
        assert record.notes == ("output a.b is called a.b_1: another input or output has its name",)
        assert_computes(proto, [Y], Ambiguous()(Y))
        names = ("a", "b", "c", "d")
        proto, record = export(Ambiguous(), (X,), workdir, output_names=names)
        assert (outputs_of(proto), record.notes) == (list(names), ())

    def test_arguments_without_names_of_their_own(self, workdir):
        class Sum(nn.Module):
            def forward(self, *parts):
                return sum(parts)

        proto, _ = export(Sum(), (X, Y), workdir)
        assert inputs_of(proto) == ["parts.0", "parts.1"]
        assert_computes(proto, [X, Y], X + Y)

    @pytest.mark.parametrize(
        ("example", "words"),
        [
            (Example((X,), {"bais": Y}), r"Scaled\.forward has no argument 'bais'"),
            (Example((X, Y, 1.0, Y)), r"Scaled\.forward takes 3 inputs, 4 examples"),
            (Example((None,), {"scale": 2.0}), "no tensor among the example inputs"),
            (Example((X.numpy(),)), "example input 'x' is a ndarray, not a tensor"),
        ],
    )
    def test_examples_that_do_not_fit(self, workdir, example, words):
        with pytest.raises(InputError, match=words) as caught:
            export(Scaled(), example, workdir)
        if "bais" in words:
            assert "did you mean 'bias'" in caught.value.remedy


class TestRunning:
    """PyTorch's own outputs for feeds by names: what verification compares with."""

    @pytest.mark.parametrize("name", ["dataclasses", "a dict is one argument", "a trailing dict is keywords"])
    def test_feeds_find_their_places(self, name):
        module, examples, inputs, outputs = CASES[name]
        example = Example.of(module, examples)
        feed = {key: torch.full((2, 4), float(index + 1)).numpy() for index, key in enumerate(inputs)}
        (found,) = run_module(module, example, [feed], outputs)
        assert list(found) == outputs
        call = call_of(module, example, request("x")).with_tensors([torch.from_numpy(v) for v in feed.values()])
        with torch.no_grad():
            wanted = call.run(module)
        first = wanted if isinstance(wanted, torch.Tensor) else next(iter(wanted.values()))
        assert torch.allclose(torch.from_numpy(found[outputs[0]]), first)

    def test_names_tell_where_there_is_no_example(self):
        call = call_of_tensors(Cell(), {"x": X, "state.h": Y, "state.c": X})
        assert call.names == ("x", "state.h", "state.c")
        assert call.kwargs == {}
        assert call_of_tensors(Batch(), {"img": X, "meta.bias": Y}).names == ("img", "meta.bias")
        assert call_of_tensors(Scaled(), {"pixels": X}).names == ("x",)
        assert call_of_tensors(Scaled(), {"x": X, "bias": Y}).kwargs["bias"] is Y

    def test_a_module_is_as_it_was(self):
        class Counting(Net):
            def __init__(self):
                super().__init__()
                self.register_buffer("calls", torch.zeros(1))
                self.seen = []

            def forward(self, x):
                self.calls += 1
                self.seen.append(len(self.seen))
                self.last = x
                return self.layer(x)

        module = Counting().train()
        run_module(module, None, [{"x": X.numpy()}] * 2, ["output"])
        assert (float(module.calls), module.seen, module.training) == (0, [], True)
        assert not hasattr(module, "last")


class TestExamplesFromData:
    """A factory that returns only the module is enough where data names the inputs."""

    @pytest.fixture
    def data(self, tmp_path):
        ids = np.arange(32).reshape(8, 4)
        np.savez(tmp_path / "d.npz", input_ids=ids, attention_mask=np.ones((8, 4), np.float32), y=np.zeros(8))
        return DataSettings(source=str(tmp_path / "d.npz"), labels="y", batch=2)

    def test_names_types_and_values_are_those_of_the_first_sample(self, workdir, data):
        proto, record = export(Language(), None, workdir, data=data)
        assert [str(spec) for spec in record.contract.inputs] == [
            "input_ids: int64[2x4]",
            "attention_mask: float32[2x4]",
        ]
        assert_computes(proto, [IDS, Y], Language().eval()(IDS, Y))

    def test_shapes_make_them_dynamic(self, workdir, data):
        shapes = dict.fromkeys(("input_ids", "attention_mask"), ((1, 4), (2, 4), (8, 4)))
        _, record = export(Language(), None, workdir, data=data, shapes=shapes)
        assert [spec.shape for spec in record.contract.inputs] == [("batch", 4)] * 2

    def test_a_function_gives_structured_arguments(self, workdir, tmp_path):
        code = "import numpy as np\ndef feeds():\n    one = np.ones((2, 4), np.float32)\n"
        (tmp_path / "feeds.py").write_text(code + "    yield {'img': one, 'meta.bias': one * 2}, np.zeros(2, int)\n")
        proto, _ = export(Batch(), None, workdir, data=DataSettings(source=f"{tmp_path / 'feeds.py'}:feeds"))
        assert inputs_of(proto) == ["img", "meta.bias"]
        assert_computes(proto, [X, Y], Batch().eval()({"img": X, "meta": {"bias": Y}}))

    def test_examples_of_the_users_come_first(self, workdir, data):
        assert inputs_of(export(Scaled(), (X,), workdir, data=data)[0]) == ["x"]

    def test_pictures_name_no_inputs(self, workdir, tmp_path):
        with pytest.raises(InputError, match="no example inputs, and no shapes for x"):
            export(Scaled(), None, workdir, data=DataSettings(source=str(tmp_path)))
