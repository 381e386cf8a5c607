"""Engines for several targets: one plan for all of them, each its own, and what one failure does."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from trtpipe.api import stages
from trtpipe.backends.base import missing
from trtpipe.backends.engine_file import read_header
from trtpipe.backends.null import Null
from trtpipe.engine.record import EngineRecord
from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor
from trtpipe.errors import BuildError, InputError, OutOfMemory, OutOfTime
from trtpipe.pipeline.pipeline import opened, stages_named
from trtpipe.stages import compile as stage

TARGETS = ["sm86", "sm89", "sm120"]
ENGINES = [f"{target}.plan" for target in TARGETS]


def compiled(world, listener, job):
    """The compile steps of a run that starts from the lowered graph."""
    with opened(job, listener) as pipeline, pipeline.given({"lowered": world.model}) as given:
        return pipeline.run(stages_named("compile"), given)


class Sharing(Null):
    """A null back-end that can build one plan for several targets, remembers what it built and fails for some."""

    def __init__(self):
        super().__init__()
        self.asked = []
        self.bad = set()
        self.wait = lambda: None

    def shareable(self, targets):
        return tuple(targets)

    def build(self, request, progress):
        if len(request.targets) == 1:
            self.wait()
        self.asked.append(tuple(target.name for target in request.targets))
        if failing := self.bad & set(self.asked[-1]):
            raise BuildError(f"{min(failing)} cannot fuse", "use another target")
        record = super().build(replace(request, targets=request.targets[:1]), progress)
        return record.model_copy(update={"targets": self.asked[-1]})


@pytest.fixture
def backend(monkeypatch):
    sharing = Sharing()
    monkeypatch.setattr(stage, "load_backend", lambda name: sharing)
    return sharing


class TestShared:
    def test_one_build_serves_all(self, new_world, heard_all, backend):
        steps = compiled(new_world, heard_all, new_world.job(targets=TARGETS))
        assert backend.asked == [tuple(TARGETS)]
        assert [step.state for step in steps] == ["built"] * 3
        assert [step.artifact.files[0].name for step in steps] == ENGINES
        assert len({step.artifact.files[0].sha256 for step in steps}) == 1
        records = [EngineRecord.read(step.artifact.sidecar) for step in steps]
        assert [found.target for found in records] == TARGETS
        assert {found.targets for found in records} == {tuple(TARGETS)}
        assert heard_all.steps == [("compile sm86, sm89, sm120", "built")]

    def test_they_are_found_again_and_stand_for_this_set_only(self, new_world, heard_all, backend):
        compiled(new_world, heard_all, new_world.job(targets=TARGETS))
        again = compiled(new_world, heard_all, new_world.job(targets=TARGETS))
        assert [step.state for step in again] == ["hit"] * 3
        compiled(new_world, heard_all, new_world.job(targets=["sm89"]))
        assert backend.asked == [tuple(TARGETS), ("sm89",)]

    def test_what_the_builder_says_is_said_once_and_again_where_nothing_is_built(
        self, new_world, heard_all, backend, monkeypatch
    ):
        build = backend.build
        said = {"warnings": ("be careful",), "notes": ("differs",)}
        monkeypatch.setattr(backend, "build", lambda *args: build(*args).model_copy(update=said))
        for count in (1, 2):
            compiled(new_world, heard_all, new_world.job(targets=TARGETS))
            assert heard_all.notes == [f"sm86, sm89, sm120: {text}" for text in ("null: be careful", "differs")] * count
        assert len(backend.asked) == 1

    def test_where_one_fails_each_gets_its_own(self, new_world, heard_all, backend):
        backend.bad.add("sm89")
        steps = compiled(new_world, heard_all, new_world.job(targets=TARGETS))
        assert backend.asked[0] == tuple(TARGETS)
        assert sorted(backend.asked[1:]) == [("sm120",), ("sm86",), ("sm89",)]
        assert [step.state for step in steps] == ["built", "failed", "built"]
        assert any("each gets its own: sm89 cannot fuse" in note for note in heard_all.notes)
        assert heard_all.warnings == ["compile sm89: sm89 cannot fuse (use another target)"]

    def test_targets_that_lack_the_type_do_not_spoil_it_for_the_others(self, new_world, heard_all, backend):
        compiled(new_world, heard_all, new_world.job(targets=TARGETS, precision="fp8"))
        assert backend.asked == [("sm89", "sm120"), ("sm86",)]

    @pytest.mark.parametrize("error", [OutOfMemory, OutOfTime])
    def test_what_would_happen_again_is_not_tried_again(self, new_world, heard_all, backend, monkeypatch, error):
        def fail(*arguments):
            backend.asked.append("shared")
            raise error("too much", "use more")

        monkeypatch.setattr(backend, "build", fail)
        with pytest.raises(error):
            compiled(new_world, heard_all, new_world.job(targets=TARGETS))
        assert backend.asked == ["shared"]
        assert len(heard_all.warnings) == 3

    def test_the_profile_can_ask_for_plans_of_their_own(self, new_world, heard_all, backend):
        compiled(new_world, heard_all, new_world.job(targets=TARGETS, build={"shared_plan": False}))
        assert sorted(backend.asked) == [("sm120",), ("sm86",), ("sm89",)]


class Reporting(Sharing):
    """One that reports the engines: kernels and activation memory, by the targets of the plan."""

    quick_reports = True

    def __init__(self, figures):
        super().__init__()
        self.figures = figures

    def build(self, request, progress):
        record = super().build(request, progress)
        names = tuple(target.name for target in request.targets)
        kernels, memory = self.figures.get(names, (10, 100))
        tensor = EngineTensor(name="t", type="Half", dims=(1,))
        layers = tuple(EngineLayer(name=str(i), kind="kgen", inputs=(tensor,)) for i in range(kernels))
        report = EngineReport(source="log", layers=layers)
        return record.model_copy(
            update={"report": report, "activation_bytes": memory, "target": names[0], "targets": names}
        )


class TestWorthSharing:
    """A plan for all is taken only where no target gets a better one of its own."""

    @pytest.fixture
    def steps(self, new_world, heard_all, monkeypatch):
        def run(figures):
            backend = Reporting(figures)
            monkeypatch.setattr(stage, "load_backend", lambda name: backend)
            made = compiled(new_world, heard_all, new_world.job(targets=TARGETS))
            assert [step.state for step in made] == ["built"] * 3
            assert [step.artifact.files[0].name for step in made] == ENGINES
            assert len(set(backend.asked)) == len(backend.asked), "the plans that were compared are those that are kept"
            return [EngineRecord.read(step.artifact.sidecar) for step in made]

        return run

    def test_equal_plans_are_one(self, steps):
        records = steps({})
        assert {found.targets for found in records} == {tuple(TARGETS)}
        assert [found.target for found in records] == TARGETS

    @pytest.mark.parametrize("own", [(9, 100), (10, 99), (9, 200)])
    def test_one_with_fewer_kernels_or_less_memory_gets_its_own_and_the_others_share(self, steps, heard_all, own):
        records = steps({("sm89",): own})
        assert [found.targets for found in records] == [("sm86", "sm120"), ("sm89",), ("sm86", "sm120")]
        assert [found.target for found in records] == TARGETS
        assert records[1].activation_bytes == own[1]
        assert any(
            note.startswith("no plan for sm86, sm89, sm120 together") and note.endswith("for sm89")
            for note in heard_all.notes
        )

    def test_each_gets_its_own_where_no_two_can_share(self, steps):
        records = steps({("sm89",): (9, 100), ("sm86", "sm120"): (11, 100)})
        assert [found.targets for found in records] == [("sm86",), ("sm89",), ("sm120",)]

    def test_equal_ones_share_with_their_neighbors_where_a_plan_for_all_is_worse(self, steps):
        records = steps({tuple(TARGETS): (12, 100)})
        assert [found.targets for found in records] == [("sm86", "sm89"), ("sm86", "sm89"), ("sm120",)]

    def test_equal_ones_that_cannot_share_even_so(self, steps):
        records = steps({tuple(TARGETS): (10, 101), ("sm86", "sm89"): (10, 101)})
        assert [found.targets for found in records] == [("sm86",), ("sm89",), ("sm120",)]

    def test_one_that_cannot_be_built_leaves_the_others_their_plan(self, new_world, heard_all, monkeypatch):
        backend = Reporting({})
        backend.bad.add("sm120")
        monkeypatch.setattr(stage, "load_backend", lambda name: backend)
        steps = compiled(new_world, heard_all, new_world.job(targets=TARGETS))
        assert [step.state for step in steps] == ["built", "built", "failed"]
        records = [EngineRecord.read(step.artifact.sidecar) for step in steps if step.artifact]
        assert {found.targets for found in records} == {("sm86", "sm89")}

    def test_a_plan_for_several_that_cannot_be_built_leaves_each_its_own(self, steps, monkeypatch):
        build = Reporting.build

        def refuse(self, request, progress):
            if len(request.targets) > 1:
                self.asked.append(tuple(map(str, request.targets)))
                raise BuildError("no common kernel", "build apart")
            return build(self, request, progress)

        monkeypatch.setattr(Reporting, "build", refuse)
        assert [found.targets for found in steps({})] == [("sm86",), ("sm89",), ("sm120",)]

    def test_worse_ones_do_not_count(self, steps):
        records = steps({("sm89",): (11, 100), ("sm120",): (10, 101)})
        assert {found.targets for found in records} == {tuple(TARGETS)}


class TestSideBySide:
    @pytest.fixture(autouse=True)
    def alone(self, backend, monkeypatch):
        monkeypatch.setattr(backend, "shareable", lambda targets: ())

    def job(self, world, jobs, **options):
        job = world.job(targets=TARGETS, **options)
        return replace(job, settings=replace(job.settings, jobs=jobs))

    def test_builds_run_at_once(self, new_world, heard_all, backend):
        barrier = threading.Barrier(3)
        backend.wait = lambda: barrier.wait(30)
        steps = compiled(new_world, heard_all, self.job(new_world, 3))
        assert [step.label for step in steps] == ["compile sm86", "compile sm89", "compile sm120"]
        assert [step.state for step in steps] == ["built"] * 3

    @pytest.mark.parametrize("jobs", [1, 3])
    def test_the_engines_of_the_others_are_kept(self, new_world, heard_all, backend, jobs):
        backend.bad.add("sm86")
        steps = compiled(new_world, heard_all, self.job(new_world, jobs))
        assert [step.state for step in steps] == ["failed", "built", "built"]
        backend.bad.clear()
        backend.asked.clear()
        again = compiled(new_world, heard_all, self.job(new_world, jobs))
        assert [step.state for step in again] == ["built", "hit", "hit"]
        assert backend.asked == [("sm86",)]

    @pytest.mark.parametrize("jobs", [1, 3])
    def test_if_all_fail_the_first_error_is_raised(self, new_world, heard_all, backend, jobs):
        backend.bad.update(TARGETS)
        with pytest.raises(BuildError, match="cannot fuse"):
            compiled(new_world, heard_all, self.job(new_world, jobs))
        assert len(heard_all.warnings) == 3

    @pytest.mark.parametrize("jobs", [1, 3])
    def test_what_is_no_fault_of_a_target_stops_the_run(self, new_world, heard_all, backend, monkeypatch, jobs):
        def wrong(*arguments):
            raise InputError("the profile is wrong", "correct it")

        monkeypatch.setattr(backend, "build", wrong)
        with pytest.raises(InputError):
            compiled(new_world, heard_all, self.job(new_world, jobs))


class TestOutput:
    def test_an_incomplete_bundle_goes_beside_the_earlier_one(self, world, heard_all, backend):
        out = world.folder / "out"
        whole = stages.build(world.job(targets=TARGETS), out, progress=heard_all)
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        backend.bad.add("sm120")
        partly = stages.build(world.job(targets=TARGETS, build={"opt_level": 1}), out, progress=heard_all)
        assert whole.out == out
        assert [step.label for step in partly.failed] == ["compile sm120"]
        assert partly.out == world.folder / "out.rejected"
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
        assert {path.name for path in partly.out.glob("*.plan")} == {"sm86.plan", "sm89.plan"}

    def test_likewise_where_only_engines_are_made(self, new_world, heard_all, backend):
        backend.bad.add("sm120")
        job = new_world.job(targets=TARGETS)
        result = stages.compile(
            new_world.model, new_world.folder / "out", profile=job.profile, settings=job.settings, progress=heard_all
        )
        assert result.out == new_world.folder / "out.rejected"
        assert not (new_world.folder / "out").exists()


@pytest.mark.skipif(missing("tensorrt-rtx") is not None, reason="needs tensorrt-rtx")
class TestForReal:
    """TensorRT-RTX builds one plan for all of them, but never together with Turing."""

    def test_a_plan_for_three_and_one_of_its_own(self, new_world, heard_all):
        job = new_world.job(targets=["sm75", *TARGETS], backend="tensorrt-rtx", precision="fp32")
        steps = compiled(new_world, heard_all, job)
        headers = {step.label: read_header(Path(step.artifact.path)).targets for step in steps if step.artifact}
        assert headers["compile sm86"] == headers["compile sm120"] == ("sm86", "sm89", "sm120")
        states = {step.label: step.state for step in steps}
        assert states["compile sm86"] == states["compile sm89"] == states["compile sm120"] == "built"
        assert states["compile sm75"] == "failed", "it has a float32 matrix product"
