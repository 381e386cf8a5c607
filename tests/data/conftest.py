"""Fixtures of the data sources' tests."""

from __future__ import annotations

from fixtures_calibration import contract, listener, picture  # noqa: F401
