"""The commands to begin with: a profile and a recipe for a model, and those that come with trtpipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtpipe.cli.options import PATH, command, source_argument
from trtpipe.cli.results import print_document, print_paths
from trtpipe.cli.tables import table
from trtpipe.cli.text import emit
from trtpipe.config.units import printable, suggestion
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.cli.session import Session


@command(
    source_argument,
    click.option(
        "-o", "--out", "folder", type=PATH, default=Path(), metavar="FOLDER", help="Where to write (default: here)."
    ),
    click.option("--calib-data", default="", metavar="DATA", help="Calibration data: images, .npz, file.py:function."),
    click.option("--eval-data", default="", metavar="DATA", help="Evaluation data: held-out samples."),
    examples=("trtpipe init model.onnx --calib-data photos/ -o start",),
)
def init(session: Session, source: str, folder: Path, calib_data: str, eval_data: str) -> int:
    """Write a commented profile and recipe for a model, to be edited.

    SOURCE is what trtpipe build takes. It is exported once to see its inputs, which the build then finds in the cache.
    The command that builds with both files is printed; nothing that is there is replaced.
    """
    import trtpipe

    with session.listening() as progress:
        found = trtpipe.init(
            source, folder, calib_data=calib_data, eval_data=eval_data, settings=session.settings, progress=progress
        )
    if session.json:
        files = {"profile": str(found.profile), "recipe": str(found.recipe)}
        return print_document("init", {**files, "command": list(found.command), "guesses": list(found.guesses)})
    for guess in found.guesses:
        emit(f"look at {printable(guess)}")
    print_paths([found.profile, found.recipe], found.command[1:])
    return 0


@command(
    click.argument("name", required=False),
    examples=("trtpipe recipes", "trtpipe recipes imagenet > mine.toml"),
)
def recipes(session: Session, name: str | None) -> int:
    """List the recipes and profiles that come with trtpipe, or print one.

    Each can be named in place of a file: --calib imagenet, --profile edge. To change one, print it into a file of your
    own: trtpipe recipes imagenet > mine.toml.
    """
    import trtpipe
    from trtpipe.config.presets import presets

    calib, profiles = presets("calib"), presets("profiles")
    if name is not None:
        path = calib.get(name) or profiles.get(name)
        if path is None:
            raise InputError(f"no recipe or profile is called {name!r}", suggestion(name, [*calib, *profiles], "names"))
        emit(path.read_text(encoding="utf-8").rstrip())
        return 0
    rows = [
        *((each, "recipe", trtpipe.CalibrationRecipe.load(path).description) for each, path in calib.items()),
        *((each, "profile", trtpipe.DeploymentProfile.load(path).description) for each, path in profiles.items()),
    ]
    if session.json:
        names = ("name", "kind", "description")
        return print_document("recipes", {"recipes": [dict(zip(names, row, strict=True)) for row in rows]})
    emit(table(("name", "kind", "for"), rows))
    return 0
