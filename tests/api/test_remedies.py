"""Remedies as who calls a function reads them."""

from __future__ import annotations

from pathlib import Path
from types import FunctionType

import pytest

import trtpipe
from trtpipe.api.remedies import in_python
from trtpipe.errors import InputError

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
        ("call it --save-baseline FILE, as in low-order", "call it --save-baseline FILE, as in low-order"),
    ],
)
def test_options_become_arguments_and_keys(said: str, spelled: str) -> None:
    assert in_python(said, ARGUMENTS) == spelled


def test_only_arguments_of_the_function_are_named() -> None:
    assert in_python("add --calib-data DATA", ["out"]) == "add --calib-data DATA"


def test_an_error_carries_them(tmp_path: Path) -> None:
    from models import conv_net, save

    net = save(conv_net(), tmp_path / "net.onnx")
    with pytest.raises(InputError) as caught:
        trtpipe.build(net, tmp_path / "out", precision="int8", targets=["sm89"])
    assert "--calib-data" in caught.value.remedy, "as the command line says it"
    [note] = vars(caught.value)["__notes__"]
    assert note.startswith("try: add calib_data= ")


def test_functions_without_shared_arguments_explain_theirs_too(tmp_path: Path) -> None:
    from trtpipe.api.remedies import explained

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
