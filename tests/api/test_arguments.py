"""What Python callers give that cannot be used is an InputError with the argument's name, before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trtpipe
from trtpipe.config.formats import Precision
from trtpipe.errors import InputError, RecipeError

CASES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "a function listens": ("progress", lambda out: trtpipe.make_job(progress=print, engines=False)),
    "a class listens": ("progress", lambda out: trtpipe.make_job(progress=trtpipe.NullProgress, engines=False)),
    "a text switches": ("simplify", lambda out: trtpipe.build("m.onnx", out, simplify="no")),
    "a number switches": ("allow_random", lambda out: trtpipe.dry_run("m.onnx", allow_random=1)),
    "no settings": ("settings", lambda out: trtpipe.diagnose("x")),
    "no settings of a job": ("settings", lambda out: trtpipe.make_job(settings={}, engines=False)),
    "no settings of a check": ("settings", lambda out: trtpipe.check(out, out, settings="x")),
    "profile as a dict": ("profile", lambda out: trtpipe.make_job(profile={"precision": "int8"}, engines=False)),
    "recipe as a dict": ("recipe", lambda out: trtpipe.make_job(recipe={"method": "max"}, engines=False)),
    "one path to merge": ("paths", lambda out: trtpipe.merge_statistics(out / "a.npz", out)),
    "one text to merge": ("paths", lambda out: trtpipe.merge_statistics("a.npz", out)),
    "numbers to merge": ("paths", lambda out: trtpipe.merge_statistics([3], out)),
    "samples in words": ("samples", lambda out: trtpipe.sensitivity("m.onnx", samples="x")),
    "no samples": ("samples", lambda out: trtpipe.sensitivity("m.onnx", samples=0)),
    "a switch for samples": ("samples", lambda out: trtpipe.sensitivity("m.onnx", samples=True)),
    "target as a number": ("text", lambda out: trtpipe.find_target(89)),
    "reason as a number": ("reason", lambda out: trtpipe.save_baseline(out, out / "b.json", reason=5)),
    "plot in place of a folder": ("path", lambda out: trtpipe.plot_sensitivity(None, out)),
    "profile from a dict": ("path", lambda out: trtpipe.DeploymentProfile.load({})),
    "recipe from a number": ("path", lambda out: trtpipe.CalibrationRecipe.load(3)),
    "cache folder": ("cache_dir", lambda out: trtpipe.Settings(cache_dir=3)),
    "threads": ("threads", lambda out: trtpipe.Settings(cache_dir=out, threads="two")),
    "no threads": ("threads", lambda out: trtpipe.Settings(cache_dir=out, threads=None)),
    "seconds": ("worker_seconds", lambda out: trtpipe.Settings(cache_dir=out, worker_seconds=float("nan"))),
    "sandbox": ("sandbox", lambda out: trtpipe.Settings(cache_dir=out, sandbox="off")),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_used_is_named(case: str, tmp_path: Path) -> None:
    argument, call = CASES[case]
    if argument == "path" and "plot" in case:
        pytest.importorskip("matplotlib")
    with pytest.raises(InputError, match=rf"^{argument}: ") as caught:
        call(tmp_path)
    assert "--" not in caught.value.remedy
    assert caught.value.remedy


@pytest.mark.parametrize(("argument", "record"), [("profile", "DeploymentProfile"), ("recipe", "CalibrationRecipe")])
def test_the_remedy_names_the_record(argument: str, record: str) -> None:
    with pytest.raises(InputError) as caught:
        trtpipe.make_job(engines=False, **{argument: {}})
    assert record in caught.value.remedy


def test_settings_take_a_text_for_the_cache_folder() -> None:
    assert trtpipe.Settings(cache_dir="here").cache_dir == Path("here")


class TestRecords:
    @pytest.mark.parametrize(
        ("make", "field"),
        [
            (lambda: trtpipe.DeploymentProfile(bogus=1), "bogus"),
            (lambda: trtpipe.DeploymentProfile(latency={"iterationz": 1}), r"latency\.iterationz"),
            (lambda: trtpipe.DeploymentProfile(shapes={"x": {"min": [1], "opt": [1]}}), r"shapes.*max"),
            (lambda: trtpipe.CalibrationRecipe(method="zz"), "method"),
            (lambda: trtpipe.DeploymentProfile.model_validate({"bogus": 1}), "bogus"),
            (lambda: trtpipe.CalibrationRecipe.model_validate({"data": {"batch": 0}}), r"data\.batch"),
            (lambda: trtpipe.CalibrationRecipe(data={"batch": 0}), r"data\.batch"),
        ],
    )
    def test_a_wrong_field_is_named_as_in_a_file(self, make: Callable[[], Any], field: str) -> None:
        with pytest.raises(RecipeError, match=field) as caught:
            make()
        assert "pydantic" not in f"{caught.value.message} {caught.value.remedy}"

    def test_quantities_have_units_in_files_and_not_in_python(self, tmp_path: Path) -> None:
        """The constructor that says so must not stand between a file and its validation."""
        assert trtpipe.DeploymentProfile(latency={"warmup": 0.5}).latency.warmup == 0.5
        (tmp_path / "p.toml").write_text("[latency]\nwarmup = 0.5\n")
        with pytest.raises(RecipeError, match=r"latency\.warmup"):
            trtpipe.DeploymentProfile.load(tmp_path / "p.toml")


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        (lambda: trtpipe.make_job("m.onnx", precison="fp16"), "precision"),
        (lambda: trtpipe.write_report("out", plot=True), "plots"),
    ],
)
def test_an_unknown_name_is_a_type_error_with_the_nearest(wrong: Callable[[], object], nearest: str) -> None:
    with pytest.raises(TypeError, match=rf"unexpected keyword argument .*{nearest!r}"):
        wrong()


def test_a_class_is_no_model() -> None:
    class Net:
        """As an nn.Module is defined."""

    for source in (Net, (Net, (1,))):
        with pytest.raises(InputError, match=r"source: Net is a class") as caught:
            trtpipe.make_job(source, engines=False, example_inputs=None)
        assert "Net(...)" in caught.value.remedy


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"x": (-1, 3)}, "input x: dimension 0: -1 "),
        ({"x": (1, "N")}, "input x: dimension 1: 'N' "),
        ({"x": {"min": (1,), "opt": (-2,), "max": (3,)}}, "input x: dimension 0: -2 "),
        ({"x": {"min": (1,), "max": (3,)}}, "input x: lacks opt"),
        ([{"x": (1,)}, {"x": 5}], "optimization profile 1, input x: 5 "),
    ],
)
def test_shapes_are_judged_in_words_of_the_argument(shapes: object, said: str) -> None:
    with pytest.raises(InputError, match=f"shapes: {said}") as caught:
        trtpipe.make_job("m.onnx", engines=False, shapes=shapes)  # type: ignore[arg-type]
    assert '"opt"' in caught.value.remedy


def test_precisions_in_capitals() -> None:
    assert trtpipe.make_job("m.onnx", engines=False, precision="INT8").profile.precision is Precision("int8")
    assert trtpipe.DeploymentProfile(precision="Fp16").precision is Precision("fp16")  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        trtpipe.make_job("m.onnx", engines=False, precision="int9")
    assert "int9" in caught.value.remedy
