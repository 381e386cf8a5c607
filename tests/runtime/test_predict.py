"""``predict.py``, the example in a package, and the classes that it prints."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from models import normal
from packages import record

import trtpipe
from trtpipe.delivery.record import Postprocessing
from trtpipe.errors import InputError
from trtpipe.runtime import load, predict
from trtpipe.runtime.classes import activated, best_classes

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
IMAGE = {"resize": [8, 8], "mean": [0.5, 0.5, 0.5]}


@pytest.fixture(scope="module")
def package(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = trtpipe.ModelDescription(
        inputs={"x": {"image": IMAGE}}, outputs={"y": {"activation": "softmax", "classes": True}}
    )
    out = tmp_path_factory.mktemp("predict") / "p"
    samples = [{"x": normal(2, 3, 8, 8, seed=1)}, {"x": normal(1, 3, 8, 8, seed=2)}]
    return trtpipe.make_package(build, out, description=words, samples=samples, python=True).out


def expected(package: Path, x: np.ndarray) -> list[str]:
    with load(package, "cpu") as model:
        scores = model(x)["y"].astype(np.float64)
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return [f"{'abcde'[row.argmax()]} ({row.max():.3g})" for row in chances]


def test_it_is_a_file_of_the_package_that_runs_where_it_lies(package: Path) -> None:
    assert "predict.py" in [file.name for file in trtpipe.verify_package(package).model.files]
    done = subprocess.run(
        [sys.executable, package / "predict.py", "--device", "cpu"], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(ROOT)}, cwd="/",
    )  # fmt: skip
    lines = [f"reference input 0: {each}" for each in expected(package, normal(2, 3, 8, 8, seed=1))]
    lines += [f"reference input 1: {each}" for each in expected(package, normal(1, 3, 8, 8, seed=2))]
    assert done.stdout.splitlines() == lines
    trtpipe.verify_package(package)  # nothing was left behind


def test_without_it_a_package_has_none(build: Path, tmp_path: Path) -> None:
    assert not (trtpipe.make_package(build, tmp_path / "p").out / "predict.py").exists()


@pytest.mark.parametrize("kind", ["npy", "npz", "png"])
def test_runs_on_the_files_that_are_named(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    x = normal(1, 3, 8, 8, seed=7)
    path = tmp_path / f"f.{kind}"
    if kind == "png":
        image = pytest.importorskip("PIL.Image")
        pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image.fromarray(pixels).save(path)
        x = (pixels.astype(np.float32) / 255 - 0.5).transpose(2, 0, 1)[None]
    elif kind == "npy":
        np.save(path, x)
    else:
        np.savez(path, x=x)
    assert predict.main([str(path), "--package", str(package), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{path}: {each}" for each in expected(package, x)]


def test_outputs_that_are_no_classes_are_described(
    build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = trtpipe.ModelDescription(outputs={"y": {"unit": "m"}})
    made = trtpipe.make_package(build, tmp_path / "p.tar", description=words, samples=[{"x": normal(2, 3, 8, 8)}])
    assert predict.main(["--package", str(made.out), "--device", "cpu"]) == 0
    with load(made.out, "cpu") as model:
        y = model(normal(2, 3, 8, 8))["y"]
    said = capsys.readouterr().out
    assert said == f"reference input 0: y float32[2, 5], {y.min():.4g} to {y.max():.4g} m\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.npy", None, "missing.npy"),
        ("a.npz", b"no zip", "a.npz"),
        ("a.npz", b"PK\x03\x04 cut short", "a.npz"),
        ("a.npz", b"", "a.npz"),
        ("a.npy", b"", "a.npy"),
        ("a.npy", b"\x93NUMPY\x01\x00\x76", "a.npy"),
        ("a.png", b"no image", "a.png"),
        ("a.npy", np.zeros((1, 3, 9, 9), np.float32), "'x'"),
        ("a.npy", np.array([{}], object), "a.npy"),
    ],
)
def test_what_goes_wrong_is_said_in_two_lines(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: object, said: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        np.save(tmp_path / name, content, allow_pickle=True)  # type: ignore[arg-type]
    assert predict.main([str(tmp_path / name), "--package", str(package), "--device", "cpu"]) == 2
    error, remedy = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert said in error
    assert remedy.startswith("  try: ")


@pytest.mark.parametrize("options", [{"triton": True}, {"handover": "orin"}])
def test_it_goes_with_a_package_alone(build: Path, tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="python: "):
        trtpipe.make_package(build, tmp_path / "p", python=True, **options)


def test_its_name_is_taken(build: Path, tmp_path: Path) -> None:
    (tmp_path / "predict.py").write_text("mine")
    with pytest.raises(InputError, match=r"python: adds predict\.py"):
        trtpipe.make_package(build, tmp_path / "p", licenses=[tmp_path / "predict.py"], python=True)


class TestClasses:
    @pytest.mark.parametrize(
        ("activation", "function"),
        [
            ("none", lambda v: v),
            ("sigmoid", lambda v: 1 / (1 + np.exp(-v.astype(np.float64)))),
            ("softmax", lambda v: np.exp(v.astype(np.float64)) / np.exp(v.astype(np.float64)).sum(1, keepdims=True)),
        ],
    )
    def test_activations(self, activation: str, function: Callable[[np.ndarray], np.ndarray]) -> None:
        values = normal(3, 4, seed=1)
        np.testing.assert_allclose(activated(values, Postprocessing("y", activation)), function(values))  # type: ignore[arg-type]

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize(("activation", "wanted"), [("sigmoid", [0.0, 1.0]), ("softmax", [0.0, 1.0])])
    def test_large_values_do_not_overflow(self, activation: str, wanted: list[float]) -> None:
        values = np.array([[-6e4, 6e4]], np.float16)
        np.testing.assert_allclose(activated(values, Postprocessing("y", activation)), [wanted], atol=1e-300)  # type: ignore[arg-type]

    def test_the_best_of_every_sample(self) -> None:
        model = record(postprocessing=(Postprocessing("y", classes=True),))
        found = best_classes(model, {"y": np.array([[1.0, 2.0], [4.0, 3.0]], np.float32)})
        assert [(each.name, each.score) for each in found] == [("b", 2.0), ("a", 4.0)]

    def test_one_of_several_outputs_is_named(self) -> None:
        model = record(postprocessing=(Postprocessing("y", classes=True), Postprocessing("z", classes=True)))
        outputs = {"y": np.array([[1.0, 2.0]], np.float32), "z": np.array([[4.0, 3.0]], np.float32)}
        assert [best_classes(model, outputs, name)[0].name for name in ("y", "z")] == ["b", "a"]
        with pytest.raises(InputError, match="several outputs hold them"):
            best_classes(model, outputs)
        with pytest.raises(InputError, match="output 'x' holds none"):
            best_classes(model, outputs, "x")

    def test_scores_that_are_no_numbers_are_no_answer(self) -> None:
        model = record(postprocessing=(Postprocessing("y", classes=True),))
        with pytest.raises(InputError, match="sample 1 has scores that are not numbers"):
            best_classes(model, {"y": np.array([[1.0, 2.0], [np.nan, 3.0]], np.float32)})

    def test_what_holds_none_is_refused(self) -> None:
        model = record(postprocessing=(Postprocessing("y", classes=True),))
        for shape in ((2, 2, 2), (2, 3), (2, 1)):
            with pytest.raises(InputError, match="x".join(map(str, shape))):
                best_classes(model, {"y": np.zeros(shape, np.float32)})
        for outputs in ({}, {"y": [[1.0, 2.0]]}, [1.0, 2.0]):
            with pytest.raises(InputError, match="outputs: no array for 'y'"):
                best_classes(model, outputs)  # type: ignore[arg-type]
        for other in (replace(model, classes=()), replace(model, postprocessing=())):
            with pytest.raises(InputError, match="scores of classes"):
                best_classes(other, {"y": np.zeros((2, 2), np.float32)})
