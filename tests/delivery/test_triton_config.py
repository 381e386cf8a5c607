"""Broken configurations of Triton, and what our own check says of them before a server does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from delivery.repositories import judged, tritonserver

from trtpipe.delivery.triton_config import (
    Batching,
    InstanceGroup,
    ModelConfig,
    Step,
    TensorConfig,
    Warmup,
    WarmupInput,
    check,
    data_type,
)
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

X = TensorConfig("x", "TYPE_FP32", (3, 8))
Y = TensorConfig("y", "TYPE_FP32", (2,), labels="labels.txt")
GIVEN = WarmupInput("x", "TYPE_FP32", (3, 8), "0-0")
GOOD = ModelConfig(
    "net", "tensorrt", (X,), (Y,), max_batch_size=8, groups=(InstanceGroup(profiles=(0, 1)),), batching=Batching((4,)),
    file="model.plan", of_capability={"8.9": "model.plan"}, warmup=(Warmup("one", 1, (GIVEN,)),), profiles=2,
)  # fmt: skip
FILES = {"model.plan": 100, "labels.txt": 4, "warmup/0-0": 96}
FIRST = Step("first", {"IMAGE": "IMAGE"}, {"x": "x"})
ENSEMBLE = ModelConfig(
    "both", "", (TensorConfig("IMAGE", "TYPE_STRING", (1,)),), (replace(Y, labels=""),), max_batch_size=8,
    steps=(FIRST, Step("net", {"x": "x"}, {"y": "y"})),
)  # fmt: skip


def _x(**changes: Any) -> dict[str, Any]:
    return {"inputs": (replace(X, **changes),), "warmup": ()}


def _group(**changes: Any) -> dict[str, Any]:
    return {"groups": (replace(GOOD.groups[0], **changes),)}


def _warmup(batch: int = 1, **changes: Any) -> dict[str, Any]:
    return {"warmup": (Warmup("one", batch, (replace(GIVEN, **changes),)),)}


#: What is broken -> the fields that break it, a word of the field that the error names, and whether the server sees it.
BROKEN: dict[str, tuple[dict[str, Any], str, bool]] = {
    "no name": ({"name": ""}, "name", False),
    "a path for a name": ({"name": "../net"}, "name", False),
    "a hidden name": ({"name": ".net"}, "name", False),
    "an unknown back-end": ({"backend": "tensorrtx", "groups": (InstanceGroup(),)}, "backend", False),
    "a negative batch": ({"max_batch_size": -1, "batching": None, "warmup": ()}, "max_batch_size", True),
    "no inputs": ({"inputs": (), "warmup": ()}, "input", False),
    "no outputs": ({"outputs": ()}, "output", False),
    "a nameless input": (_x(name=""), "input", True),
    "one name twice": ({"outputs": (replace(Y, name="x"),)}, "'x'", False),
    "an unknown type": (_x(data_type="TYPE_INVALID"), "TYPE_INVALID", True),
    "a length of 0": (_x(dims=(3, 0)), "dims", True),
    "a length of -5": (_x(dims=(3, -5)), "dims", True),
    "no lengths": (_x(dims=()), "dims", True),
    "a reshape of another size": (_x(reshape=(3, 9)), "reshape", True),
    "a reshape with another free length": (_x(dims=(3, -1), reshape=(24,)), "reshape", True),
    "a shape tensor of floats": (_x(shape_tensor=True), "shape tensor", False),
    "labels of an input": (_x(labels="labels.txt"), "labels", True),
    "too few labels": ({"outputs": (replace(Y, dims=(3,)),)}, "labels", False),
    "a label file that is not there": ({"outputs": (replace(Y, labels="names.txt"),)}, "label_filename", False),
    "batching without a batch axis": ({"max_batch_size": 0, "warmup": ()}, "dynamic_batching", True),
    "a preferred size above the largest": ({"batching": Batching((16,))}, "preferred_batch_size", True),
    "a preferred size of 0": ({"batching": Batching((0,))}, "preferred_batch_size", True),
    "a negative delay": ({"batching": Batching((4,), -1)}, "max_queue_delay", True),
    "no instances": (_group(count=0), "instance_group", False),
    "no groups": ({"groups": ()}, "instance_group", False),
    "an unknown kind": (_group(kind="KIND_TPU"), "KIND_TPU", True),
    "a plan on the CPU": (_group(kind="KIND_CPU"), "instance_group", False),
    "one GPU twice": (_group(gpus=(1, 1)), "gpus", False),
    "a negative GPU": (_group(gpus=(-1,)), "gpus", False),
    "a profile that the plan has not": (_group(profiles=(2,)), "profile", False),
    "profiles of a graph": ({"backend": "onnxruntime"}, "optimization profiles", False),
    "a plan that is not there": ({"file": "other.plan"}, "other.plan", False),
    "a capability that is none": ({"of_capability": {"sm89": "model.plan"}}, "cc_model_filenames", False),
    "warm-up of another type": (_warmup(data_type="TYPE_INT8"), "TYPE_INT8", False),
    "warm-up of another shape": (_warmup(dims=(3, 9)), "model_warmup", False),
    "warm-up with a free length": (_warmup(dims=(3, -1)), "model_warmup", False),
    "warm-up of an unknown input": (_warmup(name="z"), "model_warmup", False),
    "warm-up from a file that is not there": (_warmup(file="9-9"), "9-9", False),
    "warm-up above the largest batch": (_warmup(batch=9), "batch_size 9", False),
    "two warm-ups of one name": ({"warmup": GOOD.warmup * 2}, "model_warmup", False),
}  # fmt: skip

ENSEMBLES: dict[str, dict[str, Any]] = {
    "a step that reads what nobody makes": {"steps": (Step("net", {"x": "x"}, {"y": "y"}), FIRST)},
    "an output that nobody makes": {"steps": (FIRST,)},
    "a step of its own": {"steps": (replace(FIRST, model="both"), ENSEMBLE.steps[1])},
    "a tensor made twice": {"steps": (FIRST, FIRST, ENSEMBLE.steps[1])},
    "instances": {"groups": (InstanceGroup(),)},
    "batching": {"batching": Batching()},
    "a step without a model": {"steps": (replace(FIRST, model=""), ENSEMBLE.steps[1])},
}


def test_the_good_ones_pass() -> None:
    check(GOOD, FILES, 2)
    check(ENSEMBLE, {})


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_configuration_is_refused_by_field(name: str) -> None:
    changes, word, _ = BROKEN[name]
    with pytest.raises(InputError) as caught:
        check(replace(GOOD, **changes), FILES, 2)
    assert word in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("name", ENSEMBLES)
def test_a_broken_ensemble_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"both: config\.pbtxt"):
        check(replace(ENSEMBLE, **ENSEMBLES[name]), {})


@pytest.mark.parametrize("size", [0, 95])
def test_warm_up_from_a_file_that_is_too_short_is_refused(size: int) -> None:
    with pytest.raises(InputError, match="0-0"):
        check(GOOD, {**FILES, "warmup/0-0": size}, 2)


@pytest.mark.parametrize(("dtype", "word"), [
    ("bool", "TYPE_BOOL"), ("uint8", "TYPE_UINT8"), ("int64", "TYPE_INT64"), ("float16", "TYPE_FP16"),
    ("bfloat16", "TYPE_BF16"), ("object", "TYPE_STRING"), ("<U4", "TYPE_STRING"), ("string", "TYPE_STRING"),
    ("complex64", None), ("float8_e4m3fn", None), ("int4", None),
])  # fmt: skip
def test_types(dtype: str, word: str | None) -> None:
    assert data_type(dtype) == word


@pytest.mark.triton
@pytest.mark.skipif(tritonserver() is None, reason="pip install nvidia-pytriton")
def test_a_real_server_refuses_what_it_is_said_to_refuse(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    seen = {}
    for number, (name, (changes, _, sees)) in enumerate(BROKEN.items()):
        if "name" in changes:
            continue
        model = f"m{number}"
        folder = repository / model
        (folder / "1").mkdir(parents=True)
        (folder / "1" / "model.plan").write_bytes(b"plan")
        (folder / "config.pbtxt").write_text(replace(GOOD, **{"name": model, **changes}).to_text())
        seen[model] = (name, sees)
    taken, _ = judged(repository)
    assert {name for model, (name, sees) in seen.items() if sees and model in taken} == set()
    assert {name for model, (name, sees) in seen.items() if not sees and model not in taken} == set()
