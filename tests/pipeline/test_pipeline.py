"""The whole pipeline with the null back-end: what is built again when something changes, and what is never lost."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from models import conv_net, model, normal, save
from world import (
    AFTER_LOWER,
    ALL,
    BUNDLE,
    CALIBRATE,
    COMPILE,
    EXPORT,
    LOWER,
    MEASURE,
    OBSERVE,
    PROFILE,
    SHAPES,
    SIMPLIFY,
    VERIFY,
    WIDER,
    World,
    built_steps,
    states,
    write_data,
)

from trtpipe.artifact import Artifact
from trtpipe.calibration.ranges import Ranges
from trtpipe.config.settings import Settings
from trtpipe.config.target import find_target
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import HostError, InputError
from trtpipe.pipeline import executor
from trtpipe.pipeline.pipeline import STAGES, Pipeline, opened, stages_named
from trtpipe.pipeline.run_state import RunState, artifact_from_file
from trtpipe.progress import NullProgress
from trtpipe.report.manifest import Manifest

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.usefixtures("in_process", "no_waiting_for_the_disk")


class TestFirstAndSecond:
    def test_everything_is_built_once(self, new_world, heard_all):
        plan = new_world.plan(new_world.job(), heard_all)
        assert states(plan) == {EXPORT: "to build"} | dict.fromkeys(ALL[1:], "undecided")
        steps = new_world.run(new_world.job(), heard_all)
        assert states(steps) == dict.fromkeys(ALL, "built")
        assert heard_all.steps == [(label, "built") for label in ALL]
        kinds = ["model", "simplified", "statistics", "ranges", "lowered", "engine", "parity", "latency", "manifest"]
        assert [step.artifact.kind for step in steps] == kinds
        assert all(step.because == "never built before" for step in steps)
        assert len({step.key for step in steps}) == 9

    def test_the_second_time_nothing_is_done(self, world, heard_all, monkeypatch):
        for stage in STAGES:
            monkeypatch.setattr(type(stage), "run", lambda *args: pytest.fail("a stage worked"))
        steps = world.run(world.job(), heard_all)
        assert states(steps) == dict.fromkeys(ALL, "hit")
        assert states(world.plan(world.job(), heard_all)) == dict.fromkeys(ALL, "hit")

    def test_what_is_wrong_with_the_data_is_said_again(self, new_world, heard_all):
        said = []
        for _ in range(2):
            new_world.run(new_world.job(), heard_all)
            said.append([warning for warning in heard_all.warnings if "samples" in warning])
        assert len(said[1]) == 2 * len(said[0]) > 0

    def test_random_samples_are_said_again(self, new_world, heard_all):
        job = new_world.job(recipe={"data": {}, "evaluation": None}, precision="fp32")
        for _ in range(2):
            new_world.run(job, heard_all)
        assert ["random inputs" in warning for warning in heard_all.warnings] == [True, True]

    def test_a_metric_on_the_calibration_data_is_said_again(self, new_world, heard_all):
        data = {"source": str(new_world.folder / "eval.npz"), "labels": "labels"}
        for _ in range(2):
            new_world.run(new_world.job(recipe={"data": data}), heard_all)
        assert sum("the evaluation data is the calibration data" in text for text in heard_all.warnings) == 2

    def test_a_metric_that_brings_its_own_data_is_not_measured_on_the_calibration_data(self, new_world, heard_all):
        (new_world.folder / "own.py").write_text("def evaluate(run):\n    return {'score': 0.5}\n")
        evaluation = {"source": "", "metric": f"{new_world.folder / 'own.py'}:evaluate"}
        new_world.run(new_world.job(recipe={"evaluation": evaluation}), heard_all)
        assert not any("the evaluation data is the calibration data" in text for text in heard_all.warnings)

    def test_a_metric_on_data_that_calibration_has_seen_a_part_of(self, new_world, heard_all):
        data = {"source": str(new_world.folder / "eval.npz"), "labels": "labels", "batch": 1}
        with np.load(data["source"]) as file:
            every = dict(file)
        part = {**data, "source": str(new_world.folder / "part.npz")}
        np.savez(part["source"], **{name: value[3:] for name, value in every.items()})
        for calibrated, evaluated, seen in (
            (part, data, len(every["labels"]) - 3),
            (data, part, len(every["labels"]) - 3),
        ):
            heard_all.warnings.clear()
            new_world.run(
                new_world.job(recipe={"data": calibrated, "evaluation": {**evaluated, "metric": "top1"}}), heard_all
            )
            assert any(f"at least {seen} of the feeds" in text for text in heard_all.warnings), heard_all.warnings

    def test_a_pattern_that_matches_nothing_is_said_again(self, world, heard_all):
        said = []
        for state in ("built", "hit"):
            steps = world.run(world.job(keep=["nothing_of_this_name"]), heard_all)
            assert states(steps)[LOWER] == state
            said.append([warning for warning in heard_all.warnings if "nothing_of_this_name" in warning])
        assert [len(each) for each in said] == [1, 2]

    @pytest.mark.parametrize(
        ("precision", "observed", "calibrated"),
        [
            ("fp32", "skipped", "skipped"),
            ("fp16", "built", "skipped"),
            ("bf16", "built", "skipped"),
            ("fp8", "hit", "built"),  # corrections are judged in the precision they are for
            ("best", "built", "built"),
        ],
    )
    def test_every_precision_goes_all_the_way(self, world, heard_all, precision, observed, calibrated):
        steps = world.run(world.job(precision=precision), heard_all)
        assert (states(steps)[OBSERVE], states(steps)[CALIBRATE]) == (observed, calibrated)
        assert {states(steps)[label] for label in AFTER_LOWER} == {"built"}


def change_data(world):
    write_data(world.folder, seed=7)


def change_calibration_data(world):
    np.savez(world.folder / "calib.npz", x=normal(24, 3, 8, 8, seed=9))


def change_labels(world):
    with np.load(world.folder / "eval.npz") as old:
        np.savez(world.folder / "eval.npz", x=old["x"], labels=(old["labels"] + 1) % 5)


def change_evaluated_inputs(world):
    with np.load(world.folder / "eval.npz") as old:
        np.savez(world.folder / "eval.npz", x=old["x"][::-1], labels=old["labels"])


def change_weights(world):
    proto = conv_net()
    proto.graph.initializer[0].CopyFrom(_scaled(proto.graph.initializer[0]))
    save(proto, world.model)


def rename_a_node(world):
    proto = conv_net()
    proto.graph.node[2].name = "renamed"
    save(proto, world.model)


def _scaled(tensor):
    import onnx

    return onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(2), tensor.name)


#: what is changed, in the world or in the job; what is built again; the reason the first of these steps gives.
#: Where the same statistics are found again, ranges are not chosen again.
CHANGES: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "nothing": ({}, (), ""),
    "precision to fp8": ({"precision": "fp8"}, (CALIBRATE, *AFTER_LOWER), "settings.format"),
    "percentile": ({"recipe": {"percentile": 99.0}}, ALL[3:], "settings.percentile"),
    "method": ({"recipe": {"method": "max"}}, ALL[3:], "settings.method"),
    "method that goes by the format": ({"recipe": {"method": "mse"}}, ALL[3:], "settings.method"),
    "kept nodes": ({"keep": ["*"]}, (CALIBRATE, *AFTER_LOWER), "settings.trials.quantization.keep"),
    "another target": ({"targets": ["sm120"]}, ("compile sm120", VERIFY, MEASURE, BUNDLE), "never built before"),
    "one target more": (
        {"targets": ["sm89", "sm120"]}, ("compile sm120", VERIFY, MEASURE, BUNDLE), "never built before"
    ),
    "tolerance": ({"tolerance": {"atol": 50.0}}, (CALIBRATE, VERIFY, BUNDLE), "settings.gate.tolerance.atol"),
    "accuracy gate": ({"accuracy": {"max_drop": 0.5}}, (VERIFY, BUNDLE), "settings.limits.max_drop"),
    "latency settings": (
        {"latency": PROFILE["latency"] | {"duration": 0.002}}, (MEASURE, BUNDLE), "settings.latency.duration"
    ),
    "latency budget": (
        {"latency": PROFILE["latency"] | {"max_p99": 1.0}}, (BUNDLE,), "settings.profile.latency.max_p99"
    ),
    "builder option": ({"build": {"opt_level": 1}}, (COMPILE, MEASURE, BUNDLE), "settings.build.opt_level"),
    "limits of the builder": ({"build": {"time_limit": 99.0}}, (BUNDLE,), "settings.profile.build.time_limit"),
    "a description": ({"description": "words"}, (BUNDLE,), "settings.profile.description"),
    "shapes": ({"shapes": WIDER}, (SIMPLIFY, CALIBRATE, LOWER, COMPILE, VERIFY, MEASURE, BUNDLE), "settings.shapes.x"),
    "no simplification": ({"simplify": False}, (SIMPLIFY, OBSERVE, CALIBRATE, *AFTER_LOWER), "settings.onnxsim"),
    "calibration data": (change_calibration_data, ALL[2:], "inputs.calibration-data"),
    "evaluated inputs": (
        change_evaluated_inputs, (SIMPLIFY, VERIFY, MEASURE, BUNDLE), "inputs.first-samples"
    ),
    "labels": (change_labels, (VERIFY, BUNDLE), "inputs.evaluation-data"),
    "weights": (change_weights, ALL, "inputs.source"),
    "a node's name": (rename_a_node, (EXPORT, SIMPLIFY, OBSERVE, CALIBRATE, *AFTER_LOWER), "inputs.source"),
    "threads": ({"settings": {"threads": 1}}, (MEASURE, BUNDLE), "backend.threads"),  # they decide a latency on the CPU
    "limits of child processes": ({"settings": {"worker_seconds": 77.0, "worker_memory": 10**10}}, (), ""),
    "calibration batch": (
        {"recipe": {"data": {"batch": 8}}}, (OBSERVE, CALIBRATE, LOWER, VERIFY, BUNDLE), "inputs.calibration-data"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_built_again_when_this_changes(world, heard_all, name):
    change, expected, reason = CHANGES[name]
    options = {} if callable(change) else dict(change)
    if callable(change):
        change(world)
    if "settings" in options:
        options["settings"] = replace(Settings(cache_dir=world.folder / "cache"), **options["settings"])
    if "data" in options.get("recipe", {}):
        options["recipe"] = {"data": {"source": str(world.folder / "calib.npz"), **options["recipe"]["data"]}}
    job = world.job(**options)
    plan = {step.label: step for step in world.plan(job, heard_all)}
    steps = world.run(job, heard_all)
    found = built_steps(steps)
    assert found == expected
    assert {step.state for step in steps} <= {"built", "hit", "skipped"}
    if expected:
        first = next(step for step in steps if step.label == expected[0])
        assert reason in first.because
    # the plan told it all beforehand, as far as it could
    assert list(plan) == [step.label for step in steps]
    for step in steps:
        foretold = plan[step.label]
        assert foretold.state in {"built": ("to build", "undecided"), "hit": ("hit", "undecided")}.get(
            step.state, ("skipped",)
        )
        if foretold.key:
            assert foretold.key == step.key
    # and once it is done, nothing is left to do
    assert set(states(world.run(job, heard_all)).values()) <= {"hit", "skipped"}


#: Stages whose results depend on a tool: an ONNX source is taken by onnx alone, whatever exports PyTorch programs.
USERS = {
    "numpy": (SIMPLIFY, OBSERVE, CALIBRATE, LOWER, VERIFY, BUNDLE),
    "onnx": (EXPORT, SIMPLIFY, CALIBRATE, LOWER, BUNDLE),
    "onnx-ir": (EXPORT, SIMPLIFY, OBSERVE, CALIBRATE, LOWER, VERIFY, BUNDLE),
    "onnxruntime": (SIMPLIFY, OBSERVE, CALIBRATE, LOWER, VERIFY, MEASURE, BUNDLE),
    "onnxsim": (SIMPLIFY, BUNDLE),
    "polygraphy": (VERIFY, BUNDLE),
    "click": (),
}


@pytest.mark.parametrize("package", USERS)
def test_a_tools_version_changes_the_keys_of_the_stages_that_use_it(world, heard_all, monkeypatch, package):
    before = keys_of(world.run(world.job(), heard_all))
    real = executor.versions
    monkeypatch.setattr(
        executor, "versions",
        lambda names: {name: "999" if name == package else found for name, found in real(names).items()},
    )  # fmt: skip
    after = keys_of(world.run(world.job(), heard_all))
    changed = tuple(label for label in ALL if before[label] != after[label])
    assert changed == USERS[package]


def test_weights_in_another_file_count(new_world, heard_all):
    import onnx

    proto = conv_net()
    onnx.save(proto, new_world.model, save_as_external_data=True, location="w.bin", size_threshold=0)
    plan = new_world.plan(new_world.job(), heard_all)
    data = bytearray((new_world.folder / "w.bin").read_bytes())
    data[5] ^= 1
    (new_world.folder / "w.bin").write_bytes(data)
    assert plan[0].key != new_world.plan(new_world.job(), heard_all)[0].key


def keys_of(steps):
    return {step.label: step.key for step in steps}


class TestIrrelevant:
    def test_place_and_name_of_the_files(self, world, heard_all, tmp_path):
        elsewhere = World(tmp_path / "moved")
        shutil.copytree(world.folder, elsewhere.folder)
        shutil.rmtree(world.folder)
        assert set(states(elsewhere.run(elsewhere.job(), heard_all)).values()) == {"hit"}

    def test_the_models_own_name_only_stands_in_the_manifest(self, world, heard_all):
        world.model.rename(world.folder / "other.onnx")
        assert built_steps(world.run(world.job(source=world.folder / "other.onnx"), heard_all)) == (BUNDLE,)

    def test_times_of_the_files(self, world, heard_all):
        for path in world.folder.glob("*.*"):
            os.utime(path, (1, 1))
        assert built_steps(world.run(world.job(), heard_all)) == ()

    def test_the_working_folder(self, world, heard_all, monkeypatch, tmp_path):
        monkeypatch.chdir(world.folder)
        recipe = {"data": {"source": "calib.npz", "batch": 4},
                  "evaluation": {"source": "eval.npz", "labels": "labels", "batch": 8}}  # fmt: skip
        assert built_steps(world.run(world.job(source="net.onnx", recipe=recipe), heard_all)) == ()
        monkeypatch.chdir(tmp_path)
        assert built_steps(world.run(world.job(), heard_all)) == ()

    def test_the_order_of_targets_and_their_spelling(self, world, heard_all):
        assert built_steps(world.run(world.job(targets=["rtx4090"]), heard_all)) == ()


class TestEarlyComplaints:
    def worked(self, heard_all) -> list[str]:
        return [step for step, _ in heard_all.steps]

    def test_shapes_that_do_not_fit(self, new_world, heard_all):
        wrong = {"image": SHAPES["x"]}
        with pytest.raises(InputError, match="no such input"):
            new_world.run(new_world.job(shapes=wrong), heard_all)
        assert self.worked(heard_all)[-1] == SIMPLIFY

    def test_dynamic_inputs_without_shapes(self, new_world, heard_all):
        with pytest.raises(InputError, match="is dynamic"):
            new_world.run(new_world.job(shapes=()), heard_all)
        assert self.worked(heard_all)[-1] == SIMPLIFY

    def test_shapes_at_which_the_model_cannot_work(self, new_world, heard_all):
        proto = model(
            "(float[N,3,8,8] x) => (float[N,192] y) { sh = Shape<end=1>(x) z = Constant<value = int64[1] {0}>() "
            "p = Slice(table, z, sh, z) f = Flatten(x) y = Add(f, p) }",
            table=normal(3, 192),
        )
        save(proto, new_world.model)
        with pytest.raises(InputError, match="dimension 0 of input 'x' is 8 there"):
            new_world.run(new_world.job(), heard_all)
        assert self.worked(heard_all)[-2:] == [SIMPLIFY, OBSERVE], "before the first long stage"
        assert heard_all.steps[-1] == (OBSERVE, "failed")
        given = {"lowered": artifact_from_file("lowered", new_world.model)}
        job = new_world.job(precision="fp32", source=None)
        with (
            pytest.raises(InputError, match="cannot work at the largest shapes"),
            opened(job, heard_all) as pipeline,
        ):
            pipeline.run(stages_named("compile"), given)

    def test_a_tolerance_for_an_output_that_is_not_there(self, new_world, heard_all):
        with pytest.raises(InputError, match="tolerance for 'z': no such output"):
            new_world.run(new_world.job(tolerance={"outputs": {"z": {"atol": 1.0}}}), heard_all)

    def test_data_that_does_not_fit(self, new_world, heard_all):
        np.savez(new_world.folder / "calib.npz", z=normal(8, 3, 8, 8))
        with pytest.raises(InputError, match=r"calib\.npz"):
            new_world.run(new_world.job(), heard_all)

    def test_no_source(self, new_world, heard_all):
        with pytest.raises(InputError, match="no source was given"):
            new_world.run(new_world.job(source=None), heard_all)


class TestInferredShapes:
    """``--shapes auto``: the calibration data says which shapes the engines are for."""

    def test_shapes_are_those_of_the_data(self, new_world, heard_all):
        job = new_world.job(shapes="auto")
        assert next(iter(new_world.plan(job, heard_all))).state == "to build"
        steps = new_world.run(job, heard_all)
        (engine,) = (step.artifact for step in steps if step.label == COMPILE)
        (profile,) = EngineRecord.read(engine.sidecar).profiles
        assert profile["x"].to_dict() == {"min": [1, 3, 8, 8], "opt": [4, 3, 8, 8], "max": [4, 3, 8, 8]}
        settings = Manifest.read(steps[-1].artifact.path).settings["profile"]
        assert (settings["auto_shapes"], settings["shapes"]) == (True, [{"x": profile["x"].to_dict()}])
        assert "6 feeds: x 1x3x8x8 to 4x3x8x8, opt 4x3x8x8" in " ".join(heard_all.notes)
        assert states(new_world.run(job, heard_all)) == dict.fromkeys(ALL, "hit")
        assert states(new_world.plan(job, heard_all)) == dict.fromkeys(ALL, "hit")

    def test_other_data_gives_other_engines(self, new_world, heard_all):
        new_world.run(new_world.job(shapes="auto", precision="fp32"), heard_all)
        data = {"data": {"source": str(new_world.folder / "calib.npz"), "batch": 3}}
        steps = new_world.run(new_world.job(shapes="auto", precision="fp32", recipe=data), heard_all)
        assert states(steps)[COMPILE] == "built"

    def test_by_hand_comes_first(self, new_world, heard_all):
        steps = new_world.run(new_world.job(auto_shapes=True), heard_all)
        (engine,) = (step.artifact for step in steps if step.label == COMPILE)
        assert EngineRecord.read(engine.sidecar).profiles[0]["x"].max == (8, 3, 8, 8)

    def test_there_must_be_data(self, new_world, heard_all):
        none = {"data": {}, "evaluation": None}
        for options in ({}, {"allow_random": True}):
            job = new_world.job(shapes="auto", recipe=none, precision="fp32", **options)
            with pytest.raises(InputError, match="inferred from calibration data, and none was given") as caught:
                new_world.run(job, heard_all)
            assert "--calib-data" in caught.value.remedy


class TestRandomData:
    def test_only_by_name_and_on_record(self, new_world, heard_all):
        none = {"data": {}, "evaluation": None}
        with pytest.raises(InputError, match="needs calibration data"):
            new_world.run(new_world.job(recipe=none), heard_all)
        steps = new_world.run(new_world.job(recipe=none, allow_random=True), heard_all)
        (made,) = (step.artifact for step in steps if step.label == CALIBRATE)
        ranges = Ranges.read(made.path)
        assert "synthetic, seeded random" in ranges.data_summary.source
        assert "synthetic" in Manifest.read(steps[-1].artifact.path).calibration.source


class TestGiven:
    """A user can enter anywhere and replace any artifact by hand."""

    def test_enter_with_a_lowered_graph(self, new_world, heard_all):
        given = {"lowered": artifact_from_file("lowered", new_world.model)}
        job = new_world.job(precision="fp32", source=None)
        with opened(job, heard_all) as pipeline:
            steps = pipeline.run(stages_named("measure", "compile"), given)
        assert states(steps) == {COMPILE: "built", MEASURE: "built"}  # in the pipeline's order

    def test_an_edited_artifact_is_another_one(self, world, heard_all, tmp_path):
        graph = "(float[N,3,8,8] x) => (float[N,5] y) { p = GlobalAveragePool(x) f = Flatten(p) y = Gemm(f, v) }"
        edited = save(model(graph, v=normal(3, 5)), tmp_path / "simplified.onnx")
        with opened(world.job(precision="fp16"), heard_all) as pipeline:
            [step] = pipeline.run(stages_named("lower"), {"simplified": artifact_from_file("simplified", edited)})
        assert step.state == "built"
        assert step.because.startswith("changed: ")

    def test_files_as_artifacts(self, tmp_path):
        graph = artifact_from_file("model", save(conv_net(), tmp_path / "net.onnx"))
        assert (graph.kind, graph.path, [entry.name for entry in graph.files]) == (
            "model",
            tmp_path / "net.onnx",
            ["net.onnx"],
        )
        import onnx

        onnx.save(
            model("(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", w=normal(64, 64)), tmp_path / "big.onnx",
            save_as_external_data=True, location="big.bin", size_threshold=0,
        )  # fmt: skip
        assert [entry.name for entry in artifact_from_file("lowered", tmp_path / "big.onnx").files] == [
            "big.onnx",
            "big.bin",
        ]
        (tmp_path / "sm89.plan").write_bytes(b"plan")
        assert [entry.name for entry in artifact_from_file("engine", tmp_path / "sm89.plan", "sm89").files] == [
            "sm89.plan"
        ]
        (tmp_path / "sm89.plan.json").write_text("{}")
        engine = artifact_from_file("engine", tmp_path / "sm89.plan", "sm89")
        assert [entry.name for entry in engine.files] == ["sm89.plan", "sm89.plan.json"]
        assert (engine.label, engine.target) == ("engine:sm89", "sm89")
        for kind, name in (("model", "net.json"), ("ranges", "ranges.json")):
            with pytest.raises(InputError, match="no such file"):
                artifact_from_file(kind, tmp_path / name)


def test_stages_are_found_by_name_in_the_pipelines_order():
    assert [stage.name for stage in stages_named("lower", "export")] == ["export", "lower"]
    pytorch = {"reference", "capture"}  # only where the source, or the back-end, is PyTorch's
    assert [stage.name for stage in STAGES if stage.name not in pytorch] == [label.split()[0] for label in ALL]
    assert len({stage.produces for stage in STAGES}) == len(STAGES)


def test_an_empty_run(world, heard_all):
    with opened(world.job(), heard_all) as pipeline:
        assert isinstance(pipeline, Pipeline)
        assert pipeline.run((), {}) == ()


def test_targets_are_compared_by_what_they_are(world):
    assert world.job(targets=["rtx4090", "sm89"]).targets == (find_target("sm89"),)
    assert isinstance(world.run(world.job(), NullProgress())[0].artifact, Artifact)


def test_a_disk_that_fails_while_a_run_looks_at_what_was_made_is_named(new_world, heard_all, monkeypatch):
    def add(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(RunState, "add", add)
    with pytest.raises(HostError, match="input/output error") as caught:
        new_world.run(new_world.job(), heard_all)
    assert caught.value.remedy
    assert heard_all.steps == [("export", "failed")]
