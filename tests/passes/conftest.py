"""Fixtures of the graph passes' tests."""

from __future__ import annotations

from fixtures_passes import apply, lower, result  # noqa: F401
