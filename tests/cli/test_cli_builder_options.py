"""Options of the engine builder on the command line: where each of them ends."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from trtpipe.cli.options import builder_options
from trtpipe.cli.session import Session
from trtpipe.errors import InputError


def told(*arguments: str) -> tuple[dict[str, object], int | None]:
    """What of the profile's ``[build]`` table differs from the defaults, and how many jobs may run."""
    found: list[Session] = []

    @click.command()
    @builder_options
    @click.pass_context
    def command(context: click.Context) -> None:
        found.append(context.ensure_object(Session))

    result = CliRunner().invoke(command, list(arguments), standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return found[0].profile.build.model_dump(exclude_defaults=True), found[0].settings.jobs


@pytest.mark.parametrize(
    ("words", "build"),
    [
        ("", {}),
        ("--workspace 2G --opt-level 4", {"workspace": 2 << 30, "opt_level": 4}),
        ("--no-timing-cache", {"timing_cache": False}),
        ("--hardware-compatibility ampere+", {"hardware_compatibility": "ampere+"}),
        (
            "--version-compatible --exclude-lean-runtime",
            {"version_compatible": True, "exclude_lean_runtime": True},
        ),
        ("--weight-streaming --sparsity", {"weight_streaming": True, "sparsity": True}),
        ("--strip-weights --refit", {"strip_weights": True, "refit": True}),
        ("--dla-core 0 --gpu-fallback", {"dla_core": 0, "gpu_fallback": True}),
        ("--max-aux-streams 0", {"max_aux_streams": 0}),
    ],
)
def test_each_reaches_its_key(words: str, build: dict[str, object]) -> None:
    assert told(*words.split())[0] == build


def test_jobs_are_stronger_than_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTPIPE_JOBS", "7")
    assert told()[1] == 7
    assert told("--jobs", "2")[1] == 2


@pytest.mark.parametrize("words", ["--jobs 0", "--opt-level x", "--hardware-compatibility pascal"])
def test_what_makes_no_sense_is_a_usage_error(words: str) -> None:
    with pytest.raises(click.BadParameter):
        told(*words.split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--gpu-fallback", "^--gpu-fallback: gpu_fallback needs dla_core, without which it has no effect"),
        (
            "--exclude-lean-runtime --opt-level 3",
            "^--exclude-lean-runtime: exclude_lean_runtime needs version_compatible",
        ),
    ],
)
def test_an_option_without_the_one_it_needs_is_refused_by_its_name(words: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        told(*words.split())


def test_plug_ins_come_from_profiles_only() -> None:
    with pytest.raises(click.NoSuchOption):
        told("--plugins", "lib.so")
