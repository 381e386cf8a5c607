from __future__ import annotations

import pytest

from trtpipe.config.advisories import open_advisories


@pytest.mark.parametrize(
    ("installed", "fixed"),
    [
        ({"tensorrt": "10.3.0"}, ["10.16.1", "11.0"]),
        ({"tensorrt": "10.16.1.11"}, ["11.0"]),
        ({"tensorrt": "10.9"}, ["10.16.1", "11.0"]),
        ({"tensorrt": "11.0.0.114"}, []),
        ({"tensorrt": "11.4.1"}, []),
        ({"tensorrt-rtx": "1.5.0"}, []),
        ({}, []),
    ],
)
def test_versions_below_those_that_bulletins_ask_for(installed: dict[str, str], fixed: list[str]) -> None:
    found = open_advisories(installed.get)
    assert len(found) == len(fixed)
    for sentence, least in zip(found, fixed, strict=True):
        assert f"asks for {least} " in sentence
        assert sentence.startswith(" ".join(next(iter(installed.items()))))
