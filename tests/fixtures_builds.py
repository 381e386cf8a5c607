"""A build with a placeholder engine, which tests of what becomes of builds share; they do not change it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from models import conv_net, save
from world import World, write_data

import trtpipe

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def built_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The small net in int8 with five classes, in the folder ``out``."""
    folder = tmp_path_factory.mktemp("built")
    save(conv_net(), folder / "net.onnx")
    write_data(folder)
    world = World(folder)
    trtpipe.build(world.job(recipe={"classes": list("abcde")}), folder / "out")
    return world


@pytest.fixture(scope="session")
def build(built_world: World) -> Path:
    return built_world.folder / "out"
