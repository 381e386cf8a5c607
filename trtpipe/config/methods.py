"""Names of the ways to choose a range: for recipes, and for a command line that must not load more for its help."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

#: Methods that choose a tensor's range by its statistics alone; ``auto`` chooses among them.
SingleMethod: TypeAlias = Literal["percentile", "max", "mse", "entropy"]
Method: TypeAlias = Literal["auto", "percentile", "max", "mse", "entropy"]
METHOD_NAMES: tuple[str, ...] = get_args(Method)
