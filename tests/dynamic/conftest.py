"""Fixtures of the shapes' tests."""

from __future__ import annotations

from fixtures_stages import table, workdir  # noqa: F401
