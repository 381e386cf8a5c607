"""Profiles and recipes in force, as the files that say them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.config.tomlfile import FROM_FILE, dump_toml

if TYPE_CHECKING:
    from collections.abc import Collection

    from trtpipe.config.job import Role
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.recipe import CalibrationRecipe, DataSettings


def profile_toml(profile: DeploymentProfile) -> str:
    """A profile as a file says it, without what are defaults."""
    found = profile.model_dump(exclude_defaults=True, context=FROM_FILE)
    if len(profile.shapes) == 1:
        found["shapes"] = found["shapes"][0]
    return dump_toml(found)


def recipe_toml(recipe: CalibrationRecipe, held: Collection[Role]) -> str:
    """A recipe as a file says it: paths absolute, because relative ones are relative to the file.

    Args:
        held: the data that the caller holds: no file can name it.
    """
    found = recipe.model_dump(exclude_defaults=True)
    found |= {"method": recipe.method, "weights": recipe.weights}
    roles: tuple[tuple[str, Role, DataSettings | None], ...] = (
        ("data", "calibration-data", recipe.data),
        ("evaluation", "evaluation-data", recipe.evaluation),
    )
    for name, role, data in roles:
        if data is not None and name in found:
            found[name] |= _anchored(data)
            if role in held:
                del found[name]["source"]
    return dump_toml(found)


def _anchored(data: DataSettings) -> dict[str, str]:
    return {
        name: str(Path(text).absolute())
        for name in ("source", "metric")
        if (text := getattr(data, name, "")) and Path(text.rpartition(":")[0] or text).exists()
    }
