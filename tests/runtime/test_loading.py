"""A package that is called: on the CPU, and on a GPU that works in host memory."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import OnDevice
from models import model, save
from packages import digest

import trtpipe
from trtpipe.delivery.reader import in_order, member
from trtpipe.errors import HostError, InputError
from trtpipe.reference.pytorch_outputs import load_reference, save_reference
from trtpipe.runtime import load


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, 8, 8)).astype(np.float32)


class TestOnTheCpu:
    def test_computes_what_the_lowered_graph_computes(self, package, lowered):
        with load(package, device="cpu") as model:
            assert [str(each) for each in model.inputs] == ["x: float32[Nx3x8x8]"]
            for count in (1, 3):
                np.testing.assert_allclose(model(images(count))["y"], lowered(images(count)), rtol=1e-5, atol=1e-6)

    def test_refuses_the_shapes_that_the_plan_would_refuse(self, package):
        with load(package, device="cpu") as model, pytest.raises(InputError, match="'x' has shape 9x3x8x8"):
            model(images(9))

    def test_from_a_tar(self, real_build, tmp_path, lowered):
        trtpipe.make_package(real_build, tmp_path / "p.tar")
        with load(tmp_path / "p.tar", device="cpu") as model:
            np.testing.assert_allclose(model(images(2))["y"], lowered(images(2)), rtol=1e-5, atol=1e-6)

    def test_leaves_nothing_behind(self, package, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with load(package, device="cpu") as model:
            model(images(1))
            assert not list(tmp_path.iterdir())
        assert not list(tmp_path.iterdir())

    def test_a_closed_model_says_so(self, package):
        model = load(package, device="cpu")
        model.close()
        with pytest.raises(InputError, match="closed"):
            model(images(1))

    def test_outputs_cannot_stay_on_a_gpu(self, package):
        with load(package, device="cpu") as model, pytest.raises(InputError, match="on_device"):
            model.on_device(images(1))

    def test_a_graph_with_external_data(self, tmp_path, monkeypatch):
        monkeypatch.setattr("trtpipe.preflight.onnx_io.INLINE_LIMIT", 0)
        weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
        save(model("(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", w=weights), tmp_path / "net.onnx")
        shapes = {"x": trtpipe.ShapeRange(min=(1, 64), opt=(2, 64), max=(8, 64))}
        trtpipe.build(
            tmp_path / "net.onnx", tmp_path / "out", settings=trtpipe.Settings(cache_dir=tmp_path / "cache"),
            profile=trtpipe.DeploymentProfile(backend="null", targets=("sm89",), shapes=(shapes,)),
        )  # fmt: skip
        made = trtpipe.make_package(tmp_path / "out", tmp_path / "p.tar")
        assert made.model.graph.data == ("lowered.onnx.data",)
        x = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
        with load(made.out, device="cpu") as loaded:
            np.testing.assert_allclose(loaded(x)["y"], x @ weights, rtol=1e-4, atol=1e-4)

    def test_half_precision_is_emulated(self, real_build, tmp_path):
        folder = real_build.parent
        trtpipe.build(
            folder / "net.onnx", tmp_path / "out", precision="fp16", targets=["sm89"], eval_data=folder / "calib.npz",
            profile=trtpipe.DeploymentProfile(backend="null", shapes={"x": {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8],
                                                                            "max": [8, 3, 8, 8]}}),
            settings=trtpipe.Settings(cache_dir=tmp_path / "cache"),
        )  # fmt: skip
        made = trtpipe.make_package(tmp_path / "out", tmp_path / "pkg")
        with load(made.out, device="cpu") as model:
            assert "emulated" in model.device
            assert model.selftest().passed


class TestOnAGpu:
    def test_runs_the_plan_whose_digest_was_checked(self, package, machine, lowered):
        with load(package) as model:
            assert machine.plans == [(package / "sm89.plan").read_bytes()]
            assert (model.plan.file, model.device) == ("sm89.plan", f"tensorrt-rtx {model.plan.version} on cuda:0")
            for count in (1, 2, 2, 8):
                np.testing.assert_allclose(model(images(count))["y"], lowered(images(count)), rtol=1e-6)
        assert machine.cuda.alive == set(), "all memory is given back"

    def test_the_plan_s_bytes_are_not_kept_beside_the_engine(self, package, machine):
        with load(package) as model:
            (plan,) = machine.plans
            machine.plans.clear()
            assert sys.getrefcount(plan) == 2, "this test alone has it"
            model(images(1))

    def test_takes_and_gives_arrays_on_the_gpu(self, package, machine, lowered):
        with load(package) as model:
            kept = model.on_device(OnDevice(machine.cuda, images(2)))["y"]
            assert kept.__dlpack_device__() == (2, 0)
            assert kept.shape == (2, 5)
        del kept
        assert "MemcpyAsync within" in machine.cuda.calls

    def test_an_array_on_another_gpu_is_refused(self, package, machine):
        with load(package) as model, pytest.raises(InputError, match="'x': in the memory of GPU 1"):
            model(OnDevice(machine.cuda, images(2), device=1))

    def test_an_array_on_a_gpu_is_no_use_to_the_cpu(self, package, machine):
        with load(package, device="cpu") as model, pytest.raises(InputError, match="'x': in the memory of GPU 0"):
            model(OnDevice(machine.cuda, images(2)))

    def test_nothing_is_read_by_tensorrt_that_was_changed(self, package, machine, tmp_path):
        copy = shutil.copytree(package, tmp_path / "copy")
        content = bytearray((copy / "sm89.plan").read_bytes())
        content[len(content) // 2] ^= 1
        (copy / "sm89.plan").write_bytes(content)
        with pytest.raises(InputError, match=r"sm89\.plan: changed"):
            load(copy)
        assert machine.plans == []

    def test_a_gpu_that_is_not_there(self, package, machine):
        with pytest.raises(InputError, match="GPU 3"):
            load(package, device="cuda:3")

    def test_the_second_of_two_gpus(self, package, machine):
        machine.cuda.capabilities = [(7, 5), (8, 9)]
        with load(package, device="cuda:1") as model:
            assert model.device.endswith("cuda:1")
        assert set(machine.cuda.devices) == {1}

    def test_a_gpu_that_fits_no_plan(self, package, machine):
        machine.cuda.capabilities = [(9, 0)]
        with pytest.raises(HostError) as caught:
            load(package)
        assert "sm90" in caught.value.message
        assert "sm89.plan: it is for sm89" in caught.value.message
        assert "--target sm90" in caught.value.remedy

    def test_the_self_test_finds_an_engine_that_computes_something_else(self, package, machine):
        with load(package) as model:
            good = model.selftest()
            machine.function = lambda feed: {"y": np.zeros((len(feed["x"]), 5), np.float32)}
            bad = model.selftest()
        assert (good.passed, good.plan, good.data) == (True, "sm89.plan", "real")
        assert not bad.passed
        assert "cosine" in bad.outputs[0].broken


def test_a_machine_without_a_gpu_says_what_to_do(package):
    from trtpipe.backends.gpu import has_driver

    if has_driver():
        pytest.skip("this machine has a driver")
    with pytest.raises(HostError) as caught:
        load(package)
    assert "driver" in caught.value.message
    assert "cpu" in caught.value.remedy


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cpu:0", "", 0, None])
def test_what_is_no_device(package, device):
    with pytest.raises(InputError, match="device"):
        load(package, device=device)


def test_a_package_without_reference_inputs(package, tmp_path):
    copy = copied(package, tmp_path)
    stated = json.loads((copy / "model.json").read_text())
    stated["reference"] = None
    (copy / "model.json").write_text(json.dumps(stated))
    with load(copy, device="cpu") as model, pytest.raises(InputError, match="no reference inputs") as caught:
        model.selftest()
    assert "--samples" in caught.value.remedy


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_plug_in_library_that_is_missing_is_named(package, machine, tmp_path, device):
    with pytest.raises(InputError, match=r"missing\.so: no such file"):
        load(package, device, plugins=[tmp_path / "missing.so"])


def test_plug_in_libraries_are_asked_for_and_checked(package, machine, tmp_path):
    copy = copied(package, tmp_path)
    stated = json.loads((copy / "model.json").read_text())
    stated["plans"][0]["plugins"] = {"libown.so": "0" * 64}
    (copy / "model.json").write_text(json.dumps(stated))
    with pytest.raises(InputError, match=r"libown\.so"):
        load(copy)
    (tmp_path / "libown.so").write_bytes(b"evil")
    with pytest.raises(InputError, match="not the library"):
        load(copy, plugins=[tmp_path / "libown.so"])
    assert machine.plans == []


def copied(package: Path, folder: Path) -> Path:
    """To be edited: without the list of what trtpipe wrote."""
    return shutil.copytree(package, folder / "copy", ignore=shutil.ignore_patterns(".trtpipe.json"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", ["libnvinfer.so", ".hidden", ".trtpipe.json"])
def test_a_file_that_was_added_is_refused(package, machine, tmp_path, device, name):
    copy = copied(package, tmp_path)
    load(copy, device).close()
    machine.plans.clear()
    (copy / name).write_bytes(b"x")
    with pytest.raises(InputError, match=re.escape(name)):
        load(copy, device)
    assert machine.plans == []


@pytest.mark.parametrize("change", ["a member more", "an owner", "bytes at the end"])
def test_an_archive_that_was_changed_is_refused(package, tmp_path, change):
    with tarfile.open(tmp_path / "p.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name in in_order(path.name for path in package.iterdir() if path.name != ".trtpipe.json"):
            header = member(name, (package / name).stat().st_size)
            header.uname = "root" if change == "an owner" and name == "sm89.plan" else ""
            archive.addfile(header, BytesIO((package / name).read_bytes()))
        if change == "a member more":
            archive.addfile(member("zz", 1), BytesIO(b"x"))
    if change == "bytes at the end":
        with (tmp_path / "p.tar").open("ab") as file:
            file.write(b"x")
    with pytest.raises(InputError, match=r"p\.tar"):
        load(tmp_path / "p.tar", "cpu")


@pytest.mark.parametrize(
    ("name", "content", "said"), [("lowered.onnx", b"text", "lowered.onnx: a text file"), ("", b"", "'float77'")]
)
def test_a_graph_that_is_none_is_refused_by_its_place_in_the_package(package, tmp_path, name, content, said):
    copy = copied(package, tmp_path)
    stated = json.loads((copy / "model.json").read_text())
    if name:
        (copy / name).write_bytes(content)
        entry = next(file for file in stated["files"] if file["name"] == name)
        entry.update(sha256=digest(content), size=len(content))
    else:
        stated["graph"]["half"] = "float77"
    (copy / "model.json").write_text(json.dumps(stated))
    with pytest.raises(InputError, match=said) as caught:
        load(copy, "cpu")
    assert caught.value.message.startswith(str(copy))


@pytest.mark.parametrize("change", ["a feed less", "an output less", "another name"])
def test_reference_outputs_that_are_not_all_there_are_refused(package, tmp_path, change):
    copy = copied(package, tmp_path)
    feeds, outputs = load_reference(copy / "reference.npz")
    if change == "a feed less":
        feeds, outputs = feeds[:-1], outputs[:-1]
    outputs = outputs[:-1] if change == "an output less" else outputs
    outputs = [{"z": each["y"]} for each in outputs] if change == "another name" else outputs
    save_reference(copy / "reference.npz", feeds, outputs)
    stated = json.loads((copy / "model.json").read_text())
    entry = next(file for file in stated["files"] if file["name"] == "reference.npz")
    content = (copy / "reference.npz").read_bytes()
    entry.update(sha256=digest(content), size=len(content))
    (copy / "model.json").write_text(json.dumps(stated))
    with load(copy, "cpu") as model, pytest.raises(InputError, match=r"reference\.npz: does not hold"):
        model.selftest()


def test_a_hand_over_that_was_finished_is_to_become_a_package(package, tmp_path):
    copy = copied(package, tmp_path)
    for name in ("handover.json", "finished.json"):
        (copy / name).write_text("{}")
    with pytest.raises(InputError, match="hand-over") as caught:
        load(copy, "cpu")
    assert "package make" in caught.value.remedy


#: What a machine with a GPU need not have.
ABSENT = ("click", "ml_dtypes", "onnx", "onnx_ir", "onnxruntime", "PIL", "polygraphy", "pydantic", "rich", "torch")


def test_a_gpu_needs_numpy_and_tensorrt_alone(package):
    """In a fresh interpreter in which nothing else can be imported, up to the calls of CUDA."""
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
before = set(sys.modules)
import numpy as np
numpys = set(sys.modules) - before
from trtpipe.runtime import load
ours = set(sys.modules) - before - numpys
from trtpipe.backends.inference import numpy_type, open_on_gpu
from trtpipe.backends.trt import cudart, dtypes, errors, flavor, session
from trtpipe.delivery.reader import Package
from trtpipe.runtime.feeds import Feeder
from trtpipe.runtime.plans import Machine, choose_plan
from trtpipe.runtime.selftest import self_test
found = Package.opened(__import__("pathlib").Path({str(package)!r}))
plan = choose_plan(found.model, Machine((8, 9), {{"tensorrt-rtx": found.model.plans[0].version}}), "p")
found.read(plan.file)
feed = Feeder(found.model, plan.profiles, 0, 1).feed(np.zeros((2, 3, 8, 8), np.float32))
outputs = __import__("trtpipe.reference.pytorch_outputs", fromlist=["x"])
from io import BytesIO
_, wanted = outputs.read_reference(BytesIO(found.read("reference.npz")), found.path)
answers = iter(wanted)
assert self_test(found, lambda feed: next(answers), "d", plan.file).passed
print(len(ours))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100, "modules beside numpy's"
