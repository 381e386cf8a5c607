"""``init``: files that load, hold what the model and the data say, and build."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from models import conv_net, model, normal, save

import trtpipe
from trtpipe.cli.app import root
from trtpipe.errors import HostError, InputError


@pytest.fixture
def network(tmp_path: Path) -> Path:
    save(conv_net(), tmp_path / "m.onnx")  # float32[N, 3, 8, 8]
    return tmp_path / "m.onnx"


def files_of(out: Path) -> tuple[trtpipe.DeploymentProfile, trtpipe.CalibrationRecipe]:
    return trtpipe.DeploymentProfile.load(out / "profile.toml"), trtpipe.CalibrationRecipe.load(out / "recipe.toml")


def test_images(network: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    found = trtpipe.init(network, tmp_path / "start", calib_data=str(tmp_path / "photos"))
    profile, recipe = files_of(tmp_path / "start")
    assert profile.precision == "int8"
    assert profile.targets
    [shapes] = profile.shapes
    assert (shapes["x"].min, shapes["x"].max) == ((1, 3, 8, 8), (32, 3, 8, 8))
    assert recipe.data.source == str(tmp_path / "photos")
    assert recipe.data.image is not None
    assert recipe.data.image.crop == (8, 8)
    assert recipe.evaluation is None
    assert any("mean, std" in guess for guess in found.guesses)
    assert found.command[:3] == ("trtpipe", "build", str(network))


def test_a_factory_of_fixed_inputs_is_told_how_the_batch_becomes_dynamic(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    net = "import torch\ndef net():\n    return torch.nn.Linear(4, 2), (torch.zeros(1, 4),)\n"
    (tmp_path / "net.py").write_text(net)
    found = trtpipe.init(f"{tmp_path / 'net.py'}:net", tmp_path / "start")
    assert any("batch" in guess for guess in found.guesses)
    text = found.profile.read_text(encoding="utf-8")
    assert trtpipe.DeploymentProfile.load(found.profile).shapes == ()
    found.profile.write_text(re.sub(r"^# (\[shapes|min|opt|max)(.*=|\.)", r"\1\2", text, flags=re.MULTILINE))
    [shapes] = trtpipe.DeploymentProfile.load(found.profile).shapes
    assert [(each.min, each.max) for each in shapes.values()] == [((1, 4), (32, 4))]


def test_where_no_tensorrt_is_installed(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(wanted: str) -> tuple[str, str]:
        raise HostError("no TensorRT", "install one")

    monkeypatch.setattr("trtpipe.api.request.choose_backend", nothing)
    trtpipe.init(network, tmp_path / "start")
    profile, _ = files_of(tmp_path / "start")
    assert (profile.backend, profile.targets) == ("tensorrt-rtx", ("sm86", "sm89", "sm120"))


def test_sounds(tmp_path: Path) -> None:
    save(model("(float[1,80,200] x) => (float[1,80,200] y) { y = Relu(x) }"), tmp_path / "m.onnx")
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "a.wav").touch()
    found = trtpipe.init(tmp_path / "m.onnx", tmp_path / "start", calib_data=str(tmp_path / "sounds"))
    audio = files_of(tmp_path / "start")[1].data.audio
    assert audio is not None
    assert (audio.bands, audio.seconds, audio.mean) == (80, 2.0, -4.0)
    assert any("sample_rate" in guess for guess in found.guesses)


@pytest.mark.parametrize("argument", ["calib_data", "eval_data"])
def test_data_that_is_not_there_is_refused_before_the_model_is_read(tmp_path: Path, argument: str) -> None:
    with pytest.raises(InputError, match=r"gone\.npz: no such file"):
        trtpipe.init(tmp_path / "no.onnx", tmp_path / "start", **{argument: str(tmp_path / "gone.npz")})  # type: ignore[arg-type]
    assert not (tmp_path / "start").exists()


def test_data_that_does_not_fit_is_told(network: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    np.savez(tmp_path / "names.npz", y=np.zeros((4, 3, 8, 8), np.float32))
    np.savez(tmp_path / "shapes.npz", x=np.zeros((4, 3, 9, 8), np.float32))
    for data, words in (("photos", "no samples"), ("names.npz", "'y'"), ("shapes.npz", "[1, 3, 9, 8]")):
        [misfit] = trtpipe.init(network, tmp_path / f"start-{data}", calib_data=str(tmp_path / data)).misfits
        assert words in misfit


def test_advice_names_only_what_init_has(network: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(root, ["init", str(network), "-o", str(tmp_path / "start")])
    assert result.exit_code == 0
    assert "targets = [" in result.stderr
    assert "--target" not in result.stderr


def test_arrays_need_no_preprocessing(network: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 3, 8, 8), np.float32))
    trtpipe.init(network, tmp_path / "start", calib_data=str(tmp_path / "d.npz"), eval_data=str(tmp_path / "d.npz"))
    _, recipe = files_of(tmp_path / "start")
    assert recipe.data.image is None
    assert recipe.evaluation is not None
    assert recipe.evaluation.source == str(tmp_path / "d.npz")


def test_without_data_it_is_fp16_and_without_dynamic_inputs_no_shapes(tmp_path: Path) -> None:
    save(model("(float[2,8] x) => (float[2,4] y) { y = MatMul(x, w) }", w=normal(8, 4)), tmp_path / "m.onnx")
    found = trtpipe.init(tmp_path / "m.onnx", tmp_path / "start")
    profile, recipe = files_of(tmp_path / "start")
    assert (profile.precision, profile.shapes) == ("fp16", ())
    assert recipe.data.image is None
    assert found.guesses == ()


def test_images_with_channels_last(tmp_path: Path) -> None:
    save(model("(float[1,32,48,1] x) => (float[1,32,48,1] y) { y = Relu(x) }"), tmp_path / "m.onnx")
    (tmp_path / "photos").mkdir()
    trtpipe.init(tmp_path / "m.onnx", tmp_path / "start", calib_data=str(tmp_path / "photos"))
    image = files_of(tmp_path / "start")[1].data.image
    assert image is not None
    assert (image.layout, image.channels, image.resize) == ("HWC", "L", (32, 48))


@pytest.mark.parametrize("name", ["profile.toml", "recipe.toml"])
def test_files_of_the_user_are_never_replaced(network: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=name):
        trtpipe.init(network, tmp_path)
    assert (tmp_path / name).read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", name}


def test_what_is_in_memory_has_no_name_to_write(network: Path, tmp_path: Path) -> None:
    feeds = [{"x": np.zeros((1, 3, 8, 8), np.float32)}]
    with pytest.raises(InputError, match=r"source: .*tuple") as source:
        trtpipe.init((object(), ()), tmp_path / "o")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"calib_data: .*list") as data:
        trtpipe.init(network, tmp_path / "o", calib_data=feeds)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"eval_data: .*ndarray"):
        trtpipe.init(network, tmp_path / "o", eval_data=feeds[0]["x"])  # type: ignore[arg-type]
    assert ("file.py:factory" in source.value.remedy, "file.py:function" in data.value.remedy) == (True, True)
    assert not (tmp_path / "o").exists()


def test_data_may_be_a_path_object(network: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    trtpipe.init(network, tmp_path / "start", calib_data=tmp_path / "photos")
    assert files_of(tmp_path / "start")[1].data.source == str(tmp_path / "photos")


def test_the_printed_command_builds(network: Path, tmp_path: Path, monkeypatch) -> None:
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    begun = CliRunner().invoke(root, ["init", "m.onnx", "--calib-data", "d.npz", "-o", "start"])
    assert begun.exit_code == 0, begun.output
    [line] = [line for line in begun.output.splitlines() if line.startswith("next:")]
    words = line.removeprefix("next:").split()
    assert words[:3] == ["trtpipe", "build", "m.onnx"]
    built = CliRunner().invoke(root, [*words[1:], "--backend", "null", "--target", "sm89"])
    assert built.exit_code == 0, built.output


def test_recipes_are_listed_and_printed() -> None:
    shown = CliRunner().invoke(root, ["recipes"])
    assert shown.exit_code == 0
    assert {"imagenet", "coco", "edge"} <= {line.split()[0] for line in shown.output.splitlines() if line.strip()}
    assert CliRunner().invoke(root, ["recipes", "imagenet"]).output.startswith("description = ")
    assert CliRunner().invoke(root, ["recipes", "imagnet"]).exit_code == 2
