"""Corrections on models with known ailments: uneven channels, shifted means; and on one that has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from models import conv_net, feed_for, model, normal, run, save
from world import asked

import trtpipe
from trtpipe.calibration.ranges import Ranges
from trtpipe.config.recipe import CalibrationRecipe, DataSettings

if TYPE_CHECKING:
    from pathlib import Path

    from models import Feed


def uneven() -> onnx.ModelProto:
    """A normalization one of whose channels is a hundred times the others, before a GELU block and a residual sum."""
    gain = np.ones(32, np.float32)
    gain[3] = 100
    second = normal(32, 64, seed=1, scale=0.2)
    second[3] /= 100
    return model(
        "(float[N,32] x) => (float[N,32] y) { n = LayerNormalization(x, g, o) h = MatMul(n, a) u = Gelu(h) "
        "d = MatMul(u, b) y = Add(n, d) }",
        g=gain,
        o=normal(32, seed=2),
        a=second,
        b=normal(64, 32, seed=3, scale=0.2),
    )


def shifted(operator: str = "Conv") -> onnx.ModelProto:
    """Weights whose rounding errors have one sign, read from activations that have one sign."""
    weights = np.full((16, 64, 1, 1), 0.0044, np.float32)
    weights[:, 0] = 1.0  # the scale is 1/127 = 0.0079: 0.0044 becomes 0.0079
    return model(
        "(float[N,3,8,8] x) => (float[N,20] y) { c = Conv<pads=[1,1,1,1]>(x, a) r = Sigmoid(c) "
        f"d = {operator}(r, b) s = Tanh(d) p = GlobalAveragePool(s) f = Flatten(p) y = Gemm(f, w) }}",
        a=normal(64, 3, 3, 3, seed=1, scale=0.2),
        b=(weights if operator == "Conv" else weights.swapaxes(0, 1)) * 0.2,
        w=normal(16, 20, seed=3),
    )


def shifted_up() -> onnx.ModelProto:
    """The same of a transposed convolution, whose weights are not compensated."""
    return shifted("ConvTranspose")


class Built:
    """A model calibrated and lowered, with all defaults but what is given."""

    def __init__(self, proto: onnx.ModelProto, feed: Feed, folder: Path, **options: Any) -> None:
        folder.mkdir(exist_ok=True)
        path = save(proto, folder / "simplified.onnx")
        np.savez(folder / "data.npz", **feed)
        precision, batch = options.pop("precision", "int8"), options.pop("batch", 4)
        self.job = trtpipe.make_job(
            profile=trtpipe.DeploymentProfile(precision=precision),
            recipe=CalibrationRecipe(data=DataSettings(source=str(folder / "data.npz"), batch=batch), **options),
            settings=trtpipe.Settings(cache_dir=folder / "cache"),
            engines=False,
        )
        trtpipe.calibrate(path, folder, **asked(self.job))
        trtpipe.lower(path, folder, ranges=folder / "ranges.json", **asked(self.job))
        self.ranges = Ranges.read(folder / "ranges.json")
        self.path = folder / "lowered.onnx"
        self.lowered = onnx.load(self.path)

    @property
    def taken(self) -> list[str]:
        return [trial.correction.split()[0] for trial in self.ranges.corrections.trials if trial.taken]

    def noise(self, proto: onnx.ModelProto, feed: Feed) -> float:
        """Of the first output, over its power."""
        expected, found = (next(iter(run(each, feed).values())) for each in (proto, self.lowered))
        return float(np.square(found - expected).sum() / np.square(expected).sum())


@pytest.mark.parametrize(("make", "correction"), [(uneven, "smooth"), (shifted, "error"), (shifted_up, "bias")])
def test_ailments_are_repaired(make, correction: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    proto = make()
    data, held = feed_for(proto, seed=1, dim=96), feed_for(proto, seed=2, dim=96)
    ill = Built(proto, data, tmp_path / "none", corrections="none")
    well = Built(proto, data, tmp_path / "auto")
    assert correction in well.taken
    assert ill.taken == []
    assert well.noise(proto, held) < ill.noise(proto, held) / 2
    assert [value.name for value in well.lowered.graph.output] == [value.name for value in proto.graph.output]


def test_the_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    proto = uneven()
    data = feed_for(proto, seed=1, dim=96)
    first, second = (Built(proto, data, tmp_path / name) for name in ("one", "two"))
    assert first.ranges.corrections == second.ranges.corrections
    assert first.path.read_bytes() == second.path.read_bytes()


@pytest.mark.parametrize(
    ("make", "correction"),
    [
        (uneven, "smooth"),
        pytest.param(shifted, "error", marks=pytest.mark.slow),
        pytest.param(shifted_up, "bias", marks=pytest.mark.slow),
    ],
)
def test_batches_and_order_change_no_byte(make, correction: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    proto = make()
    data = feed_for(proto, seed=1, dim=96)
    plain = Built(proto, data, tmp_path / "plain", batch=1)
    other = Built(proto, {name: value[::-1].copy() for name, value in data.items()}, tmp_path / "turned", batch=8)
    assert correction in plain.taken
    assert decided(plain.ranges) == decided(other.ranges)


def decided(ranges: Ranges) -> str:
    """All that is in the file but what it says of the data: into how many feeds they were joined, for example."""
    return ranges.model_copy(update={"data_summary": None}).to_file()


def wide() -> onnx.ModelProto:
    """A channel whose values are a hundred thousand times the others', which as much smaller weights read."""
    gain = np.ones((32, 3, 3, 3), np.float32)
    gain[5] = 1e5
    weight = normal(32, 32, 1, 1, seed=1, scale=0.2)
    weight[:, 5] /= 1e5
    return model(
        "(float[N,3,8,8] x) => (float[N,32] y) { c = Conv<pads=[1,1,1,1]>(x, a) r = Relu(c) d = Conv(r, b) "
        "p = GlobalAveragePool(d) y = Flatten(p) }",
        a=normal(32, 3, 3, 3, scale=0.2) * gain,
        b=weight,
    )


def test_a_tensor_too_wide_for_8_bits_is_smoothed_instead_of_kept(tmp_path: Path) -> None:
    proto = wide()
    data, held = feed_for(proto, seed=1, dim=96), feed_for(proto, seed=2, dim=96)
    ill, well = (Built(proto, data, tmp_path / each, corrections=each) for each in ("none", "auto"))
    assert list(ill.ranges.not_quantizable) == ["r"]
    assert well.ranges.not_quantizable == {}
    assert "r" in well.ranges.corrections.smoothing
    assert well.noise(proto, held) < 1e-3


def test_nothing_is_repaired_that_gains_nothing(tmp_path: Path) -> None:
    proto = conv_net()
    data = feed_for(proto, seed=1, dim=96)
    plain, asked = Built(proto, data, tmp_path / "none", corrections="none"), Built(proto, data, tmp_path / "auto")
    assert asked.ranges.corrections.trials, "it was looked for"
    assert not any("smooth" in trial.correction for trial in asked.ranges.corrections.trials), "the estimate is low"
    if asked.taken == ["none"]:
        assert asked.path.read_bytes() == plain.path.read_bytes()
    else:
        assert asked.noise(proto, data) < plain.noise(proto, data)


def test_branches_that_were_never_taken(tmp_path: Path) -> None:
    proto = model(
        "(float[N,16] x, bool c) => (float[N,16] y) { y = If(c) <then_branch = t () => (float[N,16] a) "
        "{ h = Gemm(x, w) a = Relu(h) }, else_branch = e () => (float[N,16] b) { k = Gemm(x, w, o) b = Sigmoid(k) }> }",
        w=normal(16, 16),
        o=normal(16, seed=1),
    )
    feed = feed_for(proto, seed=1)
    path = tmp_path / "feeds.py"
    np.savez(tmp_path / "one.npz", **feed)
    path.write_text(
        "import numpy as np\n"
        "def feeds():\n"
        f"    one = dict(np.load({str(tmp_path / 'one.npz')!r}))\n"
        "    rng = np.random.default_rng(0)\n"
        "    for _ in range(24):\n"
        "        yield {n: v * rng.normal(size=v.shape).astype(v.dtype) if v.dtype.kind == 'f' else v\n"
        "               for n, v in one.items()}\n"
    )
    graph = save(proto, tmp_path / "simplified.onnx")
    job = trtpipe.make_job(
        profile=trtpipe.DeploymentProfile(precision="int8"),
        recipe=CalibrationRecipe(data=DataSettings(source=f"{path}:feeds")),
        settings=trtpipe.Settings(cache_dir=tmp_path / "cache"),
        engines=False,
    )
    trtpipe.calibrate(graph, tmp_path, **asked(job))
    trtpipe.lower(graph, tmp_path, ranges=tmp_path / "ranges.json", **asked(job))
    assert Ranges.read(tmp_path / "ranges.json").corrections.trials
    onnx.checker.check_model(onnx.load(tmp_path / "lowered.onnx"), full_check=True)


@pytest.mark.parametrize("precision", ["fp8", "best"])
def test_other_precisions(precision: str, tmp_path: Path) -> None:
    proto = uneven()
    built = Built(proto, feed_for(proto, seed=1, dim=96), tmp_path / precision, precision=precision)
    assert bool(built.ranges.corrections.smoothing) == (precision == "best"), "a floating-point type needs no smoothing"
    assert built.noise(proto, feed_for(proto, seed=2, dim=96)) < 1e-2
