"""Fixtures of the reference executor's tests."""

from __future__ import annotations

from fixtures_passes import apply, lower, result  # noqa: F401
from fixtures_stages import table, workdir  # noqa: F401
