"""Nodes of a Ray cluster that cannot work, or go away; Ray itself is replaced, its real clusters are in test_ray.py."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import trtpipe
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.errors import HostError
from trtpipe.farm.scheduler import Schedule
from trtpipe.farm.tasks import Needs, Task, TaskReply, TaskRequest
from trtpipe.progress import NullProgress

ray_cluster = pytest.importorskip("trtpipe.farm.ray_cluster", reason="needs ray", exc_type=ImportError)
DONE = TaskReply(worker="w", seconds=0.0).to_line()


class Function:
    """A remote function that ends at once where a node has what it wants, and waits for ever otherwise."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._future: Future[str] = Future()

    def options(self, *, resources: dict[str, float], num_cpus: int, name: str) -> Function:
        there = any(set(resources) <= set(node) for node in self._cluster.resources)
        found = Function(self._cluster)
        if there:
            found._future.set_result(DONE)
        return found

    def remote(self, _: str) -> Function:
        return self

    def future(self) -> Future[str]:
        return self._future


class Cluster:
    """What is used of Ray."""

    def __init__(self, *resources: dict[str, float]) -> None:
        self.resources = list(resources)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "NodeManagerHostname": "n", "Resources": each} for each in self.resources]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0}

    def remote(self, max_retries: int) -> Callable[[object], Function]:
        return lambda _: Function(self)

    def is_initialized(self) -> bool:
        return True

    def shutdown(self) -> None: ...

    def cancel(self, reference: object, *, force: bool) -> None: ...


def node(**more: float) -> dict[str, float]:
    return {"CPU": 4.0, f"trtpipe-{trtpipe.__version__}": 1000.0, **more}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster(node(), node(**{"null-1": 1000.0}))
    monkeypatch.setattr(ray_cluster, "ray", found)
    monkeypatch.setattr(ray_cluster, "_connect", lambda address, settings: None)
    monkeypatch.setattr(ray_cluster, "_SECONDS", 0.01)
    monkeypatch.setattr(ray_cluster, "_RETURN_SECONDS", 0.05)
    return found


def task(number: int, flavor: str) -> Task:
    request = TaskRequest(
        trtpipe="1", seal="", source="a.onnx", profile=DeploymentProfile(), recipe=CalibrationRecipe(),
        backend="null", target="sm89", stages=("export",), last=False,
    )  # fmt: skip
    return Task(number, f"t{number}", Needs(flavor=flavor), request, (), ("export",))


def test_a_task_whose_only_node_is_gone_ends_and_others_go_on(cluster: Cluster, tmp_path: Path) -> None:
    workers = ray_cluster.RayWorkers("h:1", Settings(cache_dir=tmp_path))
    del cluster.resources[1]
    replies = Schedule([task(0, "null"), task(1, "")], workers, NullProgress()).run()
    error = replies[0].error
    assert error is not None
    assert (error.exit_code, "null-1" in error.message) == (6, True)
    assert replies[1].error is None


def test_a_node_without_cpus_is_none(cluster: Cluster, tmp_path: Path) -> None:
    cluster.resources = [node(CPU=0.0)]
    with pytest.raises(HostError, match="with CPUs"):
        ray_cluster.RayWorkers("h:1", Settings(cache_dir=tmp_path))
