from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from trtpipe.config.formats import Precision
from trtpipe.config.profile import (
    AccuracyGate,
    DeploymentProfile,
    MetricLimits,
    OutputTolerance,
    ShapeRange,
    Tolerance,
)
from trtpipe.config.tomlfile import FROM_FILE, dump_toml
from trtpipe.errors import InputError, RecipeError

if TYPE_CHECKING:
    from pathlib import Path


def load(tmp_path: Path, text: str) -> DeploymentProfile:
    (tmp_path / "p.toml").write_text(text)
    return DeploymentProfile.load(tmp_path / "p.toml")


FULL = """
description = "all of it"
precision = "int8"
targets = ["rtx4090", "8.7", "sm89"]
backend = "tensorrt-rtx"
keep = ["head/*"]
[shapes.x]
min = [1, 3, 224, 224]
opt = [8, 3, 224, 224]
max = [32, 3, 224, 224]
[tolerance]
atol = 0.1
[tolerance.outputs.logits]
stat = "max"
[accuracy]
max_drop = 0.02
[latency]
warmup = "500ms"
duration = "2s"
max_p99 = "2ms"
[build]
workspace = "4G"
opt_level = 5
time_limit = "10min"
"""


def test_a_full_profile(tmp_path: Path) -> None:
    profile = load(tmp_path, FULL)
    assert profile.precision == "int8"
    assert profile.targets == ("sm89", "sm87")
    assert profile.shapes[0]["x"].opt == (8, 3, 224, 224)
    assert profile.build.workspace == 4 * 1024**3
    assert profile.build.time_limit == 600
    assert (profile.latency.warmup, profile.latency.duration, profile.latency.max_p99) == (0.5, 2.0, 0.002)
    assert profile.accuracy.max_drop == 0.02


def test_a_profile_survives_the_way_to_json_and_back(tmp_path: Path) -> None:
    profile = load(tmp_path, FULL)
    profile.write(tmp_path / "p.json")
    assert DeploymentProfile.read(tmp_path / "p.json") == profile


def test_an_empty_profile_is_full_precision(tmp_path: Path) -> None:
    assert load(tmp_path, "") == DeploymentProfile()
    assert DeploymentProfile().precision == "fp32"


def test_one_or_several_optimization_profiles(tmp_path: Path) -> None:
    shape = "{min = [1], opt = [2], max = [3]}"
    one = load(tmp_path, f"shapes = {{x = {shape}}}")
    several = load(tmp_path, f"[[shapes]]\nx = {shape}\n[[shapes]]\nx = {shape}")
    assert (len(one.shapes), len(several.shapes)) == (1, 2)
    assert one.shapes[0] == several.shapes[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('precison = "int8"', "unknown key 'precison'"),
        ('precision = "int4"', "precision"),
        ('targets = ["rtx409"]', "targets.0: unknown target 'rtx409'; did you mean 'rtx4090'?"),
        ('targets = "sm89"', "targets: must be a list"),
        ("shapes = {x = {min = [1], opt = [2]}}", "key 'shapes.x.max' is missing"),
        ("shapes = {x = {min = [1], opt = [2], max = [1]}}", "shapes.x: dimension 0: min 1, opt 2, max 1"),
        ("shapes = {x = {min = [1], opt = [1, 2], max = [1]}}", "shapes.x: min, opt and max differ in rank: 1, 2, 1"),
        ("shapes = {x = {min = [-1], opt = [1], max = [1]}}", "shapes.x.min.0"),
        ("[latency]\nduration = inf", "latency.duration"),
        ("[latency]\nduration = nan", "latency.duration"),
        ("[latency]\nduration = -1", "latency.duration"),
        ('[latency]\nduration = "3"', "latency.duration: '3' has no unit: write 3ms or 3s"),
        ("[latency]\nmax_p99 = 0.5", "latency.max_p99: '0.5' has no unit"),
        ("[build]\nworkspace = 4096", "build.workspace: '4096' has no unit: write 4096M or 4096G"),
        (f'[latency]\nduration = "{"9" * 400}s"', "latency.duration"),
        ('[build]\nworkspace = "4X"', "build.workspace: '4X' is not a size"),
        (f'[build]\nworkspace = "{"9" * 400}G"', "build.workspace"),
        ("[build]\nworkspace = 0", "build.workspace"),
        ("[build]\nopt_level = 6", "build.opt_level"),
        ("[tolerance]\natol = inf", "tolerance.atol"),
        ("[tolerance]\nmin_cosine = 1.5", "tolerance.min_cosine"),
        ("[tolerance.outputs.y]\natoll = 1", "unknown key 'tolerance.outputs.y.atoll'"),
        ("[accuracy]\nmax_drop = -0.1", "accuracy.max_drop"),
        ("[export]\nopset = 12", "export.opset"),
        ("shapes = {x = {min = [true], opt = [1], max = [1]}}", "shapes.x.min: neither true nor false"),
        ("[latency]\nmax_p99 = true", "latency.max_p99: neither true nor false"),
        ("[accuracy]\nmax_drop = true", "accuracy.max_drop: neither true nor false"),
        ("[accuracy.min_metric]\ntop1 = true", "accuracy.min_metric: neither true nor false"),
        ("[build]\ndla_core = false", "build.dla_core: neither true nor false"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text)
    assert caught.value.message.startswith(f"{tmp_path / 'p.toml'}: {words}")


class TestTolerance:
    def test_defaults_of_the_precision_fill_what_is_unset(self) -> None:
        assert Tolerance().for_output("y", Precision.fp16) == OutputTolerance(
            atol=1e-3, rtol=2.5e-2, stat="mean", min_cosine=0.999, min_snr_db=30.0, min_agreement=0.98
        )

    def test_an_outputs_own_value_beats_the_general_one_which_beats_the_default(self) -> None:
        tolerance = Tolerance(atol=0.5, rtol=0.25, outputs={"y": OutputTolerance(atol=0.0, stat="max")})
        mine, other = (tolerance.for_output(name, Precision.fp32) for name in "yz")
        assert (mine.atol, mine.rtol, mine.stat, mine.min_cosine) == (0.0, 0.25, "max", 0.9999)
        assert (other.atol, other.rtol, other.min_snr_db) == (0.5, 0.25, 40.0)

    def test_every_precision_has_a_complete_default(self) -> None:
        for precision in Precision:
            assert None not in Tolerance().for_output("y", precision).model_dump().values()

    def test_less_precision_is_judged_no_more_strictly(self) -> None:
        order = [Precision(name).tolerance for name in ("fp32", "fp16", "bf16", "int8")]
        for field in ("atol", "rtol"):
            values = [getattr(tolerance, field) for tolerance in order]
            assert values == sorted(values)
        cosines = [tolerance.min_cosine or 0 for tolerance in order]
        assert cosines == sorted(cosines, reverse=True)


class TestShapes:
    @pytest.mark.parametrize(
        "shape",
        [
            {"min": (2,), "opt": (1,), "max": (3,)},
            {"min": (), "opt": (1,), "max": (1,)},
            {"min": (-1,), "opt": (1,), "max": (1,)},
            {"min": (1,), "opt": (1,), "max": (2**32 + 1,)},
        ],
    )
    def test_a_range_is_ordered_and_fits_into_32_bits(self, shape: dict[str, Any]) -> None:
        with pytest.raises(RecipeError, match=r"^ShapeRange: "):
            ShapeRange(**shape)


def test_shapes_that_the_data_tells(tmp_path: Path) -> None:
    profile = load(tmp_path, 'shapes = "auto"\n')
    assert (profile.shapes, profile.auto_shapes) == ((), True)
    profile = load(tmp_path, "auto_shapes = true\n[shapes.x]\nmin = [1]\nopt = [2]\nmax = [4]\n")
    assert (len(profile.shapes), profile.auto_shapes) == (1, True)
    two = "[[shapes]]\nx = { min = [1], opt = [2], max = [4] }\n[[shapes]]\nx = { min = [8], opt = [8], max = [8] }\n"
    assert [each["x"].opt for each in load(tmp_path, two).shapes] == [(2,), (8,)]
    with pytest.raises(RecipeError, match="one optimization profile, not for several"):
        load(tmp_path, f"auto_shapes = true\n{two}")
    with pytest.raises(RecipeError, match="shapes"):
        load(tmp_path, 'shapes = "some"\n')


def test_the_smallest_range_that_holds_two() -> None:
    small, large = ShapeRange(min=(2, 3), opt=(4, 3), max=(8, 3)), ShapeRange(min=(1, 3), opt=(9, 3), max=(16, 3))
    assert small.joined(large) == ShapeRange(min=(1, 3), opt=(4, 3), max=(16, 3))
    with pytest.raises(InputError, match="rank 2 and 1"):
        small.joined(ShapeRange(min=(1,), opt=(1,), max=(1,)))


class TestAccuracyGate:
    @pytest.mark.parametrize("given", ["0.01", '"1%"', '"1pt"', '"0.01"', '" 1 % "'])
    def test_one_point_in_every_way_to_write_it(self, tmp_path: Path, given: str) -> None:
        gate = load(tmp_path, f"[accuracy]\nmax_drop = {given}\nmin_metric = {{top1 = {given}}}").accuracy
        assert gate.of("top1") == MetricLimits(max_drop=0.01, min_metric={"top1": 0.01})
        assert gate == AccuracyGate(max_drop=0.01, min_metric={"top1": 0.01})

    @pytest.mark.parametrize(
        ("given", "metric", "said"),
        [
            (5, "top1", "5%"),
            (1, "top1", "1% or 100%"),
            (5, "wer", "5% or 500%"),
            (1.5, "cosine", "1.5% or 150%"),
        ],
    )
    def test_only_readings_that_are_possible_are_named(self, given: float, metric: str, said: str) -> None:
        with pytest.raises(InputError, match=rf"(?m)write {said}$"):
            AccuracyGate(max_drop=given).of(metric)
        with pytest.raises(InputError, match=r"150 is more than 1 \(100%\), with or without"):
            AccuracyGate(min_metric={"top1": 150}).of("top1")

    @pytest.mark.parametrize("given", [1, 5, 1.5, "5"])
    def test_of_a_share_1_and_more_can_be_read_in_two_ways(self, given: float | str) -> None:
        gate = AccuracyGate(max_drop=given)
        with pytest.raises(InputError, match=r"(?m)max_drop: .* has no unit: write \S+%( or \S+00?%)?$"):
            gate.of("top1")
        assert gate.of("case.py:psnr").max_drop == float(given)  # in its own unit
        with pytest.raises(InputError, match="min_metric top1: "):
            AccuracyGate(min_metric={"top1": given}).of("top1")

    def test_with_a_unit_1_and_more_is_what_it_says(self) -> None:
        gate = AccuracyGate(max_drop="100%", min_metric={"wer": "250pt"})
        assert gate.of("wer") == MetricLimits(max_drop=1.0, min_metric={"wer": 2.5})
        assert AccuracyGate.model_validate_json(gate.model_dump_json()) == gate

    @pytest.mark.parametrize(
        ("metric", "given"),
        [("top1", "100.1%"), ("top5", -0.1), ("map", "250pt"), ("cosine", "101%"), ("cosine", "-150%"), ("wer", "-1%")],
    )
    def test_a_least_value_that_the_metric_cannot_have(self, metric: str, given: float | str) -> None:
        with pytest.raises(InputError, match=f"min_metric {metric}: .* is no value of {metric}"):
            AccuracyGate(min_metric={metric: given}).of(metric)
        assert AccuracyGate(min_metric={"psnr": given}).of("case.py:psnr").min_metric  # in a unit of its own

    @pytest.mark.parametrize(("metric", "given"), [("top1", "100.5%"), ("map", "900%"), ("cosine", "201%")])
    def test_a_drop_that_cannot_be(self, metric: str, given: str) -> None:
        with pytest.raises(InputError, match=f"max_drop: {given} is more than {metric} can differ by"):
            AccuracyGate(max_drop=given).of(metric)
        assert AccuracyGate(max_drop=given).of("wer").max_drop == float(given[:-1]) / 100

    @pytest.mark.parametrize("metric", ["top1", "top5", "cosine", "map", "wer"])
    def test_the_bounds_themselves_can_be_asked_for(self, metric: str) -> None:
        gate = AccuracyGate(max_drop="100%", min_metric={metric: "100%"}).of(metric)
        assert gate == MetricLimits(max_drop=1.0, min_metric={metric: 1.0})

    def test_limits_of_what_is_not_measured(self) -> None:
        gate = AccuracyGate(min_metric={"top5": 0.9})
        assert AccuracyGate(max_drop=5).of(None) == MetricLimits()
        for metric in (None, "top1"):
            with pytest.raises(InputError, match="min_metric top5"):
                gate.of(metric)
        assert gate.of("case.py:evaluate").min_metric == {"top5": 0.9}

    @pytest.mark.parametrize("given", ["much", "nan", "%", "1%%", float("inf"), "-1%", -0.5])
    def test_what_is_no_amount(self, given: float | str) -> None:
        with pytest.raises(RecipeError, match="max_drop"):
            AccuracyGate(max_drop=given)


def test_what_is_written_to_a_file_has_units(tmp_path: Path) -> None:
    profile = load(tmp_path, FULL)
    text = dump_toml(profile.model_dump(exclude_unset=True, exclude={"shapes"}, context=FROM_FILE))
    assert 'workspace = "4294967296B"' in text
    assert 'duration = "2.0s"' in text
    (tmp_path / "again.toml").write_text(text)
    again = DeploymentProfile.load(tmp_path / "again.toml")
    assert again.model_copy(update={"shapes": profile.shapes}) == profile
