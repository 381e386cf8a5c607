"""The root of the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

import trtpipe
from trtpipe.cli import options
from trtpipe.cli.boundary import guarded
from trtpipe.cli.groups import HELP_NAMES, LazyGroup
from trtpipe.cli.session import Session
from trtpipe.cli.surroundings import check_address_space, open_standard_streams
from trtpipe.cli.text import emit

#: What is answered without loading a library.
_INFORMS = {*HELP_NAMES, "--version"}
SECTIONS = {
    "Whole pipeline": ("init", "build", "matrix"),
    "Single stages": ("export", "simplify", "calibrate", "lower", "compile", "verify", "measure"),
    "Accuracy": ("sensitivity", "tune", "check", "diff"),
    "Deliver": ("package",),
    "Inspect": ("inspect", "report", "recipes", "doctor", "completion"),
    "Cache": ("cache",),
}

#: module -> its commands, where these are several
MODULES = {
    "stages": ("export", "simplify", "calibrate", "lower", "compile", "verify", "measure"),
    "tuning": ("sensitivity", "tune"),
    "regression": ("check", "diff"),
    "inspect": ("inspect", "report", "doctor"),
    "starter": ("init", "recipes"),
}

EXIT_CODES = {
    0: "fine",
    1: "a bug of trtpipe",
    2: "bad usage or input",
    3: "the accuracy gate failed",
    4: "the latency gate failed",
    5: "the model cannot be built for the target",
    6: "something is missing on this machine",
    130: "interrupted",
}


class Root(LazyGroup):
    """The group that holds all commands, with the error boundary around them."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> NoReturn:
        """Run the command that ``args`` (default: the process's) name, and exit with its code."""
        open_standard_streams()
        words = list(sys.argv[1:] if args is None else args)
        options_part = words[: words.index("--")] if "--" in words else words
        # needed even where the command line cannot be parsed
        session = Session(json="--json" in options_part, debug="--debug" in options_part)

        def run() -> object:
            if not set(options_part) & _INFORMS:
                check_address_space()
            return super(Root, self).main(words, prog_name="trtpipe", standalone_mode=False, obj=session)

        sys.exit(guarded(run, session))


@click.group(
    cls=Root,
    sections=SECTIONS,
    modules={name: module for module, names in MODULES.items() for name in names},
    examples=(
        "trtpipe init model.onnx --calib-data photos/ -o start",
        "trtpipe build model.onnx --int8 --calib-data photos/ --calib imagenet --target sm89 -o build/model",
        "trtpipe report build/model",
    ),
    invoke_without_command=True,
    context_settings={"help_option_names": list(HELP_NAMES)},
    epilog="Exit codes: " + ", ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + ".",
)
@options.common_options
@click.version_option(trtpipe.__version__, prog_name="trtpipe")
@click.pass_context
def root(context: click.Context) -> None:
    """From a PyTorch model to a verified TensorRT engine, in one command, on any build machine."""
    if context.invoked_subcommand is None:
        emit(context.get_help())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point of the command ``trtpipe``."""
    root.main(arguments)
