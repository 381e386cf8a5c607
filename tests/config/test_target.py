from __future__ import annotations

import pytest

from trtpipe.backends.engine_file import RTX_TARGETS
from trtpipe.config.target import TARGETS, Support, find_target
from trtpipe.errors import InputError


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sm89", "sm89"),
        ("SM_89", "sm89"),
        ("sm-89", "sm89"),
        ("8.9", "sm89"),
        ("12.0", "sm120"),
        ("10.3", "sm103"),
        ("rtx4090", "sm89"),
        ("RTX 4090", "sm89"),
        ("rtx-4090", "sm89"),
        ("RTX A6000", "sm86"),
        ("orin", "sm87"),
        ("agx-orin", "sm87"),
        ("AGX Orin", "sm87"),
        ("agx_orin", "sm87"),
        ("orin nano", "sm87"),
        (" h100 ", "sm90"),
        ("A100", "sm80"),
        ("T4", "sm75"),
        ("rtx5090", "sm120"),
        ("dgx spark", "sm121"),
    ],
)
def test_people_write_a_target_in_many_ways(text: str, name: str) -> None:
    assert find_target(text).name == name


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [("rtx409", "rtx4090"), ("orim", "orin"), ("agx orim", "agx-orin"), ("h10", "h100")],
)
def test_a_near_miss_gets_a_suggestion(text: str, suggestion: str) -> None:
    with pytest.raises(InputError, match=f"unknown target '{text}'") as caught:
        find_target(text)
    assert f"did you mean '{suggestion}'?" in caught.value.remedy
    assert "sm120" in caught.value.remedy


@pytest.mark.parametrize("text", ["", " ", "-", "1.20", ".89", "8.", "8.9.0", "89", "gpu", "8.9\n\n8.9"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="unknown target"):
        find_target(text)


def test_names_and_aliases_are_unique_and_found() -> None:
    names = [name for target in TARGETS for name in (target.name, *target.aliases)]
    assert len(set(names)) == len(names)
    for target in TARGETS:
        for name in (target.name, *target.aliases):
            assert find_target(name) is target


@pytest.mark.parametrize(
    ("name", "capability"), [("sm75", (7, 5)), ("sm89", (8, 9)), ("sm100", (10, 0)), ("sm121", (12, 1))]
)
def test_capability(name: str, capability: tuple[int, int]) -> None:
    target = find_target(name)
    assert target.capability == capability
    assert find_target(".".join(map(str, capability))) is target
    assert str(target) == name


@pytest.mark.parametrize(
    ("dtype", "first"), [("int8", (7, 5)), ("bfloat16", (8, 0)), ("float8_e4m3fn", (8, 9)), ("float4_e2m1fn", (10, 0))]
)
def test_element_types_came_with_a_capability(dtype: str, first: tuple[int, int]) -> None:
    """From NVIDIA's support matrix: INT8 since Turing, BF16 since Ampere, FP8 since Ada, FP4 since Blackwell."""
    for target in TARGETS:
        assert (dtype in {form.storage for form in target.formats}) == (target.capability >= first)


class TestSupport:
    """Which versions of TensorRT build for what: NVIDIA's support matrices and release notes."""

    @pytest.mark.parametrize(
        ("name", "version", "does"),
        [
            ("orin", "10.3.0", True),
            ("orin", "10.16.1.11", True),
            ("orin", "11.0.0", False),
            ("orin", "11.4.0.106", False),
            ("orin", "11.4.1", True),
            ("orin", "11.5.0", True),
            ("orin", "12.0", True),
            ("thor", "10.12.0", False),
            ("thor", "10.13.0", True),
            ("thor", "11.3.0", False),
            ("thor", "11.4.1.2", True),
            ("b200", "10.7.0", False),
            ("b200", "10.8.0", True),
            ("h100", "11.4.0.106", True),
            ("h100", "10.2.0", False),
            ("dgx-spark", "10.13.3", False),
            ("dgx-spark", "10.14.1", True),
        ],
    )
    def test_tensorrt(self, name: str, version: str, does: bool) -> None:
        assert find_target(name).tensorrt.includes(version) == does

    def test_a_version_nobody_can_read_is_not_held_against_it(self) -> None:
        assert find_target("h100").tensorrt.includes("")

    def test_rtx_builds_for_what_its_plans_have_a_bit_for(self) -> None:
        assert {target.name for target in TARGETS if target.rtx is not None} == set(RTX_TARGETS)

    def test_dla_is_on_orin_alone(self) -> None:
        assert [target.name for target in TARGETS if target.dla] == ["sm87"]

    def test_in_words(self) -> None:
        assert str(Support((10, 3))) == "10.3 and newer"
        assert str(Support((10, 3), ((11,), (11, 4, 1)))) == "10.3 to 10.x, 11.4.1 and newer"


@pytest.mark.parametrize("name", ["sm101", "10.1", "thor", "sm110", "11.0"])
def test_thor_has_two_capabilities(name: str) -> None:
    assert find_target(name).name == "sm110"
