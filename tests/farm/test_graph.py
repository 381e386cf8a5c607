"""What cells share, and where their tasks can run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.farm.graph import Build, Graph, graph_of
from trtpipe.farm.tasks import Offer

OFFER = Offer(name="a", trtpipe="1", flavors={"null": "1"})


def build(folder: Path, cell: int, **changes: Any) -> Build:
    profile = {"precision": changes.pop("precision", "int8"), "targets": [changes.get("target", "sm89")]}
    given: dict[str, Any] = {
        "cell": cell,
        "label": f"cell {cell}",
        "source": str(folder / "one.onnx"),
        "profile": DeploymentProfile.model_validate(profile | {"backend": "null"}),
        "recipe": CalibrationRecipe.model_validate({"data": {"source": str(folder / "data.npz")}}),
        "backend": "null",
        "version": "",
        "target": "sm89",
    }
    return Build(**(given | changes))


def graph(folder: Path, settings: Settings, *changes: dict[str, Any], shards: int = 1, offer: Offer = OFFER) -> Graph:
    builds = [build(folder, number, **each) for number, each in enumerate(changes)]
    return graph_of(builds, [offer], settings, shards=shards)


def stages(graph: Graph) -> Counter[str]:
    return Counter(stage for task in graph.tasks for stage in task.own)


def test_one_calibration_serves_all_targets(folder: Path, settings: Settings) -> None:
    found = graph(folder, settings, {}, {"target": "sm120"}, {"target": "sm86"})
    assert (stages(found)["observe"], stages(found)["calibrate"], stages(found)["compile"]) == (1, 1, 3)


def test_a_version_of_the_builder_counts_from_lowering_on(folder: Path, settings: Settings) -> None:
    found = graph(folder, settings, {"version": "1"}, {"version": "2"})
    assert (stages(found)["calibrate"], stages(found)["lower"]) == (1, 2)


def test_a_gpu_counts_where_the_version_is(folder: Path, settings: Settings) -> None:
    """A node with the GPU and another version can do neither."""
    offers = [Offer(name="a", trtpipe="1", flavors={"null": "1"}, gpus=("sm89",)),
              Offer(name="b", trtpipe="1", flavors={"null": "2"})]  # fmt: skip
    builds = [build(folder, number, version=version) for number, version in enumerate("12")]
    found = graph_of(builds, offers, settings)
    needs = [found.tasks[number].needs for number in found.last]
    assert [(each.version, each.gpu) for each in needs] == [("1", "sm89"), ("2", "")]
    assert all(any(offer.serves(task.needs) for offer in offers) for task in found.tasks)


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({"recipe": CalibrationRecipe.model_validate({"data": {"source": "data.npz", "samples": 5}})}, None),
        ({"source": "two.onnx"}, None),
        ({"precision": "fp32"}, "simplify"),
    ],
)
def test_what_differs_is_not_shared(
    folder: Path, settings: Settings, changes: dict[str, Any], shared: str | None
) -> None:
    if "source" in changes:
        changes = {"source": str(folder / changes["source"])}
    found = graph(folder, settings, {}, changes)
    assert stages(found)["compile"] == 2
    assert stages(found)["simplify"] == (1 if shared else 2)


def test_equal_cells_are_one(folder: Path, settings: Settings) -> None:
    found = graph(folder, settings, {}, {})
    assert found.last[0] == found.last[1]


def test_a_task_comes_after_those_it_waits_for(folder: Path, settings: Settings) -> None:
    found = graph(folder, settings, {}, {"target": "sm120"}, shards=4)
    assert all(before < task.number for task in found.tasks for before in task.after)
    parts = [task for task in found.tasks if task.request.shard is not None]
    assert [task.request.shard for task in parts] == [(index, 4) for index in range(4)]
    merge = next(task for task in found.tasks if "observe" in task.own and task.request.shard is None)
    assert set(merge.after) == {task.number for task in parts}


def test_samples_that_may_be_skipped_are_not_split(folder: Path, settings: Settings) -> None:
    data = {"source": str(folder / "data.npz"), "skip_bad_samples": 1}
    recipe = CalibrationRecipe.model_validate({"data": data})
    assert all(task.request.shard is None for task in graph(folder, settings, {"recipe": recipe}, shards=4).tasks)


def test_engines_run_where_their_gpu_is_if_there_is_one(folder: Path, settings: Settings) -> None:
    with_gpu = OFFER.model_copy(update={"gpus": ("sm89",)})
    found = graph(folder, settings, {}, {"target": "sm120"}, offer=with_gpu)
    needs = {task.request.target: task.needs for task in found.tasks if "measure" in task.own}
    assert (needs["sm89"].gpu, needs["sm120"].gpu) == ("sm89", "")


@pytest.mark.parametrize(
    ("offered", "wanted", "serves"), [("1.7.1.116", "1.7", True), ("1.70", "1.7", False), ("1.7", "", True)]
)
def test_a_version_is_meant_with_its_releases(offered: str, wanted: str, serves: bool) -> None:
    from trtpipe.farm.tasks import Needs

    offer = Offer(name="a", trtpipe="1", flavors={"tensorrt-rtx": offered})
    assert offer.serves(Needs(flavor="tensorrt-rtx", version=wanted)) is serves
