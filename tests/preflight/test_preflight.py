"""What the pre-flight refuses, what it lets through, and that it needs nothing native and no memory to tell."""

from __future__ import annotations

import os
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hostile.models import CANARY, DANGEROUS, REFUSED, external, hostile_bytes, hostile_places, plain
from models import CASES, normal
from onnx import TensorProto, helper, numpy_helper

from trtpipe.errors import InputError
from trtpipe.preflight import Budgets, Cleared, check_model, digest_model, seal_model
from trtpipe.preflight.sealing import open_model

if TYPE_CHECKING:
    from collections.abc import Iterator

BYTES = hostile_bytes()
PLACES = ("..", "an absolute path", "/dev/zero", "a link", "a hard link", "a linked folder", "a FIFO")


def check(path: Path, **budgets: int) -> Cleared:
    handle = open_model(path)
    try:
        return check_model(path, handle, budgets=Budgets(**budgets))
    finally:
        os.close(handle)


def written(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


class TestRefusals:
    @pytest.mark.parametrize("name", REFUSED)
    def test_spoilt_models(self, tmp_path: Path, traced: None, name: str) -> None:
        proto = plain()
        REFUSED[name](proto)
        path = written(proto, tmp_path)
        del proto
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with pytest.raises(InputError) as caught:
            check(path)
        assert tracemalloc.get_traced_memory()[1] - before < 150e6
        assert caught.value.message.startswith(f"{path}: ")
        assert caught.value.remedy
        assert caught.value.message.isprintable(), "nothing a terminal would obey"

    @pytest.mark.parametrize("name", BYTES)
    def test_garbled_bytes(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(BYTES[name])
        with pytest.raises(InputError, match=r"^.*model\.onnx: "):
            check(path)

    def test_external_data_in_bad_places(self, tmp_path: Path) -> None:
        for name, path in hostile_places(tmp_path).items():
            with pytest.raises(InputError) as caught:
                digest_model(path)
            assert str(path) in caught.value.message, name
            with pytest.raises(InputError):
                seal_model(path, tmp_path / "sealed" / path.parent.name)
        copies = [path for path in (tmp_path / "sealed").rglob("*") if path.is_file()]
        assert not any(CANARY in path.read_bytes() for path in copies)

    @pytest.mark.parametrize("name", [name for name in REFUSED if "name with" in name])
    def test_control_characters_are_shown_as_escapes(self, tmp_path: Path, name: str) -> None:
        proto = plain()
        REFUSED[name](proto)
        with pytest.raises(InputError, match=r"holds control characters") as caught:
            check(written(proto, tmp_path))
        assert "\\" in caught.value.message

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("function bomb of 30 levels", "call each other more than 16 deep"),
            ("function bomb, flat and wide", "with its functions expanded it has 6.4e+07 nodes; 100000 is the limit"),
            ("function that calls itself", "function 'A' calls itself"),
            ("functions in a circle", "function 'A' calls itself"),
            ("a chain of 100,001 nodes", "more than 100000 nodes"),
            ("a circle", "node 'matmul': its input 'loop' is produced only after it"),
            ("a required attribute missing", "lacks the attribute 'to'"),
            ("dimensions that overflow to the right number", "would hold 5.53e+19 elements"),
            ("values in two fields", "tensor 'w' holds its values twice"),
            ("fewer values than the shape", "holds 48 bytes of values, 480000 are needed"),
        ],
    )
    def test_the_message_says_what_is_wrong(self, tmp_path: Path, name: str, words: str) -> None:
        proto = plain()
        REFUSED[name](proto)
        with pytest.raises(InputError) as caught:
            check(written(proto, tmp_path))
        assert words in caught.value.message


class TestLetThrough:
    @pytest.mark.parametrize("name", CASES)
    def test_ordinary_models(self, tmp_path: Path, name: str) -> None:
        proto = CASES[name]()
        cleared = check(written(proto, tmp_path))
        assert cleared.nodes >= len(proto.graph.node)
        assert cleared.external == ()

    @pytest.mark.parametrize("name", sorted(set(DANGEROUS) - {"opset -1"}))
    def test_what_only_running_can_tell(self, tmp_path: Path, name: str) -> None:
        proto = plain()
        DANGEROUS[name](proto)
        assert check(written(proto, tmp_path)).nodes >= 2

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::RuntimeWarning")
    def test_every_node_test_of_onnx_itself(self, tmp_path: Path) -> None:
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
        for case in cases:
            check(written(case.model, tmp_path))
        assert len(cases) > 1800

    @pytest.mark.parametrize(
        "values",
        [
            helper.make_tensor("w", TensorProto.FLOAT16, [2, 2], [1.0, 2, 3, 4]),
            helper.make_tensor("w", TensorProto.BFLOAT16, [3], [1.0, -1, 0]),
            helper.make_tensor("w", TensorProto.INT64, [3], [-1, 1 << 62, 0]),
            helper.make_tensor("w", TensorProto.INT8, [3], [-1, 100, 0]),
            helper.make_tensor("w", TensorProto.COMPLEX64, [2], [1 + 2j, 3j]),
            helper.make_tensor("w", TensorProto.STRING, [2], [b"a", b"\xff"]),
            helper.make_tensor("w", TensorProto.BOOL, [0], []),
            helper.make_tensor("w", TensorProto.INT4, [3], [1, -8, 7]),
            helper.make_tensor("w", TensorProto.UINT64, [], [1 << 63]),
            numpy_helper.from_array(np.float32(2), "w"),
        ],
        ids=lambda tensor: TensorProto.DataType.Name(tensor.data_type),
    )
    def test_weights_of_every_kind(self, tmp_path: Path, values: onnx.TensorProto) -> None:
        proto = plain()
        values.name = "extra"
        proto.graph.initializer.append(values)
        check(written(proto, tmp_path))
        if values.dims and values.dims[0]:
            values.dims[0] += 2
            proto.graph.initializer[-1].CopyFrom(values)
            if values.data_type != TensorProto.INT4 or values.raw_data:
                with pytest.raises(InputError, match="tensor 'extra'"):
                    check(written(proto, tmp_path))

    def test_numbers_that_are_zero_may_be_left_out(self, tmp_path: Path) -> None:
        """Writers in other languages leave them out."""
        proto = plain()
        node = helper.make_node("Softmax", ["y"], ["z"], axis=0)
        node.attribute[0].ClearField("i")
        proto.graph.node.append(node)
        check(written(proto, tmp_path))


class TestBudgets:
    @pytest.mark.parametrize(
        ("budget", "enough", "words"),
        [
            ("nodes", 2, "more than 1 nodes"),
            ("elements", 12, "would hold"),
            ("rank", 2, "more than 1 dimensions"),
            ("name", 6, "a name of 6 characters"),
            ("file_bytes", plain().ByteSize(), "protobuf holds less than"),
        ],
    )
    def test_one_less_than_needed_is_too_little(self, tmp_path: Path, budget: str, enough: int, words: str) -> None:
        path = written(plain(), tmp_path)
        check(path, **{budget: enough})
        with pytest.raises(InputError, match=words):
            check(path, **{budget: enough - 1})

    def test_values_are_not_read(self, tmp_path: Path, traced: None) -> None:
        proto = plain()
        proto.graph.initializer.append(numpy_helper.from_array(np.zeros(30 << 20, np.uint8), "large"))
        path = written(proto, tmp_path)
        del proto
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        check(path)
        assert tracemalloc.get_traced_memory()[1] - before < 4 << 20


class TestSealing:
    def model(self, folder: Path, name: str = "w.bin") -> Path:
        path = external(folder, name)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(normal(12).tobytes())
        return path

    @pytest.mark.parametrize("name", ["w.bin", "sub/w.bin", "./w.bin"])
    def test_the_copy_is_whole_and_its_own(self, tmp_path: Path, name: str) -> None:
        path = self.model(tmp_path / "model", name)
        sealed = seal_model(path, tmp_path / "private", digest_model(path))
        assert sealed.read_bytes() == path.read_bytes()
        assert (sealed.parent / name).read_bytes() == normal(12).tobytes()
        assert (sealed.parent / name).stat().st_ino != (path.parent / name).stat().st_ino
        assert digest_model(sealed) == digest_model(path)

    @pytest.mark.parametrize("which", ["model.onnx", "w.bin"])
    def test_a_changed_model_is_another(self, tmp_path: Path, which: str) -> None:
        path = self.model(tmp_path / "model")
        before = digest_model(path)
        content = bytearray((path.parent / which).read_bytes())
        content[content.index(b"relu") if which == "model.onnx" else 5] ^= 1
        (path.parent / which).write_bytes(content)
        assert digest_model(path) != before
        with pytest.raises(InputError, match=r"model\.onnx: was changed while it was read"):
            seal_model(path, tmp_path / "private", before)

    def test_place_and_time_do_not_count(self, tmp_path: Path) -> None:
        one, two = self.model(tmp_path / "one"), self.model(tmp_path / "two")
        os.utime(two, (1, 1))
        assert digest_model(one) == digest_model(two)

    def test_a_link_within_the_folder_is_followed(self, tmp_path: Path) -> None:
        path = self.model(tmp_path / "model")
        (path.parent / "w.bin").rename(path.parent / "real.bin")
        (path.parent / "w.bin").symlink_to("real.bin")
        sealed = seal_model(path, tmp_path / "private")
        assert not (sealed.parent / "w.bin").is_symlink()
        assert (sealed.parent / "w.bin").read_bytes() == normal(12).tobytes()

    def test_no_handle_is_left_open(self, tmp_path: Path) -> None:
        if not Path("/proc/self/fd").exists():
            pytest.skip("needs /proc")
        before = len(list(Path("/proc/self/fd").iterdir()))
        path = self.model(tmp_path / "model")
        seal_model(path, tmp_path / "private")
        (path.parent / "w.bin").unlink()
        with pytest.raises(InputError):
            digest_model(path)
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    @pytest.mark.skipif(sys.platform != "linux", reason="opens FIFOs as Linux does")
    def test_a_model_that_is_a_pipe_does_not_block(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "model.onnx")
        with pytest.raises(InputError, match="not a plain file"):
            digest_model(tmp_path / "model.onnx")
