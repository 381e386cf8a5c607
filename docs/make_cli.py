"""Write ``docs/cli.md`` from the commands themselves: ``python docs/make_cli.py``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtpipe.cli.app import EXIT_CODES, root
from trtpipe.cli.groups import LazyGroup, TopicCommand, by_topic

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).with_name("cli.md")

_INTRODUCTION = """\
# Command line

Written by `python docs/make_cli.py` from the commands themselves; edit those.

Results go to standard output: a table, or with `--json` one JSON document and nothing else. Progress, notes and
warnings go to standard error.

`--help` of a command lists at most 20 options, those that most people need; `--help-all` lists all, by topic.

An option on the command line overrides the same key in a `--profile` or `--calib` file, which overrides the default.
Sizes and durations carry a unit (`4G`, `200ms`, `30d`); a number alone is refused, in profiles
too. Amounts of a metric: `1%`, `1pt` and `0.01` are the same. Shapes are written `x:1x3x224x224,y:1x128` or
`x:[1,3,224,224] y:[1,128]`.

## Environment

| variable | meaning |
|---|---|
| `TRTPIPE_CACHE_DIR` | cache folder; `--cache-dir` overrides it |
| `TRTPIPE_CACHE_KEY` | secret that seals cache entries, 16 characters or more; a key file of the user's if unset |
| `TRTPIPE_WORKER_SECONDS` | time limit of one child process; by its work if unset; `--time-limit` overrides it |
| `TRTPIPE_WORKER_MEMORY_GB` | memory limit of one child process; by the model's size if unset |
| `TRTPIPE_SANDBOX` | `off` disables the sandbox of child processes that read untrusted files |
| `TRTPIPE_STORE` | a store that machines share: `s3://BUCKET/PREFIX`; see [the build farm](farm.md) |
| `TRTPIPE_STORE_LEASE` | seconds without a sign of life after which another machine takes over a build (default: 30) |
| `TRTPIPE_JOBS` | engines to build in parallel; by cores and free memory if unset; `--jobs` overrides it |
| `TRTPIPE_THREADS` | threads of onnxruntime |

Functions of yours (factories, data, metrics) have limits of their own where the two are unset: 30 minutes without
progress, 90 % of the machine's memory; where they are set, the seconds count from the last progress.
"""


def render() -> str:
    """The page."""
    lines = [_INTRODUCTION, *_exit_codes(), *_common()]
    context = click.Context(root, info_name="trtpipe")
    for heading, names in root.sections.items():
        lines += [f"## {heading}", ""]
        for name in names:
            command = root.get_command(context, name)
            assert command is not None
            lines += _command(command, click.Context(command, parent=context, info_name=name))
    return "\n".join(lines).rstrip() + "\n"


def _exit_codes() -> Iterator[str]:
    yield from ("## Exit codes", "", "| code | meaning |", "|---|---|")
    yield from (f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    yield ""


def _common() -> Iterator[str]:
    yield from ("## Options of every command", "", "They may stand before or after the command's name.", "")
    yield from _options(root, click.Context(root, info_name="trtpipe"), frozenset({"--version"}))


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    words = [context.command_path, *command.collect_usage_pieces(context)]
    yield from (f"### {context.command_path}", "", "```", " ".join(words), "```", "")
    yield from (inspect.cleandoc(command.help or ""), "")
    if isinstance(command, TopicCommand):
        yield from ("```sh", *command.examples, "```", "")
    yield from _options(command, context, _names(root))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command(inner, click.Context(inner, parent=context, info_name=name))


def _names(command: click.Command) -> frozenset[str]:
    return frozenset(name for parameter in command.params for name in parameter.opts)


def _options(command: click.Command, context: click.Context, without: frozenset[str]) -> Iterator[str]:
    options = [each for each in command.params if isinstance(each, click.Option) and not without & set(each.opts)]
    topics = by_topic(options)
    for topic, members in topics.items():
        if len(topics) > 1:
            yield from (f"{topic}:", "")
        yield from ("| option | meaning |", "|---|---|")
        records = filter(None, (each.get_help_record(context) for each in members))
        yield from (f"| `{_cell(names)}` | {_cell(meaning)} |" for names, meaning in records)
        yield ""


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    assert isinstance(root, LazyGroup)
    PAGE.write_text(render(), encoding="utf-8")
