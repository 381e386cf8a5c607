"""Option names of other tools: taken for ours where they mean the same, answered with advice where they do not."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from trtpipe.cli.aliases import ADVICE, ALIASES, translated
from trtpipe.cli.app import root
from trtpipe.cli.groups import HELP_NAMES
from trtpipe.config.formats import Precision


def options() -> dict[str, set[str]]:
    """Option -> the commands that have it."""
    found: dict[str, set[str]] = {}

    def visit(command: click.Command, name: str) -> None:
        if isinstance(command, click.Group):
            for each in command.list_commands(click.Context(command)):
                below = command.get_command(click.Context(command), each)
                assert below is not None
                visit(below, f"{name} {each}")
        # click keeps the first help option that is asked for, whatever its names
        for each in command.get_params(click.Context(command, help_option_names=HELP_NAMES)):
            for option in each.opts if isinstance(each, click.Option) else ():
                found.setdefault(option, set()).add(name)

    visit(root, "trtpipe")
    return found


def test_every_alias_and_every_piece_of_advice_names_what_exists() -> None:
    known = options()
    assert set(ALIASES.values()) <= known.keys()
    assert not ALIASES.keys() & known.keys()
    assert not ADVICE.keys() & (known.keys() | ALIASES.keys())
    named = {word for advice in ADVICE.values() for word in re.findall(r"--[a-z0-9-]+", advice)}
    assert named <= known.keys() | {f"--{each}" for each in Precision}
    commands = {word for advice in ADVICE.values() for word in re.findall(r"trtpipe [a-z]+", advice)}
    assert commands <= {command for names in known.values() for command in names}


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (["--minShapes=x:1x3", "m"], ["--min-shapes=x:1x3", "m"]),
        (["--maxShapes", "x:8x3"], ["--max-shapes", "x:8x3"]),
        (["--", "--minShapes"], ["--", "--minShapes"]),
        (["--saveEngine=e"], ["--saveEngine=e"]),  # a command without --out
        (["minShapes"], ["minShapes"]),
    ],
)
def test_words_that_are_translated(words: list[str], ours: list[str]) -> None:
    assert translated(words, ["--min-shapes", "--max-shapes"]) == ours


@pytest.mark.parametrize("name", sorted(ADVICE))
def test_advice_is_given(name: str) -> None:
    result = CliRunner().invoke(root, ["build", "model.onnx", "-o", "out", f"{name}=x"])
    assert result.exit_code == 2
    assert ADVICE[name] in result.output
