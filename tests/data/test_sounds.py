from __future__ import annotations

import wave
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from models import model, normal, save

import trtpipe
from trtpipe.config.recipe import AudioSettings, CalibrationRecipe, DataSettings, ImageSettings
from trtpipe.data.dataset import open_dataset
from trtpipe.data.mel import log_mel, mel_filters
from trtpipe.data.waves import load_energies
from trtpipe.errors import InputError
from trtpipe.regression.baseline import CalibrationData

if TYPE_CHECKING:
    from conftest import MakeContract

SHORT = AudioSettings(sample_rate=8000, window=64, hop=32, bands=4)
PLAIN = SHORT.transform()


def write(path: Path, values: np.ndarray, rate: int = 8000, channels: int = 1) -> Path:
    """``values``: of the type and in the order that the format has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(values.dtype.itemsize)
        file.setframerate(rate)
        file.writeframes(values.tobytes())
    return path


def tone(hertz: float, seconds: float = 0.1, rate: int = 8000, loud: float = 0.5) -> np.ndarray:
    return loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def bits16(sound: np.ndarray) -> np.ndarray:
    return (sound * 32768).astype("<i2")


class TestMel:
    def test_filters_are_slaneys(self) -> None:
        """Edges of three bands below 1000 Hz lie evenly; each triangle has an area of 1 over the frequencies."""
        filters = mel_filters(sample_rate=1600, window=3200, bands=3)
        assert filters.shape == (3, 1601)
        assert filters.argmax(axis=1).tolist() == [400, 800, 1200]  # half a hertz apart: 200, 400, 600 Hz
        np.testing.assert_allclose(filters.sum(axis=1) * 0.5, 1.0, rtol=1e-3)

    def test_scale_above_1000_hertz(self) -> None:
        """27 steps of a factor of 6.4 in all: of two bands up to 6400 Hz = 42 mels the edges are at 14 and 28 mels."""
        filters = mel_filters(sample_rate=12800, window=12800, bands=2)
        centers = [14 * 200 / 3, 1000 * 6.4 ** (13 / 27)]
        assert filters.argmax(axis=1).tolist() == pytest.approx(centers, abs=1)

    def test_against_the_definition_in_torch(self) -> None:
        torch = pytest.importorskip("torch")
        sound = np.random.default_rng(0).normal(0, 0.1, 16000 * 2).astype(np.float32)
        spectrum = torch.stft(
            torch.from_numpy(sound), 400, 160, window=torch.hann_window(400), center=True, return_complex=True
        )
        power = spectrum[..., :-1].abs().square().numpy()
        logs = np.log10(np.maximum(mel_filters(16000, 400, 80) @ power, 1e-10))
        wanted = np.maximum(logs, logs.max() - 8)
        found = log_mel(sound, 16000, 400, 160, 80, 8.0)
        assert found.shape == (80, 200)
        np.testing.assert_allclose(found, wanted, atol=2e-4)

    def test_a_tone_is_loudest_in_the_band_of_its_frequency(self) -> None:
        filters = mel_filters(8000, 256, 32)
        for hertz in (500, 1500, 3000):
            found = log_mel(tone(hertz), 8000, 256, 80, 32, None)
            assert filters[found.mean(axis=1).argmax()].argmax() == pytest.approx(hertz / 8000 * 256, abs=3)


class TestFiles:
    @pytest.mark.parametrize(
        "values",
        [
            bits16(tone(700)),
            (tone(700) * 2**31).astype("<i4"),
            (np.round(tone(700) * 128) + 128).astype("u1"),
        ],
        ids=["16 bits", "32 bits", "8 bits"],
    )
    def test_codings_hold_the_same_sound(self, tmp_path: Path, values: np.ndarray) -> None:
        found = load_energies(write(tmp_path / "a.wav", values), PLAIN)
        wanted = log_mel(tone(700), 8000, 64, 32, 4, None)
        loud = wanted > wanted.max() - 2  # the rest drowns in the rounding to 8 bits
        np.testing.assert_allclose(found[loud], wanted[loud], atol=0.05)

    def test_channels_are_averaged(self, tmp_path: Path) -> None:
        both = np.stack([bits16(tone(700)), np.zeros(800, "<i2")], axis=1)
        found = load_energies(write(tmp_path / "a.wav", both, channels=2), PLAIN)
        alone = load_energies(write(tmp_path / "b.wav", bits16(tone(700) / 2)), PLAIN)
        np.testing.assert_allclose(found.max(), alone.max(), atol=1e-3)

    @pytest.mark.parametrize(("seconds", "frames"), [(None, 25), (0.05, 12), (1.0, 250)])
    def test_length(self, tmp_path: Path, seconds: float | None, frames: int) -> None:
        settings = replace(PLAIN, seconds=seconds)
        assert load_energies(write(tmp_path / "a.wav", bits16(tone(700))), settings).shape == (4, frames)

    def test_mean_std_and_decades(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.wav", bits16(tone(700)))
        plain = load_energies(path, PLAIN)
        found = load_energies(path, replace(PLAIN, decades=1.0, mean=-4.0, std=2.0))
        np.testing.assert_allclose(found, (np.maximum(plain, plain.max() - 1) + 4) / 2, rtol=1e-5)

    def test_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="sample_rate = 8000"):
            load_energies(write(tmp_path / "rate.wav", bits16(tone(700)), rate=16000), PLAIN)
        (tmp_path / "text.wav").write_text("no sound")
        with pytest.raises(InputError, match=r"text\.wav"):
            load_energies(tmp_path / "text.wav", PLAIN)
        with pytest.raises(InputError, match="do not fill a frame"):
            load_energies(write(tmp_path / "short.wav", bits16(tone(700)[:20])), PLAIN)


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name, hertz in (("high/a", 3000), ("high/b", 2500), ("low/a", 300)):
            write(tmp_path / "sounds" / f"{name}.wav", bits16(tone(hertz)))
        return tmp_path / "sounds"

    def test_samples_labels_and_what_is_recorded(self, folder: Path, contract: MakeContract) -> None:
        data = DataSettings(source=str(folder), audio=SHORT)
        dataset = open_dataset(data, contract(energies=("float32", ("N", 4, "frames"))))
        samples = list(dataset)
        assert [sample.feed["energies"].shape for sample in samples] == [(1, 4, 25)] * 3
        assert [sample.labels.tolist() for sample in samples if sample.labels is not None] == [[0], [0], [1]]
        assert dataset.classes == ("high", "low")
        assert dataset.preprocessing == SHORT
        assert dataset.name == "WAV files under sounds (3 of 3)"

    def test_content_counts_and_not_the_place(self, folder: Path, contract: MakeContract) -> None:
        model = contract(energies=("float32", ("N", 4, "frames")))

        def digest(where: Path) -> str:
            return open_dataset(DataSettings(source=str(where), audio=SHORT), model).digests().inputs

        before = digest(folder)
        moved = folder.rename(folder.with_name("elsewhere"))
        assert digest(moved) == before
        write(moved / "low" / "a.wav", bits16(tone(400)))
        assert digest(moved) != before

    def test_without_an_audio_table_a_folder_holds_images(self, folder: Path, contract: MakeContract) -> None:
        with pytest.raises(InputError):
            open_dataset(DataSettings(source=str(folder)), contract(energies=("float32", ("N", 4, "frames"))))

    def test_a_model_of_another_shape_is_refused(self, folder: Path, contract: MakeContract) -> None:
        dataset = open_dataset(DataSettings(source=str(folder), audio=SHORT), contract(e=("float32", ("N", 5, "t"))))
        with pytest.raises(InputError, match="high"):
            list(dataset)

    def test_an_audio_table_is_for_folders(self, tmp_path: Path, contract: MakeContract) -> None:
        np.savez(tmp_path / "a.npz", e=np.zeros((2, 4, 5), np.float32))
        data = DataSettings(source=str(tmp_path / "a.npz"), audio=SHORT)
        with pytest.raises(InputError, match="WAV files only"):
            open_dataset(data, contract(e=("float32", ("N", 4, 5))))


def test_one_table_at_a_time() -> None:
    with pytest.raises(InputError, match="contradict"):
        DataSettings(source="x", audio=SHORT, image=ImageSettings())


def test_the_recipe_for_whisper_is_the_usual_one_and_gives_3000_frames(tmp_path: Path) -> None:
    settings = CalibrationRecipe.load("whisper-mel").data.audio
    assert settings is not None
    assert (settings.sample_rate, settings.window, settings.hop, settings.bands) == (16000, 400, 160, 80)
    energies = load_energies(write(tmp_path / "a.wav", bits16(tone(700, 1, 16000)), rate=16000), settings.transform())
    assert energies.shape == (80, 3000)
    assert energies.dtype == np.float32
    assert energies.max() - energies.min() == pytest.approx(2.0, abs=1e-5)  # eight decades, over four


@pytest.mark.parametrize("prepared", [SHORT, ImageSettings(), AudioSettings()])
def test_records_tell_sounds_from_images(prepared: AudioSettings | ImageSettings) -> None:
    data = CalibrationData(source="WAV files under sounds", digest="d", preprocessing=prepared)
    assert CalibrationData.model_validate_json(data.model_dump_json()) == data


@pytest.mark.slow
def test_a_build_on_sounds(tmp_path: Path) -> None:
    """Calibrated, verified and packaged on WAV files; the bundle records how they became inputs."""
    for index, hertz in enumerate((300, 700, 1500, 2500)):
        write(tmp_path / "sounds" / f"{index}.wav", bits16(tone(hertz)))
    net = model("(float[1,4,25] x) => (float[1,6,25] y) { y = MatMul(w, x) }", w=normal(6, 4))
    recipe = CalibrationRecipe(data=DataSettings(source=str(tmp_path / "sounds"), audio=SHORT))
    profile = trtpipe.DeploymentProfile(precision="int8", backend="null", targets=("sm89",))
    trtpipe.build(save(net, tmp_path / "m.onnx"), tmp_path / "out", profile=profile, recipe=recipe)
    manifest = trtpipe.Manifest.read(tmp_path / "out" / "manifest.json")
    assert manifest.calibration is not None
    assert manifest.calibration.preprocessing == SHORT
    package = trtpipe.make_package(tmp_path / "out", tmp_path / "package", samples=str(tmp_path / "sounds"))
    assert package.out is not None
    (prepared,) = package.model.preprocessing
    assert prepared.audio == PLAIN
    with np.load(package.out / "reference.npz") as file:
        assert len(file.files) > 0
    with trtpipe.runtime.load(package.out, "cpu") as loaded:
        found = loaded(tmp_path / "sounds" / "1.wav")["y"]
        energies = load_energies(tmp_path / "sounds" / "1.wav", PLAIN)
        np.testing.assert_array_equal(found, loaded(energies[np.newaxis])["y"])
