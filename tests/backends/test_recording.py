"""Builds against the recording fake of three versions of TensorRT: what exactly the builder is told."""

from __future__ import annotations

import onnx
import pytest
from backends.recording_tensorrt import RecordingTensorRT
from backends.trt_api_snapshot import APIS

from trtpipe.backends.base import EngineRequest
from trtpipe.backends.engine_file import read_header
from trtpipe.backends.tensorrt import TensorRT
from trtpipe.backends.trt.builder import build
from trtpipe.backends.trt.request import BuildMessage
from trtpipe.config.profile import BuildSettings, DeploymentProfile, ShapeRange
from trtpipe.config.target import find_target
from trtpipe.errors import BuildError

CLASSIC = [name for name in APIS if not name.startswith("tensorrt_rtx")]
SHAPES = ({"x": ShapeRange(min=(1, 3, 16, 16), opt=(2, 3, 16, 16), max=(4, 3, 16, 16))},)


@pytest.fixture(params=CLASSIC)
def trt(request):
    return RecordingTensorRT(request.param)


def built(trt, model, tmp_path, timings="", **options):
    request = BuildMessage(
        model=str(model), plan=str(tmp_path / "e.plan"), flavor="tensorrt", targets=("sm89",), shapes=SHAPES,
        options=BuildSettings(**options), timings=timings,
    )  # fmt: skip
    return build(trt, request, lambda *_: None)


def test_a_plain_build(trt, conv_net, tmp_path):
    record = built(trt, conv_net, tmp_path)
    strongly = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert f"Builder.create_network({strongly})" in trt.calls
    assert "IBuilderConfig.profiling_verbosity = DETAILED" in trt.calls
    assert "IOptimizationProfile.set_shape('x', (1, 3, 16, 16), (2, 3, 16, 16), (4, 3, 16, 16))" in trt.calls
    assert not [call for call in trt.calls if "set_flag" in call or "timing" in call]
    assert (record.version, record.targets) == (trt.__version__, ("sm89",))
    assert [spec.shape for spec in record.io.inputs] == [("N", 3, 16, 16)]
    assert trt.__version__.startswith(read_header(tmp_path / "e.plan").version.rsplit(".", 1)[0])


def test_options_reach_the_builder(trt, conv_net, tmp_path):
    built(trt, conv_net, tmp_path, workspace=1 << 30, opt_level=4, max_aux_streams=2, version_compatible=True,
          exclude_lean_runtime=True, weight_streaming=True, refit=True, sparsity=True,
          hardware_compatibility="ampere+", dla_core=1, gpu_fallback=True)  # fmt: skip
    said = [call.removeprefix("IBuilderConfig.") for call in trt.calls if call.startswith("IBuilderConfig.")]
    flags = {call for call in said if call.startswith("set_flag")}
    assert flags == {
        f"set_flag({name})"
        for name in ("VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "WEIGHT_STREAMING", "REFIT", "SPARSE_WEIGHTS",
                     "GPU_FALLBACK")
    }  # fmt: skip
    assert {"set_memory_pool_limit(WORKSPACE, 1073741824)", "builder_optimization_level = 4", "max_aux_streams = 2",
            "hardware_compatibility_level = AMPERE_PLUS",
            "default_device_type = DLA", "DLA_core = 1"} <= set(said)  # fmt: skip


@pytest.mark.parametrize(
    ("refit", "flags"), [(False, {"STRIP_PLAN", "REFIT_IDENTICAL"}), (True, {"STRIP_PLAN", "REFIT"})]
)
def test_stripping_goes_with_a_kind_of_refit_as_in_trtexec(trt, conv_net, tmp_path, refit, flags):
    built(trt, conv_net, tmp_path, strip_weights=True, refit=refit)
    assert {f"IBuilderConfig.set_flag({flag})" for flag in flags} == {call for call in trt.calls if "set_flag" in call}


def test_a_level_the_version_lacks_is_refused(trt, conv_net, tmp_path):
    if trt.__version__ == "10.3.0":
        with pytest.raises(BuildError, match=r"TensorRT 10\.3\.0 has no hardware_compatibility"):
            built(trt, conv_net, tmp_path, hardware_compatibility="same-compute-capability")
    else:
        built(trt, conv_net, tmp_path, hardware_compatibility="same-compute-capability")
        assert "IBuilderConfig.hardware_compatibility_level = SAME_COMPUTE_CAPABILITY" in trt.calls


def test_plug_ins_are_loaded_before_the_graph_is_parsed(trt, conv_net, tmp_path):
    built(trt, conv_net, tmp_path, plugins=("libnms.so",))
    calls = trt.calls
    parsed = next(index for index, call in enumerate(calls) if call.startswith("OnnxParser"))
    assert calls.index("IPluginRegistry.load_library('libnms.so')") < parsed


def test_timings_are_used_and_brought_up_to_date(trt, conv_net, tmp_path):
    kept = tmp_path / "timings"
    kept.write_bytes(b"earlier")
    built(trt, conv_net, tmp_path, timings=str(kept))
    assert "IBuilderConfig.create_timing_cache(b'earlier')" in trt.calls
    assert "IBuilderConfig.set_timing_cache(ITimingCache, False)" in trt.calls
    assert kept.read_bytes() == b"timings"


def test_large_plans_are_streamed_where_the_version_can(trt, conv_net, tmp_path):
    built(trt, conv_net, tmp_path)
    streamed = any("build_serialized_network_to_stream" in call for call in trt.calls)
    assert streamed == (trt.__version__ != "10.3.0")


class TestInAChild:
    """The whole back-end, with the fake behind ``import tensorrt`` and a nvidia-smi that lists an L4."""

    @pytest.fixture
    def backend(self, recording_tensorrt):
        return TensorRT()

    def test_builds_keeps_timings_and_says_what_it_is(self, backend, conv_net, tmp_path, settings, heard):
        profile = DeploymentProfile(shapes=SHAPES)
        plan = tmp_path / "e.plan"
        target = find_target("sm89")
        assert backend.refuses(conv_net, profile, target) is None
        record = backend.build(EngineRequest(conv_net, profile, (target,), plan, settings), heard)
        assert (record.flavor, record.version, record.target, record.targets) == (
            "tensorrt",
            "11.4.0.106",
            "sm89",
            ("sm89",),
        )
        assert read_header(plan).flavor == "tensorrt"
        (kept,) = (settings.cache_dir / "timings").iterdir()
        assert kept.read_bytes().endswith(b"timings")
        plan.unlink()
        backend.build(EngineRequest(conv_net, profile, (target,), plan, settings), heard)
        assert plan.is_file()

    def test_without_timings(self, backend, conv_net, tmp_path, settings, heard):
        profile = DeploymentProfile(shapes=SHAPES, build=BuildSettings(timing_cache=False))
        backend.build(EngineRequest(conv_net, profile, (find_target("sm89"),), tmp_path / "e.plan", settings), heard)
        assert not (settings.cache_dir / "timings").exists()


def test_a_graph_with_a_plug_in_node_is_parsed_and_built(trt, conv_net, tmp_path):
    model = onnx.load(conv_net)
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Pick_TRT", "vision"
    model.opset_import.add(domain="vision", version=1)
    onnx.save(model, tmp_path / "plugin.onnx")
    record = built(trt, tmp_path / "plugin.onnx", tmp_path, plugins=("/lib/own.so",))
    order = [next(i for i, call in enumerate(trt.calls) if word in call) for word in
             ("init_libnvinfer_plugins", "load_library", "OnnxParser.parse", "build_serialized_network")]  # fmt: skip
    assert order == sorted(order)
    assert record.targets == ("sm89",)
