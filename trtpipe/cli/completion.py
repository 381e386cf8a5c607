"""Completion of commands, options and files on a shell's Tab key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from trtpipe.cli.options import command
from trtpipe.cli.results import print_document
from trtpipe.cli.text import emit

if TYPE_CHECKING:
    from trtpipe.cli.session import Session

_SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@command(
    click.argument("shell", type=click.Choice(list(_SHELLS))),
    examples=(
        "echo 'eval \"$(trtpipe completion bash)\"' >> $HOME/.bashrc",
        "echo 'eval \"$(trtpipe completion zsh)\"' >> $HOME/.zshrc",
        "trtpipe completion fish > $HOME/.config/fish/completions/trtpipe.fish",
    ),
)
def completion(session: Session, shell: str) -> int:
    """Print the script for completion in bash, zsh or fish.

    Shells that are opened afterward complete commands, options, files, and the names of what comes with trtpipe. Bash
    has to be 4.4 or newer.
    """
    context = click.get_current_context().find_root()
    script = _SHELLS[shell](context.command, {}, "trtpipe", "_TRTPIPE_COMPLETE").source()
    if session.json:
        return print_document("completion", {"script": script.strip()})
    emit(script.strip())
    return 0
