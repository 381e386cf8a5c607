"""What the public functions take: sources, data, profiles and recipes, in every form; and what they refuse."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from types import MappingProxyType

import ml_dtypes
import numpy as np
import onnx
import pytest
from models import conv_net, model, normal, run, save

import trtpipe
from trtpipe.api.request import requested
from trtpipe.backends import choice
from trtpipe.backends.base import Refusal
from trtpipe.config.source import FactorySource, ModuleSource, OnnxSource
from trtpipe.errors import HostError, InputError, RecipeError

pytestmark = pytest.mark.usefixtures("in_process", "no_waiting_for_the_disk")

SHAPES = {"x": {"min": (1, 3, 8, 8), "opt": (2, 3, 8, 8), "max": (8, 3, 8, 8)}}
X = normal(24, 3, 8, 8)


def without_corrections(ranges):
    return {name: value for name, value in json.loads(ranges).items() if name != "corrections"}


class Elsewhere(os.PathLike):
    """A path that is neither text nor a Path."""

    def __init__(self, path):
        self._path = path

    def __fspath__(self):
        return str(self._path)


@pytest.fixture
def net(tmp_path):
    return save(conv_net(), tmp_path / "model.onnx")


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The folder for temporary files, which have to be gone after each call."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert [path.name for path in folder.iterdir() if not path.name.startswith("torchinductor")] == []


@pytest.fixture
def usual(tmp_path):
    """A profile for the null back-end, and a store."""
    profile = {"backend": "null", "targets": ["sm89"], "latency": {"warmup": 0.0001, "duration": 0.001, "cpu": True},
               "tolerance": {"atol": 100.0}}  # fmt: skip
    return {
        "profile": trtpipe.DeploymentProfile.model_validate(profile),
        "settings": trtpipe.Settings(cache_dir=tmp_path / "cache"),
    }


def with_data(path, x=X):
    np.savez(path, x=x)
    return path


class TestSources:
    @pytest.mark.parametrize("kind", [str, Path, Elsewhere, onnx.load])
    def test_a_graph_in_any_form_is_the_same_build(self, net, tmp_path, usual, scratch, kind):
        out, plain = tmp_path / "out", {"shapes": SHAPES, **usual}
        assert trtpipe.export(kind(net), Elsewhere(out / "a.onnx"), **plain).out == out / "a.onnx"
        feed = {"x": X[:4]}
        assert (run(onnx.load(out / "a.onnx"), feed)["y"] == run(conv_net(), feed)["y"]).all()
        first = trtpipe.dry_run(kind(net), **plain)
        assert [(step.label, step.state) for step in first[:2]] == [("export", "hit"), ("simplify", "to build")]
        assert trtpipe.build(kind(net), out, **plain).out == out
        again = trtpipe.dry_run(net, **plain)
        assert {step.state for step in again} <= {"hit", "skipped"}

    def test_a_graph_in_memory_is_left_as_it_was_even_if_it_is_too_large_for_one_file(
        self, tmp_path, usual, scratch, monkeypatch
    ):
        wide = model("(float[n,1024] x) => (float[n,1024] y) { h = MatMul(x, w) y = Relu(h) }", w=normal(1024, 1024))
        before = wide.SerializeToString()
        assert len(before) > 4_000_000
        shapes = {"x": {"min": (1, 1024), "opt": (2, 1024), "max": (4, 1024)}}
        whole = trtpipe.export(wide, tmp_path / "whole.onnx", shapes=shapes, **usual)
        monkeypatch.setattr(onnx.checker, "MAXIMUM_PROTOBUF", 1_000_000)
        usual["settings"] = trtpipe.Settings(cache_dir=tmp_path / "other")
        parts = trtpipe.export(wide, tmp_path / "parts.onnx", shapes=shapes, **usual)
        assert wide.SerializeToString() == before
        feed = {"x": normal(2, 1024)}
        for made in (whole.out, parts.out):
            assert (run(onnx.load(made), feed)["y"] == run(wide, feed)["y"]).all()

    def test_a_graph_without_its_weights_is_refused(self, net, tmp_path, usual, scratch):
        onnx.save(onnx.load(net), tmp_path / "big.onnx", save_as_external_data=True, location="w", size_threshold=0)
        hollow = onnx.load(tmp_path / "big.onnx", load_external_data=False)
        with pytest.raises(InputError, match="source: weights"):
            trtpipe.export(hollow, tmp_path / "out", **usual)

    @pytest.mark.parametrize("form", ["pair", "triple", "no keywords", "argument", "one tensor", "keywords"])
    def test_a_module(self, tmp_path, usual, scratch, form):
        torch = pytest.importorskip("torch")
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
        example = torch.arange(8.0).reshape(2, 4)
        if form == "pair":
            made = trtpipe.export((module, (example,)), tmp_path / "m.onnx", **usual)
        elif form == "triple":
            made = trtpipe.export((module, (), {"input": example}), tmp_path / "m.onnx", **usual)
        elif form == "no keywords":
            made = trtpipe.export((module, (example,), {}), tmp_path / "m.onnx", **usual)
        else:
            inputs = {"one tensor": example, "keywords": {"input": example}}.get(form, (example,))
            made = trtpipe.export(module, tmp_path / "m.onnx", example_inputs=inputs, **usual)
        graph = onnx.load(made.out)
        found = run(graph, {graph.graph.input[0].name: example.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(next(iter(found.values())), module(example).numpy(), rtol=1e-5, atol=1e-6)

    def test_what_they_become(self):
        def source(given, **more):
            return trtpipe.make_job(given, engines=False, **more).source

        assert source("model.onnx") == source(Path("model.onnx")) == source(Elsewhere("model.onnx"))
        assert source("model.onnx") == OnnxSource(Path("model.onnx"))
        assert source("a.b:make") == FactorySource("a.b", "make")
        assert source((abs, [1, 2])) == source(abs, example_inputs=(1, 2)) == ModuleSource(abs, (1, 2))
        assert source(None) is None


class TestData:
    """The same samples give the same ranges, whatever holds them."""

    @pytest.fixture
    def ranges(self, net, tmp_path, usual, scratch):
        def make(data, name="ranges.json", **own):
            usual["settings"] = trtpipe.Settings(cache_dir=tmp_path / f"cache of {name}")
            recipe = trtpipe.CalibrationRecipe.model_validate({"method": "auto", "data": {"batch": 4, **own}})
            made = trtpipe.calibrate(
                net, tmp_path / name, calib_data=data, precision="int8", shapes=SHAPES, recipe=recipe, **usual
            )
            text = made.out.read_text()
            (digest,) = re.findall(r'"digest": "([0-9a-f]{64})"', text)
            return re.sub(r'"calib\S* \([^"]*\)"', '"the data"', text.replace(digest, "")), digest

        return make

    def forms(self):
        """The 24 samples as batches of four, or one by one."""
        batches = [{"x": X[start : start + 4]} for start in range(0, 24, 4)]
        return {
            "list of feeds": [MappingProxyType(feed) for feed in batches],
            "tuple of feeds": tuple(batches),
            "list of arrays": [feed["x"] for feed in batches],
            "array": X,
            "generator": (feed for feed in batches),
            "iterator of single samples": iter(X),
            "function": lambda: iter(batches),
            "feeds with labels": [(feed, np.zeros(4, np.int64)) for feed in batches],
            "generator with labels": ((feed["x"], np.zeros(4, np.int64)) for feed in batches),
        }

    @pytest.mark.parametrize(
        "form",
        [
            "list of feeds",
            "tuple of feeds",
            "list of arrays",
            "array",
            "generator",
            "iterator of single samples",
            "function",
            "feeds with labels",
            "generator with labels",
        ],
    )
    def test_every_form_is_the_file_with_the_same_samples(self, ranges, tmp_path, form):
        expected = ranges(with_data(tmp_path / "calib.npz"), "from file.json")
        found = ranges(self.forms()[form])
        assert without_corrections(found[0]) == without_corrections(expected[0])
        # Corrections are tried on single samples, but on the caller's own batches as they come.
        single = form in ("array", "iterator of single samples")
        assert found[0] == (expected if single else ranges(self.forms()["function"], "from function.json"))[0]
        assert '"samples": 24' in found[0]
        assert found[1] == expected[1], "labels are no part of what ranges come from"

    def test_a_data_loader(self, ranges, tmp_path):
        """Over a TensorDataset it gives lists of one tensor, over a shuffled one never the same twice."""
        data = pytest.importorskip("torch.utils.data")
        torch = pytest.importorskip("torch")
        expected = ranges(self.forms()["list of arrays"], "from arrays.json")
        tensors = data.TensorDataset(torch.from_numpy(X))
        assert ranges(data.DataLoader(tensors, batch_size=4)) == expected
        labels = data.TensorDataset(torch.from_numpy(X), torch.zeros(24, dtype=torch.int64))
        assert ranges(data.DataLoader(labels, batch_size=4), "labels.json")[0] == expected[0]
        shuffled = ranges(data.DataLoader(tensors, batch_size=4, shuffle=True), "shuffled.json")
        assert '"samples": 24' in shuffled[0]

    def test_no_more_is_taken_than_the_recipe_asks_for(self, ranges, tmp_path):
        def forever():
            while True:
                yield from X

        expected = ranges(with_data(tmp_path / "calib.npz", X[:8]), "from file.json")
        assert ranges(forever(), samples=8) == expected

    def test_types_that_files_of_numpy_do_not_know(self, tmp_path, usual, scratch):
        half = model("(bfloat16[n,4] x) => (float[n,4] y) { f = Cast<to = 1>(x) y = Relu(f) }")
        path = save(half, tmp_path / "half.onnx")
        values = normal(8, 4).astype(ml_dtypes.bfloat16)
        shapes = {"x": {"min": (1, 4), "opt": (8, 4), "max": (8, 4)}}
        with requested(path, calib_data=iter([values]), shapes=shapes, engines=False, **usual) as job:
            (again,) = job.feeds["calibration-data"]()
        assert again.dtype == values.dtype
        assert (again == values).all()

    def test_evaluation_data_in_memory(self, net, tmp_path, usual, scratch):
        held_out = normal(16, 3, 8, 8, seed=7)
        labels = run(conv_net(), {"x": held_out})["y"].argmax(axis=1)
        recipe = trtpipe.CalibrationRecipe.model_validate({"evaluation": {"metric": "top1", "batch": 8}})
        plain = {"precision": "int8", "shapes": SHAPES, "calib_data": list(X[:, None]), "recipe": recipe, **usual}
        feeds = [({"x": held_out[:8]}, labels[:8]), ({"x": held_out[8:]}, labels[8:])]
        built = trtpipe.build(net, tmp_path / "out", eval_data=feeds, **plain)
        (reference,) = (value for value in built.parity.metrics if value.artifact == "model")
        assert (reference.metric, reference.value, reference.samples) == ("top1", 1.0, 16)
        verified = trtpipe.verify(
            tmp_path / "out" / "lowered.onnx", tmp_path / "out" / "model.onnx", eval_data=iter(feeds), recipe=recipe,
            **usual,
        )  # fmt: skip
        assert {value.artifact: value.value for value in verified.parity.metrics} == {
            value.artifact: value.value for value in built.parity.metrics if value.artifact != "simplified"
        }

    def test_shapes_of_data_in_memory(self, net, tmp_path, usual, scratch):
        sizes = [{"x": normal(rows, 3, 8, 8)} for rows in (2, 2, 5)]
        steps = trtpipe.build(net, tmp_path / "out", shapes="auto", calib_data=sizes, **usual).steps
        profile = next(step.artifact for step in steps if step.artifact and step.artifact.kind == "manifest")
        shapes = trtpipe.Manifest.read(profile.path).settings["profile"]["shapes"]
        assert str(shapes).count("5") >= 1

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param([{"q": X[:4]}], id="another input"),
            pytest.param([{"x": X[:4, :1]}], id="another shape"),
            pytest.param([], id="none"),
            pytest.param(iter([]), id="none of an iterator"),
            pytest.param([{"x": "text"}], id="text"),
            pytest.param(iter([{"x": object()}]), id="an object"),
            pytest.param(iter([{"x": [[1.0], [1.0, 2.0]]}]), id="ragged"),
            pytest.param((1 / 0 for _ in range(2)), id="raises"),
            pytest.param(lambda: 1 / 0, id="function that raises"),
        ],
    )
    def test_bad_samples_are_the_callers_and_leave_nothing(self, net, tmp_path, usual, scratch, data):
        with pytest.raises(InputError, match="calib_data"):
            trtpipe.build(net, tmp_path / "out", precision="int8", shapes=SHAPES, calib_data=data, **usual)
        assert not (tmp_path / "out").exists()

    def test_a_tuned_recipe_does_not_name_what_no_file_holds(self, net, tmp_path, usual, scratch):
        held_out = normal(16, 3, 8, 8, seed=7)
        recipe = trtpipe.CalibrationRecipe.model_validate({"evaluation": {"metric": "cosine"}, "method": "max"})
        data = {"calib_data": [X[:8], X[8:16]], "eval_data": [held_out[:8], held_out[8:]]}
        made = trtpipe.tune(
            net, trtpipe.Budget(max_drop=0.5), tmp_path / "t.toml", shapes=SHAPES, recipe=recipe, **data, **usual
        )
        assert made.tuning.met
        again = trtpipe.CalibrationRecipe.load(tmp_path / "t.calib.toml")
        assert (again.data.source, again.evaluation.source) == ("", "")
        built = trtpipe.build(
            net, tmp_path / "out", profile=tmp_path / "t.toml", recipe=again, settings=usual["settings"], **data
        )
        assert {value.artifact: value.value for value in built.parity.metrics}["lowered"] == made.tuning.tuned.value


class TestOverrides:
    def test_arguments_are_stronger_than_the_profile_s_file(self, tmp_path):
        (tmp_path / "p.toml").write_text('precision = "fp16"\ntargets = ["sm86"]\nkeep = ["a"]\nbackend = "null"\n')
        job = trtpipe.make_job("model.onnx", profile=str(tmp_path / "p.toml"))
        assert (job.profile.precision, job.profile.keep, job.targets[0].name) == ("fp16", ("a",), "sm86")
        job = trtpipe.make_job(
            "net.onnx", profile=tmp_path / "p.toml", precision="bf16", targets="rtx4090", keep=["b*", "c"]
        )
        assert (job.profile.precision, job.profile.keep, job.targets[0].name) == ("bf16", ("b*", "c"), "sm89")
        assert job.backend == "null"

    def test_data_is_stronger_than_the_recipe_s_file(self, tmp_path):
        (tmp_path / "c.toml").write_text('method = "mse"\n[data]\nsource = "a.npz"\nbatch = 3\n')
        kept = trtpipe.make_job("model.onnx", recipe=tmp_path / "c.toml", engines=False).recipe
        assert kept.data.source == str(tmp_path / "a.npz")
        found = trtpipe.make_job(
            "model.onnx", recipe=tmp_path / "c.toml", calib_data=Path("b.npz"), engines=False
        ).recipe
        assert (found.data.source, found.data.batch, found.method) == ("b.npz", 3, "mse")

    @pytest.mark.parametrize(
        "shapes",
        [
            {"x": (2, 3, 8, 8)},
            {"x": [2, 3, 8, 8]},
            [{"x": {"min": (2, 3, 8, 8), "opt": (2, 3, 8, 8), "max": (2, 3, 8, 8)}}],
            [{"x": trtpipe.ShapeRange(min=(2, 3, 8, 8), opt=(2, 3, 8, 8), max=(2, 3, 8, 8))}],
        ],
        ids=["tuple", "list", "bounds", "record"],
    )
    def test_shapes(self, shapes):
        (profile,) = trtpipe.make_job("model.onnx", shapes=shapes, engines=False).profile.shapes
        assert profile["x"].min == profile["x"].opt == profile["x"].max == (2, 3, 8, 8)

    def test_a_graph_tells_the_precision_it_is_judged_by(self, net, tmp_path, usual):
        """By the tolerances of float32 an int8 graph would fail."""
        plain = {"settings": usual["settings"]}
        ranges = trtpipe.calibrate(net, tmp_path / "ranges.json", calib_data=[X], **plain).out
        lowered = trtpipe.lower(net, tmp_path / "lowered.onnx", precision="int8", ranges=ranges, **plain).out
        assert trtpipe.verify(lowered, net, eval_data=[X], **plain).parity.precision == "int8"
        assert trtpipe.verify(lowered, net, eval_data=[X], **plain).accurate
        assert not trtpipe.verify(lowered, net, eval_data=[X], precision="fp32", **plain).accurate


class TestBackEnd:
    def test_choices_left_open_are_made_and_told(self, heard_all, monkeypatch):
        monkeypatch.setattr(choice, "missing", lambda name: None if name == "tensorrt-rtx" else Refusal("no", "n"))
        monkeypatch.setattr(choice, "gpus", lambda: ())
        made = trtpipe.make_job("model.onnx", progress=heard_all)
        assert (made.backend, [target.name for target in made.targets]) == ("tensorrt-rtx", ["sm86", "sm89", "sm120"])
        assert [note.split(":")[0] for note in heard_all.notes] == ["backend tensorrt-rtx", "targets sm86, sm89, sm120"]

    def test_choices_that_were_made_are_not_told(self, heard_all, usual):
        made = trtpipe.make_job("model.onnx", progress=heard_all, **usual)
        assert (made.backend, [target.name for target in made.targets]) == ("null", ["sm89"])
        assert heard_all.notes == []

    def test_work_without_engines_needs_no_back_end(self, monkeypatch):
        monkeypatch.setattr(choice, "missing", lambda name: Refusal("no", "n"))
        assert trtpipe.make_job("model.onnx", engines=False).targets == ()
        with pytest.raises(HostError):
            trtpipe.make_job("model.onnx")

    def test_the_environment_is_the_default(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TRTPIPE_CACHE_DIR", str(tmp_path / "elsewhere"))
        made = trtpipe.make_job("model.onnx", engines=False)
        assert made.settings.cache_dir == tmp_path / "elsewhere"
        assert (made.profile.precision, made.recipe) == ("fp32", trtpipe.CalibrationRecipe())


class TestRefusals:
    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("source", 3),
            ("source", b"net.onnx"),
            ("source", {"x": 1}),
            ("example_inputs", (1,)),  # of a file
            ("precision", "int9"),
            ("precision", 8),
            ("targets", ["sm99"]),
            ("targets", 89),
            ("targets", [89]),
            ("keep", 5),
            ("keep", [1]),
            ("shapes", "1x3x8x8"),
            ("shapes", 4),
            ("shapes", ["x"]),
            ("shapes", {"x": (-1, 3)}),
            ("shapes", {"x": {"min": (2,), "opt": (1,), "max": (2,)}}),
            ("shapes", {"x": 3}),
            ("calib_data", 3),
            ("calib_data", {"x": X}),
            ("calib_data", b"x.npz"),
            ("eval_data", 3.5),
            ("profile", 3),
            ("profile", {"precision": "int8"}),
            ("recipe", 3),
            ("settings", "cache"),
        ],
    )
    def test_an_argument_of_the_wrong_kind_is_named(self, argument, value, scratch):
        given = {"source": "net.onnx", argument: value}
        with pytest.raises(InputError) as caught, requested(**given, engines=False):
            pass
        assert caught.value.message.startswith(argument)
        assert caught.value.remedy

    @pytest.mark.parametrize(
        ("function", "arguments", "named"),
        [
            ("build", ("model.onnx", 3), "out"),
            ("export", ("model.onnx", None), "out"),
            ("simplify", (3, "out"), "model"),
            ("calibrate", (b"net.onnx", "out"), "simplified"),
            ("ranges_from_statistics", ([3], "out"), "statistics"),
            ("ranges_from_statistics", (3, "out"), "statistics"),
            ("import_trt_cache", (3, "net.onnx", "out"), "cache"),
            ("lower", ("model.onnx", 3), "out"),
            ("compile", (3, "out"), "lowered"),
            ("verify", (3, "net.onnx"), "candidate"),
            ("verify", ("model.onnx", 3), "reference"),
            ("measure", (3,), "model"),
            ("compare_latency", ("model.onnx", 3), "new"),
            ("sensitivity", ("model.onnx", 3), "out"),
            ("tune", ("model.onnx", 0.01, "t.toml"), "budget"),
            ("reevaluate", (3, trtpipe.DeploymentProfile()), "parity"),
            ("check", (3, "b.json"), "baseline|build"),
            ("save_baseline", ("out", 3), "file"),
            ("diff", (3, "b"), "old"),
            ("inspect", (3,), "path"),
        ],
    )
    def test_every_function_names_it(self, function, arguments, named, net, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TRTPIPE_CACHE_DIR", str(tmp_path / "cache"))
        with pytest.raises(InputError, match=rf"^({named}): "):
            getattr(trtpipe, function)(*arguments)
        assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]

    @pytest.mark.parametrize(
        "more",
        [
            {"precision": "fp16"},
            {"targets": ["sm89"]},
            {"shapes": SHAPES},
            {"keep": ["a"]},
            {"calib_data": [X]},
            {"eval_data": "x.npz"},
            {"example_inputs": (1,)},
            {"profile": trtpipe.DeploymentProfile()},
            {"recipe": trtpipe.CalibrationRecipe()},
            {"settings": trtpipe.Settings(cache_dir=Path("c"))},
            {"simplify": False},
            {"allow_random": True},
        ],
        ids=lambda more: next(iter(more)),
    )
    def test_a_job_has_everything_already(self, more, usual):
        job = trtpipe.make_job("model.onnx", **usual)
        with pytest.raises(InputError, match="job"):
            trtpipe.dry_run(job, **more)
        with requested(job) as same:
            assert same is job

    def test_a_module_needs_examples_in_their_order(self):
        torch = pytest.importorskip("torch")
        for more in ({}, {"example_inputs": {"x": torch.zeros(1)}}, {"example_inputs": "x"}):
            with pytest.raises(InputError, match=r"^example_inputs: "):
                trtpipe.make_job(torch.nn.ReLU(), engines=False, **more)

    def test_files_that_are_wrong_are_named(self, tmp_path):
        (tmp_path / "p.toml").write_text('precison = "int8"')
        for name in ("profile", "recipe"):
            with pytest.raises(RecipeError, match=r"p\.toml"):
                trtpipe.make_job("model.onnx", engines=False, **{name: tmp_path / "p.toml"})

    def test_a_failing_build_leaves_no_temporary_files(self, net, tmp_path, usual, scratch, monkeypatch):
        from trtpipe.stages.lower import Lower

        seen = []

        def fail(*_):
            seen.extend(scratch.iterdir())
            raise KeyboardInterrupt

        monkeypatch.setattr(Lower, "run", fail)
        with pytest.raises(KeyboardInterrupt):
            trtpipe.build(
                onnx.load(net), tmp_path / "out", precision="int8", shapes=SHAPES, calib_data=iter([X[:8]]), **usual
            )
        assert len(seen) >= 2, "the graph and the samples"
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shape", [(True, 3, 8, 8), [False, 3, 8, 8]])
def test_a_boolean_is_no_length(net, usual, shape):
    with pytest.raises(InputError, match=r"shapes.*x.*neither true nor false"):
        trtpipe.make_job(net, shapes={"x": shape}, **usual)
