"""Tables in the manual that are written from the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from trtpipe.backends.trt.options import OPTIONS
from trtpipe.config.profile import BuildSettings
from trtpipe.config.target import TARGETS

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("make_tables", DOCS / "make_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["targets.md", "building.md"])
def test_the_page_is_what_the_code_says_today(tables, page):
    assert (DOCS / page).read_text(encoding="utf-8") == tables.render(page), "run: python docs/make_tables.py"


def test_every_target_has_its_row(tables):
    rows = [row for row in tables.targets() if row.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [str(target) for target in TARGETS]


def test_every_builder_option_is_explained():
    """Limits and the sharing of plans are no options of TensorRT's."""
    own = {"time_limit", "memory_limit", "shared_plan", "fold_preprocessing"}
    assert {option.name for option in OPTIONS} == set(BuildSettings.model_fields) - own
