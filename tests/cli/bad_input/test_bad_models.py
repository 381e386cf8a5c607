"""Sources that cannot be used: files that are no model, external data that is not where it must be, bad factories."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.bad_input.conftest import Refused, Snapshot, Variant
    from tests.cli.conftest import Run

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 132\n"

FACTORIES = """\
def raises(): raise RuntimeError("the weights are gone")
def leaves(): raise SystemExit("no weights, no model")
def text(): return "a model"
def needs(width, depth=2): return width * depth
"""


class TestFile:
    def test_missing(self, refused: Refused, tmp_path: Path) -> None:
        error, remedy = refused(tmp_path / "nowhere.onnx")
        assert error == f"{tmp_path}/nowhere.onnx: no such file"
        assert remedy == "check the path"

    def test_folder(self, refused: Refused, tmp_path: Path) -> None:
        error, remedy = refused(tmp_path)
        assert error.startswith(f"{tmp_path}: a folder")
        assert ".onnx file inside" in remedy

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "empty file"),
            (b"#!/bin/sh\necho hello\n", "a text file"),
            (POINTER, "a Git LFS pointer"),
            (bytes(range(200, 256)) * 8, "not an ONNX model, or cut short"),
            (b"\x08\x0a", "not an ONNX model, or cut short: it holds no graph"),
        ],
        ids=["empty", "text", "lfs-pointer", "noise", "header-alone"],
    )
    def test_that_is_no_model(self, refused: Refused, tmp_path: Path, content: bytes, words: str) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        error, remedy = refused(path)
        assert error.startswith(f"{path}: {words}")
        assert remedy == ("fetch the real file: git lfs pull" if content == POINTER else remedy)
        assert remedy

    @pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
    def test_truncated(self, refused: Refused, model: Path, tmp_path: Path, share: float) -> None:
        content = model.read_bytes()
        path = tmp_path / "cut.onnx"
        path.write_bytes(content[: int(len(content) * share)])
        error, _ = refused(path)
        assert error.startswith(f"{path}: not an ONNX model, or cut short")

    @pytest.mark.parametrize("suffix", ["pt", "pth"])
    def test_pickled_checkpoint(self, refused: Refused, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"model.{suffix}"
        path.write_bytes(b"PK\x03\x04")
        error, remedy = refused(path)
        assert error.startswith(f"{path}: a pickled PyTorch file")
        assert "torch.export.save" in remedy

    def test_pt2_that_is_none(self, refused: Refused, tmp_path: Path) -> None:
        path = tmp_path / "model.pt2"
        path.write_bytes(b"not a zip archive" * 10)
        error, remedy = refused(path)
        assert error.startswith(f"{path}: not a program saved by torch.export.save")
        assert remedy == "save it again"


class TestGraph:
    def test_unknown_operator(self, refused: Refused, variant: Variant) -> None:
        proto, path = variant()
        proto.graph.node[1].op_type = "Frobnicate"
        onnx.save(proto, path)
        error, remedy = refused(path)
        assert error == f"{path}: node 'relu' uses the unknown operator Frobnicate (opset 20)"
        assert "replace the operator" in remedy

    def test_unknown_domain(self, refused: Refused, variant: Variant) -> None:
        proto, path = variant()
        proto.graph.node[1].domain = "com.example"
        proto.opset_import.append(onnx.helper.make_opsetid("com.example", 3))
        onnx.save(proto, path)
        error, _ = refused(path)
        assert error == f"{path}: node 'relu' uses the unknown operator com.example::Relu (opset 3)"

    def test_value_that_nobody_makes(self, refused: Refused, variant: Variant) -> None:
        proto, path = variant()
        proto.graph.node[0].input[0] = "nothing"
        onnx.save(proto, path)
        error, _ = refused(path)
        assert error.startswith(f"{path}: not a valid ONNX model")
        assert "'nothing'" in error
        assert "matmul" in error

    @pytest.mark.parametrize("spoil", ["type", "size"])
    def test_weight_that_contradicts_itself(self, refused: Refused, variant: Variant, spoil: str) -> None:
        proto, path = variant()
        weight = proto.graph.initializer[0]
        if spoil == "type":
            weight.data_type = 77
        else:
            weight.raw_data = weight.raw_data[:-4]
        onnx.save(proto, path)
        error, remedy = refused(path)
        assert error.startswith(f"{path}: not a valid ONNX model")
        assert remedy


def outside(path: Path) -> None:
    data = path.with_name("w.data")
    shutil.move(data, path.parent.parent / "w.data")
    relocate(path, "../w.data")


def absolute(path: Path) -> None:
    relocate(path, str(path.parent.parent / "elsewhere"))


def link(path: Path) -> None:
    data = path.with_name("w.data")
    target = shutil.move(data, path.parent.parent / "w.data")
    data.symlink_to(target)


def hard_link(path: Path) -> None:
    (path.parent.parent / "w.data").hardlink_to(path.with_name("w.data"))


def missing(path: Path) -> None:
    path.with_name("w.data").unlink()


def short(path: Path) -> None:
    data = path.with_name("w.data")
    data.write_bytes(data.read_bytes()[:-4])


def short_without_length(path: Path) -> None:
    short(path)
    change(path, length=None)


def before_the_file(path: Path) -> None:
    change(path, offset="-8")


def relocate(path: Path, location: str) -> None:
    change(path, location=location)


def change(path: Path, **entries: str | None) -> None:
    """Rewrite what the only external tensor says of its data; ``None`` takes an entry away."""
    proto = onnx.load(path, load_external_data=False)
    external = proto.graph.initializer[0].external_data
    kept = {entry.key: entry.value for entry in external} | entries
    del external[:]
    external.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in kept.items() if value)
    onnx.save(proto, path)


class TestExternalData:
    @pytest.mark.parametrize(
        ("spoil", "words"),
        [
            (missing, "is missing"),
            (short, "is short: w.data has 124 bytes, 128 are needed"),
            (short_without_length, "is short: w.data has 124 bytes, 128 are needed"),
            (before_the_file, "begins at -8"),
            (outside, "lies outside the model's folder"),
            (absolute, "lies outside the model's folder"),
            (link, "lies outside the model's folder"),
            (hard_link, "is not a plain file of its own"),
        ],
        ids=lambda value: getattr(value, "__name__", ""),
    )
    def test_names_model_tensor_and_what_is_wrong(
        self, refused: Refused, variant: Variant, spoil: Callable[[Path], None], words: str
    ) -> None:
        _, path = variant("inner", external="w.data")
        spoil(path)
        error, remedy = refused(path)
        assert error.startswith(f"{path}: external data of tensor 'w'")
        assert words in error
        assert remedy

    @pytest.mark.parametrize("where", ["initializer", "constant"])
    def test_that_is_in_order_is_taken_into_the_model(
        self, run: Run, variant: Variant, snapshot: Snapshot, tmp_path: Path, where: str
    ) -> None:
        proto, path = variant("inner", external="w.data")
        if where == "constant":
            weight = proto.graph.initializer.pop()
            proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=weight))
            onnx.save(proto, path)
        before = snapshot(path.parent)
        out = tmp_path / "out"
        assert run("export", path, "-o", out).exit_code == 0
        assert snapshot(path.parent) == before
        made = onnx.load(out / "model.onnx", load_external_data=False)
        weight = made.graph.initializer[0] if where == "initializer" else made.graph.node[0].attribute[0].t
        np.testing.assert_array_equal(
            onnx.numpy_helper.to_array(weight).ravel(), np.frombuffer(before[path.with_name("w.data")], np.float32)
        )


class TestFactory:
    @pytest.fixture
    def factories(self, tmp_path: Path) -> Path:
        path = tmp_path / "factories.py"
        path.write_text(FACTORIES)
        return path

    @pytest.mark.parametrize(
        ("function", "error", "remedy"),
        [
            ("raises", ":raises raised RuntimeError: the weights are gone (factories.py, line 1)", "fix it"),
            ("leaves", ":leaves raised SystemExit: no weights, no model (factories.py, line 2)", "fix it"),
            ("text", ":text returned a str, not an nn.Module", "return an nn.Module"),
            ("needs", ":needs needs arguments (width)", "without arguments"),
            ("rases", " has no function 'rases'", "raises"),
        ],
    )
    def test_names_factory_and_fault(
        self, refused: Refused, factories: Path, function: str, error: str, remedy: str
    ) -> None:
        said, advice = refused(f"{factories}:{function}")
        assert said == f"{factories}{error}"
        assert remedy in advice

    def test_file_that_does_not_import(self, refused: Refused, tmp_path: Path) -> None:
        path = tmp_path / "factories.py"
        path.write_text("import no_such_package")
        error, remedy = refused(f"{path}:factory")
        assert error == f"{path} raised ModuleNotFoundError when loaded: No module named 'no_such_package'"
        assert remedy.startswith("pip install no_such_package")

    def test_file_that_does_not_exist(self, refused: Refused, tmp_path: Path) -> None:
        error, remedy = refused(f"{tmp_path}/nowhere.py:factory")
        assert error == f"{tmp_path}/nowhere.py: no such file"
        assert remedy

    def test_file_without_a_function(self, refused: Refused, factories: Path) -> None:
        error, remedy = refused(factories)
        assert error == f"{factories}: which function makes the model?"
        assert f"{factories}:" in remedy

    def test_neither_file_nor_module(self, refused: Refused) -> None:
        error, remedy = refused("my model:factory")
        assert error == "my model:factory: neither a file nor a module with that name"
        assert "path/file.py:factory" in remedy
