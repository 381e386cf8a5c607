"""What the commands are made of: options by topic, a short and a complete help, and groups that load lazily."""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from trtpipe.cli.aliases import ADVICE, translated
from trtpipe.cli.text import emit
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trtpipe.config.presets import PresetKind


#: A help page lists at most so many options; a command that has more says that ``--help-all`` lists them all.
MOST_OPTIONS = 20
HELP_NAMES = ("-h", "--help")

_ALL = "trtpipe.help-all"
#: Commands of other tools that build engines.
_OTHERS_BUILD = ("convert", "run")


class TopicOption(click.Option):
    """An option that belongs to a topic of the help.

    Args:
        topic: the heading it stands under.
        common: whether the short help of a command with many options lists it.
        usual: what holds where it is not given; the help ends with it.
    """

    def __init__(
        self, *args: Any, topic: str = "Options", common: bool = True, usual: str = "", **attributes: Any
    ) -> None:
        super().__init__(*args, **attributes)
        self.topic, self.common, self.usual = topic, common, usual
        if usual:
            self.help = f"{(self.help or '').removesuffix('.')} (default: {usual})."

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What its type knows; else files, since most texts may name one."""
        return super().shell_complete(ctx, incomplete) or files(ctx, self, incomplete)


class TopicCommand(click.Command):
    """A command whose help lists its options by topic, and ends with examples.

    Args:
        examples: command lines.
    """

    def __init__(self, *args: Any, examples: Sequence[str], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.examples = tuple(examples)
        self.context_settings = {"help_option_names": list(HELP_NAMES), **self.context_settings}
        self._help_all = _help_all()

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """All parameters; with ``--help-all`` where there are more options than a page lists."""
        *own, usual = super().get_params(ctx)
        if sum(isinstance(each, click.Option) for each in own) < MOST_OPTIONS:
            return [*own, usual]
        return [*own, self._help_all, usual]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; names of other tools are taken for ours, or answered with what to do here.

        Raises:
            InputError: an option is another tool's, and has no like here.
        """
        names = [name for each in self.get_params(ctx) if isinstance(each, click.Option) for name in each.opts]
        try:
            return super().parse_args(ctx, translated(args, names))
        except click.NoSuchOption as error:
            if error.option_name in ADVICE:
                raise InputError(f"there is no option {error.option_name}", ADVICE[error.option_name]) from error
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One list a topic, in the order in which the topics first occur."""
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        if len(options) > MOST_OPTIONS and not ctx.meta.get(_ALL):
            options = [each for each in options if not isinstance(each, TopicOption) or each.common]
        for topic, members in by_topic(options).items():
            with formatter.section(topic):
                formatter.write_dl([record for each in members if (record := each.get_help_record(ctx))])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, each in its own line, whole."""
        write_examples(formatter, self.examples)


def files(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes names of files, as the shell does."""
    return [CompletionItem(incomplete, type="file")]


def preset_names(kind: PresetKind) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Completes the names of what comes with trtpipe; names of files where none fits."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from trtpipe.config.presets import presets

        names = [CompletionItem(name) for name in presets(kind) if name.startswith(incomplete)]
        return names or files(ctx, parameter, incomplete)

    return complete


def write_examples(formatter: click.HelpFormatter, examples: Sequence[str]) -> None:
    """Command lines that can be copied: none is wrapped."""
    with formatter.section("Examples" if len(examples) > 1 else "Example"):
        for each in examples:
            formatter.write(f"{'':{formatter.current_indent}}{each}\n")


def by_topic(options: Sequence[click.Option]) -> dict[str, list[click.Option]]:
    """Topic -> its options; what has no topic comes first, and what every command has comes last."""
    found: dict[str, list[click.Option]] = {"Options": []}
    for option in options:
        topic = option.topic if isinstance(option, TopicOption) else "Options"
        found.setdefault(GENERAL if {"--help", "--help-all"} & set(option.opts) else topic, []).append(option)
    if GENERAL in found:
        found[GENERAL] = found.pop(GENERAL)
    return {topic: members for topic, members in found.items() if members}


GENERAL = "General"


def _help_all() -> click.Option:
    def show(context: click.Context, _: click.Parameter, given: bool) -> None:
        if given and not context.resilient_parsing:
            context.meta[_ALL] = True
            emit(context.get_help())
            context.exit()

    return click.Option(
        ["--help-all"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show all options.",
    )


class ExampleGroup(click.Group):
    """Commands, and examples of them at the end of its help.

    Args:
        examples: command lines.
    """

    def __init__(self, *args: Any, examples: Sequence[str], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, and what follows them."""
        write_examples(formatter, self.examples)
        super().format_epilog(ctx, formatter)


class LazyGroup(ExampleGroup):
    """Commands by section, each in the module ``trtpipe.cli.<name>`` under its own name.

    Args:
        sections: heading -> names, in the order of the help.
        modules: name -> module, for those that share one.
    """

    def __init__(
        self, *args: Any, sections: Mapping[str, Sequence[str]], modules: Mapping[str, str], **attributes: Any
    ) -> None:
        super().__init__(*args, **attributes)
        self.sections, self.modules = sections, modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the help."""
        return [name for names in self.sections.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"trtpipe.cli.{self.modules.get(cmd_name, cmd_name)}")
        command: click.Command = vars(module)[cmd_name]
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or the one that was meant.

        Raises:
            InputError: there is no such command.
        """
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            if "build" in known and (name in _OTHERS_BUILD or "." in name or ":" in name):
                hint = f"a model is built with {ctx.command_path} build MODEL -o OUT; "
            raise InputError(f"no command is called {name!r}", f"{hint}see {ctx.command_path} --help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One table a section."""
        for heading, names in self.sections.items():
            commands = {name: self.get_command(ctx, name) for name in names}
            with formatter.section(heading):
                formatter.write_dl(
                    [(name, command.get_short_help_str(80)) for name, command in commands.items() if command]
                )
