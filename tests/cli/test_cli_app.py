"""The root: help, version, global options, and the page generated from all of it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

import trtpipe
from trtpipe.cli.app import EXIT_CODES, SECTIONS, root
from trtpipe.cli.groups import ExampleGroup, TopicCommand, TopicOption
from trtpipe.cli.session import Override, Session, profile_of, recipe_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Run

DOCS = Path(__file__).parents[2] / "docs"


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by its full name, groups included."""
    context = click.Context(root)
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", command.commands[inner]) for inner in command.commands)


COMMANDS = dict(commands())


class TestHelp:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_and_option_is_explained(self, name: str) -> None:
        command = COMMANDS[name]
        assert command.help
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, parameter.opts
                assert parameter.help.endswith("."), parameter.opts

    @pytest.mark.parametrize("name", ["", *(name for name in COMMANDS if isinstance(COMMANDS[name], ExampleGroup))])
    def test_every_group_has_examples_of_its_commands(self, name: str) -> None:
        group = COMMANDS[name] if name else root
        assert isinstance(group, ExampleGroup)
        shown = CliRunner().invoke(root, [*name.split(), "--help"]).stdout
        for example in group.examples:
            assert f"  {example}\n" in shown
            _, *words = shlex.split(example)
            of = " ".join(words[: 1 + len(name.split())])
            assert of.startswith(name)
            with click.Context(root, obj=Session()) as context:
                COMMANDS[of].make_context(of, words[1 + len(name.split()) :], parent=context)

    @pytest.mark.parametrize("name", [name for name in COMMANDS if not isinstance(COMMANDS[name], ExampleGroup)])
    def test_every_command_has_examples_that_it_understands(self, name: str) -> None:
        command = COMMANDS[name]
        assert isinstance(command, TopicCommand)
        assert command.examples
        shown = CliRunner().invoke(root, [*name.split(), "--help"]).stdout
        for example in command.examples:
            assert f"  {example}\n" in shown
            words = shlex.split(example.partition(" >")[0])
            if words[0] == "echo":
                words = re.findall(r"\$\((.*)\)", example)[0].split()
            assert words[: 1 + len(name.split())] == ["trtpipe", *name.split()]
            with click.Context(root, obj=Session()) as context:
                command.make_context(name, words[1 + len(name.split()) :], parent=context)

    @pytest.mark.parametrize("name", COMMANDS)
    @pytest.mark.parametrize("flag", ["-h", "--help"])
    def test_help_goes_to_stdout(self, name: str, flag: str) -> None:
        result = CliRunner().invoke(root, [*name.split(), flag])
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Usage: trtpipe {name}")
        assert result.stderr == ""

    def test_the_design_s_commands_are_there(self) -> None:
        listed = {name for names in SECTIONS.values() for name in names}
        stages = {"export", "simplify", "calibrate", "lower", "compile", "verify", "measure"}
        assert listed >= {"build", "inspect", "doctor", "cache"} | stages

    def test_without_a_command_the_overview_is_shown(self) -> None:
        result = CliRunner().invoke(root, [])
        assert result.exit_code == 0
        for name in root.list_commands(click.Context(root)):
            assert re.search(rf"^  {name} +[A-Z][^.]+\.$", result.stdout, re.MULTILINE), name
        assert "..." not in result.stdout.partition("Commands")[0].partition("pipeline:")[2]

    def test_a_group_alone_shows_its_commands(self) -> None:
        result = CliRunner().invoke(root, ["cache"])
        assert result.exit_code == 0
        assert "prune" in result.stdout

    def test_version(self) -> None:
        assert CliRunner().invoke(root, ["--version"]).stdout == f"trtpipe, version {trtpipe.__version__}\n"


class TestPage:
    def test_is_what_the_commands_say_today(self) -> None:
        spec = importlib.util.spec_from_file_location("make_cli", DOCS / "make_cli.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        page = (DOCS / "cli.md").read_text(encoding="utf-8")
        assert page == module.render(), "run: python docs/make_cli.py"

    @pytest.mark.parametrize("name", COMMANDS)
    def test_has_every_command_with_all_its_options(self, name: str) -> None:
        page = (DOCS / "cli.md").read_text(encoding="utf-8")
        assert f"### trtpipe {name}\n" in page
        for parameter in COMMANDS[name].params:
            assert isinstance(parameter, click.Argument) or parameter.opts[-1] in page

    def test_names_every_environment_variable(self) -> None:
        page = (DOCS / "cli.md").read_text(encoding="utf-8")
        source = Path(trtpipe.__file__).parent.joinpath("config", "settings.py").read_text(encoding="utf-8")
        assert set(re.findall(r"`(TRTPIPE_\w+)`", page)) == set(re.findall(r'"(TRTPIPE_\w+)"', source))

    def test_exit_codes_are_those_of_the_errors(self) -> None:
        errors = {getattr(trtpipe, name) for name in trtpipe.__all__ if name in vars(trtpipe.errors)}
        assert {error.exit_code for error in errors} <= set(EXIT_CODES)


class TestGlobalOptions:
    def test_before_or_after_the_command(self, tmp_path: Path) -> None:
        for words in (["--cache-dir", str(tmp_path), "cache", "list"], ["cache", "list", "--cache-dir", str(tmp_path)]):
            result = CliRunner().invoke(root, words)
            assert result.exit_code == 0
            assert str(tmp_path) in result.stdout

    def test_the_later_one_wins(self, tmp_path: Path) -> None:
        words = ["--cache-dir", str(tmp_path / "a"), "cache", "--cache-dir", str(tmp_path / "b"), "list", "--json"]
        assert json.loads(CliRunner().invoke(root, words).stdout)["root"] == str(tmp_path / "b")

    def test_environment_moves_the_cache_and_the_option_is_stronger(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TRTPIPE_CACHE_DIR", str(tmp_path / "environment"))
        assert "environment" in CliRunner().invoke(root, ["cache", "list"]).stdout
        assert "option" in CliRunner().invoke(root, ["cache", "list", "--cache-dir", str(tmp_path / "option")]).stdout

    def test_log_file_that_is_a_pipe_without_a_reader(self, run: Run, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "log")
        result = run("cache", "list", "--log-file", tmp_path / "log")
        assert result.exit_code == 2
        assert "a pipe that nobody reads" in result.stderr

    def test_log_file_that_cannot_be_opened(self, run: Run, tmp_path: Path) -> None:
        result = run("cache", "list", "--log-file", tmp_path / "nowhere" / "log")
        assert result.exit_code == 2
        assert result.stderr.splitlines() == [
            f"error: --log-file {tmp_path}/nowhere/log: No such file or directory",
            "  try: give a file in an existing folder",
        ]


class TestUsage:
    @pytest.mark.parametrize(
        ("words", "error", "remedy"),
        [
            (["buidl"], "no command is called 'buidl'", "did you mean 'build'? see trtpipe --help"),
            *(
                (
                    [word],
                    f"no command is called {word!r}",
                    "a model is built with trtpipe build MODEL -o OUT; see trtpipe --help",
                )
                for word in ("m.onnx", "model.py:factory", "convert")
            ),
            (["build", "m.onnx"], "Missing option '-o' / '--out'.", "see trtpipe build --help"),
            (["build", "-o", "x"], "Missing argument 'SOURCE'.", "see trtpipe build --help"),
            (["inspect", "a", "b"], "Got unexpected extra argument (b)", "see trtpipe inspect --help"),
        ],
    )
    def test_two_lines_and_exit_code_2(self, words: list[str], error: str, remedy: str) -> None:
        result = CliRunner().invoke(root, words)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.splitlines() == [f"error: {error}", f"  try: {remedy}"]

    def test_unknown_option_names_it(self) -> None:
        result = CliRunner().invoke(root, ["build", "m.onnx", "-o", "x", "--int9"])
        assert result.exit_code == 2
        assert "--int9" in result.stderr

    def test_json_error_is_one_document_even_where_nothing_can_be_parsed(self) -> None:
        result = CliRunner().invoke(root, ["build", "--json", "--bogus"])
        document = json.loads(result.stdout)
        assert document["exit_code"] == result.exit_code == 2
        assert "--bogus" in document["error"]["message"]
        assert document["error"]["remedy"] == "see trtpipe build --help"


class TestOptions:
    """What a help page lists: at most twenty options, by topic; ``--help-all`` has the others."""

    @pytest.mark.parametrize("name", COMMANDS)
    def test_a_page_lists_at_most_twenty(self, name: str) -> None:
        first, usual = self.listed(name, "--help"), {"--help", "--help-all"}
        assert len(first) <= 20
        own = {each.opts[-1] for each in COMMANDS[name].params if isinstance(each, click.Option)}
        if "--help-all" in first:
            assert usual < first < own | usual
            assert self.listed(name, "--help-all") == own | usual
        else:
            assert first == own | {"--help"}

    def test_defaults_in_the_help_are_those_of_the_files(self) -> None:
        """An option that is given what its help calls the default changes nothing."""
        options = {each for command in COMMANDS.values() for each in command.params if isinstance(each, TopicOption)}
        named = [option for option in options if option.usual]
        assert len({option.name for option in named}) >= 12
        data = Override(("evaluation", "source"), "x.npz", "--eval-data")
        for option in named:
            session = Session()
            context = click.Context(root, obj=session)
            assert option.callback is not None
            option.callback(context, option, option.type_cast_value(context, option.usual))
            given = session.profile_overrides + session.recipe_overrides
            assert given, option.name
            assert profile_of(None, session.profile_overrides) == profile_of(None, []), option.name
            assert recipe_of(None, [data, *session.recipe_overrides]) == recipe_of(None, [data]), option.name

    def listed(self, name: str, option: str) -> set[str]:
        """The options on a page, by their last names."""
        result = CliRunner().invoke(root, [*name.split(), option])
        assert result.exit_code == 0
        return {re.findall(r"--[a-z][\w-]*", line)[0] for line in result.stdout.splitlines() if line.startswith("  -")}

    def test_the_most_needed_ones_are_on_the_first_page_of_build(self) -> None:
        page = CliRunner().invoke(root, ["build", "--help"]).stdout
        for option in (
            "--int8",
            "--best",
            "--target",
            "--calib-data",
            "--eval-data",
            "--profile",
            "--keep",
            "--dry-run",
        ):
            assert option in page
        assert "--workspace" not in page
        topics = re.findall(r"^(\w[\w ]*):$", CliRunner().invoke(root, ["build", "--help-all"]).stdout, re.MULTILINE)
        assert {"Options", "Precision", "Shapes", "Data", "Calibration", "Accuracy", "Engine builder"} <= set(topics)
        assert topics[0] == "Options"
        assert topics[-2:] == ["General", "Examples"]
