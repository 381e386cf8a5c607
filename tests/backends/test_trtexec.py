"""The command line of trtexec for an engine."""

from __future__ import annotations

from trtpipe.backends.trtexec import command_line
from trtpipe.config.profile import BuildSettings, ShapeRange


def test_one_profile_needs_no_number() -> None:
    shapes = {"x": ShapeRange(min=(1, 3), opt=(2, 3), max=(8, 3)), "y": ShapeRange(min=(1,), opt=(2,), max=(8,))}
    assert command_line("m.onnx", "m.plan", [shapes], BuildSettings()).split()[4:] == [
        "--minShapes=x:1x3,y:1", "--optShapes=x:2x3,y:2", "--maxShapes=x:8x3,y:8",
    ]  # fmt: skip


def test_the_shapes_of_several_profiles_follow_their_numbers() -> None:
    profiles = [{"x": ShapeRange(min=(low, 3), opt=(low, 3), max=(low + 1, 3))} for low in (1, 4)]
    assert command_line("m.onnx", "m.plan", profiles, BuildSettings(opt_level=2)).split()[4:] == [
        "--profile=0", "--minShapes=x:1x3", "--optShapes=x:1x3", "--maxShapes=x:2x3",
        "--profile=1", "--minShapes=x:4x3", "--optShapes=x:4x3", "--maxShapes=x:5x3",
        "--builderOptimizationLevel=2",
    ]  # fmt: skip
