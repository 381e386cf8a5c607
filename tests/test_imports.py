from __future__ import annotations

import importlib
import sys

import pytest

from trtpipe.imports import without


def test_the_package_cannot_be_imported_inside_and_can_be_afterwards() -> None:
    sys.modules.pop("colorsys", None)
    with without("colorsys"), pytest.raises(ModuleNotFoundError):
        importlib.import_module("colorsys")
    assert importlib.import_module("colorsys").rgb_to_hsv(1, 1, 1) == (0.0, 0.0, 1)


def test_a_package_that_is_imported_already_stays_as_it_is() -> None:
    module = importlib.import_module("colorsys")
    with without("colorsys"):
        assert importlib.import_module("colorsys") is module


def test_an_error_inside_leaves_nothing_behind() -> None:
    sys.modules.pop("colorsys", None)
    with pytest.raises(RuntimeError, match="inside"), without("colorsys"):
        raise RuntimeError("inside")
    assert "colorsys" not in sys.modules
