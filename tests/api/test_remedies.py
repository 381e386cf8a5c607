"""Remedies as who calls a function reads them."""

from __future__ import annotations

from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING

import pytest

import trtpipe
from trtpipe import runtime
from trtpipe.api.remedies import explained, in_python
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

ARGUMENTS = ("out", "calib_data", "recipe", "targets", "precision", "profile", "simplify", "allow_random")


@pytest.mark.parametrize(
    ("said", "spelled"),
    [
        ("add --calib-data (a folder) or --calib RECIPE.toml", "add calib_data= (a folder) or recipe=RECIPE.toml"),
        ("add --target, for example --target sm89", "add targets=, for example targets=sm89"),
        ("build with --fp16, or leave sm75 out", 'build with precision="fp16", or leave sm75 out'),
        ("run again with --no-simplify", "run again with simplify=False"),
        ("use --backend tensorrt-rtx", "use the profile's backend tensorrt-rtx"),
        ("raise the limit (--workspace)", "raise the limit (the profile's build.workspace)"),
        ("choose another folder with -o", "choose another folder with out="),
        (
            "or skip up to N bad samples with --skip-bad-samples N",
            "or skip up to N bad samples with the recipe's data.skip_bad_samples = N",
        ),
        ("raise --skip-bad-samples", "raise the recipe's data.skip_bad_samples"),
        ("take it with --allow-random-calibration", "take it with allow_random=True"),
        ("add --handover TARGET", "add make_package's handover TARGET"),
        ("serve it with --triton-backend onnxruntime", "serve it with TritonSettings.backend onnxruntime"),
        ("another name in the file of --triton-settings", "another name in the file of TritonSettings"),
        ("call it --save-baseline FILE, as in low-order", "call it --save-baseline FILE, as in low-order"),
    ],
)
def test_options_become_arguments_and_keys(said: str, spelled: str) -> None:
    assert in_python(said, ARGUMENTS) == spelled


def test_only_arguments_of_the_function_are_named() -> None:
    assert in_python("add --calib-data DATA", ["out"]) == "add --calib-data DATA"


def test_arguments_of_other_functions() -> None:
    assert in_python("add --handover TARGET", ["handover"]) == "add handover=TARGET"
    assert in_python("add --handover, which", ["handover"]) == "add handover=True, which"
    assert in_python("the file of --triton-settings", ["triton"]) == "the file of triton="


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: trtpipe.write_report("nosuch", "x"),
        lambda: trtpipe.DeploymentProfile(precision=5),
        lambda: trtpipe.TritonSettings(bakend="tensorrt"),
        lambda: trtpipe.CalibrationRecipe(method="foo"),
        lambda: trtpipe.Settings(cache_dir=5),
        lambda: runtime.load("nosuch"),
    ],
)
def test_every_error_that_reaches_a_caller_says_what_to_do(wrong: Callable[[], object]) -> None:
    with pytest.raises(InputError) as caught:
        wrong()
    [note] = vars(caught.value)["__notes__"]
    assert note.startswith("try: ")
    assert caught.value.remedy


def test_notes_of_others_stay(tmp_path: Path) -> None:
    def work(calib_data: object) -> None:
        error = InputError("no data", "add --calib-data")
        vars(error)["__notes__"].append("in cell 3")
        raise error

    with pytest.raises(InputError) as caught:
        explained(work)(None)
    assert vars(caught.value)["__notes__"] == ["try: add calib_data=", "in cell 3"]


def test_an_error_carries_them(tmp_path: Path) -> None:
    from models import conv_net, save

    net = save(conv_net(), tmp_path / "net.onnx")
    with pytest.raises(InputError) as caught:
        trtpipe.build(net, tmp_path / "out", precision="int8", targets=["sm89"])
    assert "--calib-data" in caught.value.remedy, "as the command line says it"
    [note] = vars(caught.value)["__notes__"]
    assert note.startswith("try: add calib_data= ")


def test_functions_without_shared_arguments_explain_theirs_too(tmp_path: Path) -> None:
    def save(file: Path, reason: str = "") -> None:
        """Replace a file."""
        raise InputError(f"{file}: there is one already", "say why it is replaced, with --update REASON")

    with pytest.raises(InputError) as caught:
        explained(save)(tmp_path)
    assert vars(caught.value)["__notes__"] == ["try: say why it is replaced, with reason=REASON"]
    assert explained(save).__doc__ == "Replace a file."


def test_every_function_of_the_api_explains_its_errors() -> None:
    functions = {name: getattr(trtpipe, name) for name in trtpipe.__all__}
    plain = {
        name
        for name, found in functions.items()
        if isinstance(found, FunctionType)
        and found.__module__.startswith("trtpipe.api.")
        and not hasattr(found, "__wrapped__")
    }
    assert plain == {"diagnose", "run_async"}, "these take nothing that an option names"
