from __future__ import annotations

import pytest
from packages import record

from trtpipe.delivery.record import Plan
from trtpipe.errors import HostError
from trtpipe.runtime.plans import Machine, choose_plan, why_not

RTX = {"tensorrt-rtx": "1.7.1.116"}


def plan(target: str = "sm89", flavor: str = "tensorrt-rtx", version: str = "1.7.1.116", **more: object) -> Plan:
    return Plan(f"{target}-{flavor}-{version}.plan", flavor, version, target, "0" * 64, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "machine", "word"),
    [
        (plan(), Machine((8, 9), RTX), ""),
        (plan(version="1.7.1.200"), Machine((8, 9), RTX), ""),
        (plan("sm120"), Machine((12, 0), RTX), ""),
        (plan("sm86"), Machine((8, 9), RTX), "it is for sm86"),
        (plan("sm86", and_later=True), Machine((8, 9), RTX), ""),
        (plan("sm120", and_later=True), Machine((8, 9), RTX), "it is for sm120"),
        (plan(version="1.6.0"), Machine((8, 9), RTX), "1.6.0 built it, 1.7.1.116 is installed"),
        (plan(version="1.6.0", version_compatible=True), Machine((8, 9), RTX), ""),
        (plan(version="1.8.0", version_compatible=True), Machine((8, 9), RTX), "1.8.0 built it"),
        (plan(flavor="tensorrt", version="11.4.0"), Machine((8, 9), RTX), "tensorrt 11.4.0, which is not installed"),
        (plan(flavor="null", version="1"), Machine((8, 9), RTX), "placeholder"),
    ],
)
def test_why_a_plan_does_not_run(made: Plan, machine: Machine, word: str) -> None:
    reason = why_not(made, machine)
    assert word in reason
    assert bool(word) == bool(reason)


def test_the_plan_made_for_the_gpu_is_preferred_then_the_newest() -> None:
    flavors = {"tensorrt-rtx": "1.7.1.116", "tensorrt": "11.4.0"}
    older, exact = plan("sm86", and_later=True), plan("sm89")
    newest = plan("sm89", flavor="tensorrt", version="11.4.0")
    for order in ((older, exact), (exact, older)):
        assert choose_plan(record(plans=order), Machine((8, 9), flavors), "p") == exact
    assert choose_plan(record(plans=(exact, newest, older)), Machine((8, 9), flavors), "p") == newest


def test_where_none_fits_every_plan_is_told_of() -> None:
    model = record(plans=(plan("sm86"), plan("sm89", flavor="tensorrt", version="11.4.0")))
    with pytest.raises(HostError) as caught:
        choose_plan(model, Machine((8, 9), RTX), "pkg")
    for word in ("pkg", "sm89", "it is for sm86", "which is not installed"):
        assert word in caught.value.message


def test_a_package_without_plans() -> None:
    with pytest.raises(HostError, match="it has no plan"):
        choose_plan(record(plans=()), Machine((8, 9), RTX), "pkg")


def test_this_machine_has_what_is_installed_here() -> None:
    from importlib import metadata

    pytest.importorskip("tensorrt_rtx")
    assert Machine.here((8, 9)).flavors["tensorrt-rtx"] == metadata.version("tensorrt_rtx")
