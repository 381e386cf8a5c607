"""Builder options: refused with a reason, said to have no effect, or real; for TensorRT-RTX by building."""

from __future__ import annotations

import pytest

from trtpipe.backends.base import EngineRequest, missing
from trtpipe.backends.tensorrt_rtx import TensorRTRTX
from trtpipe.backends.trt.options import OPTIONS, ignored_options, refuse_options
from trtpipe.config.profile import BuildSettings, DeploymentProfile
from trtpipe.config.target import find_target
from trtpipe.digest import sha256_file
from trtpipe.errors import BuildError, InputError, RecipeError

SM89, ORIN = find_target("sm89"), find_target("orin")
rtx_only = pytest.mark.skipif(missing("tensorrt-rtx") is not None, reason="needs tensorrt-rtx")


def refusal(flavor, version, target=SM89, *, driver=False, **options):
    return refuse_options(BuildSettings(**options), flavor, version, target, driver=driver)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"hardware_compatibility": "ampere+"}, "named targets"),
        ({"refit": True}, "on a GPU only"),
        ({"strip_weights": True}, "on a GPU only"),
        ({"dla_core": 0}, "GPUs only"),
        ({"version_compatible": True}, "lean runtime"),
    ],
)
def test_what_rtx_cannot_is_refused(options, reason):
    found = refusal("tensorrt-rtx", "1.7.1.116", **options)
    assert reason in found.reason
    assert next(iter(options)) in found.reason
    assert found.remedy


@pytest.mark.parametrize(
    "options",
    [{}, {"workspace": 1 << 30}, {"weight_streaming": True}, {"opt_level": 5}, {"sparsity": True},
     {"version_compatible": True, "exclude_lean_runtime": True}, {"hardware_compatibility": "none"}],
)  # fmt: skip
def test_what_rtx_can(options):
    assert refusal("tensorrt-rtx", "1.7.1.116", **options) is None


def test_where_there_is_a_gpu_rtx_may_try_a_refit():
    assert refusal("tensorrt-rtx", "1.7.1.116", driver=True, refit=True) is None


@pytest.mark.parametrize(
    ("version", "target", "reason"),
    [
        ("11.0.0", ORIN, "TensorRT 11.0.0 does not support DLA"),
        ("11.4.0.106", ORIN, "TensorRT 11.4.0.106 does not support DLA"),
        ("10.3.0", SM89, "sm89 (Ada) has no DLA"),
    ],
)
def test_dla_is_for_orin_and_some_versions(version, target, reason):
    assert refusal("tensorrt", version, target, dla_core=0).reason.startswith(reason)


@pytest.mark.parametrize("version", ["10.3.0", "11.4.1", "11.5.0"])
def test_orin_has_it(version):
    assert refusal("tensorrt", version, ORIN, dla_core=0, gpu_fallback=True) is None


def test_ignored_options_are_named_and_no_others():
    given = BuildSettings(opt_level=2, max_aux_streams=0, sparsity=True, timing_cache=True, workspace=1)
    said = ignored_options(given, "tensorrt-rtx")
    assert [text.partition(" ")[0] for text in said] == ["opt_level", "timing_cache", "sparsity", "max_aux_streams"]
    assert ignored_options(given, "tensorrt") == ()
    assert ignored_options(BuildSettings(), "tensorrt-rtx") == ()


def test_no_option_is_both_ignored_and_refused():
    assert not [option.name for option in OPTIONS if option.ignored and option.refused]
    assert all(option.remedy for option in OPTIONS if option.refused)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"exclude_lean_runtime": True}, "needs version_compatible"), ({"gpu_fallback": True}, "needs dla_core")],
)
def test_options_that_need_another(options, words):
    with pytest.raises(RecipeError, match=words):
        BuildSettings(**options)


@rtx_only
class TestForReal:
    """The bytes of plans say what an option does; the weights' file is made by the same process each time."""

    def plan(self, write_model, tmp_path, settings, heard, **options):
        model = write_model("(float[2,8,16,16] x) => (float[2,8,16,16] y) { a = Relu(x) y = Exp(a) }")
        plan = tmp_path / f"{len(list(tmp_path.glob('*.plan')))}.plan"
        profile = DeploymentProfile(build=BuildSettings(**options))
        assert TensorRTRTX().refuses(model, profile, SM89) is None
        record = TensorRTRTX().build(EngineRequest(model, profile, (SM89,), plan, settings), heard)
        return sha256_file(plan), record

    def test_ignored_options_leave_the_plan_as_it_is(self, write_model, tmp_path, settings, heard):
        plain, _ = self.plan(write_model, tmp_path, settings, heard)
        ignored, record = self.plan(
            write_model, tmp_path, settings, heard, opt_level=0, max_aux_streams=0, sparsity=True, timing_cache=True
        )
        assert ignored == plain
        assert len(record.notes) == 4
        assert all("has no effect in TensorRT-RTX" in note for note in record.notes)

    def test_weight_streaming_changes_it(self, write_model, tmp_path, settings, heard):
        plain, _ = self.plan(write_model, tmp_path, settings, heard)
        streamed, record = self.plan(write_model, tmp_path, settings, heard, weight_streaming=True)
        assert streamed != plain
        assert record.notes == ()

    def test_a_library_that_is_none(self, write_model, tmp_path, settings, heard):
        library = tmp_path / "libnone.so"
        library.write_bytes(b"no library")
        with pytest.raises(BuildError, match=r"libnone\.so cannot be loaded") as caught:
            self.plan(write_model, tmp_path, settings, heard, plugins=(str(library),))
        assert "built for this TensorRT" in caught.value.remedy

    def test_a_library_that_is_missing(self, write_model, tmp_path, settings, heard):
        with pytest.raises(InputError, match="no such plug-in library"):
            self.plan(write_model, tmp_path, settings, heard, plugins=(str(tmp_path / "libgone.so"),))
