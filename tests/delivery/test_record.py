from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from packages import FILES, record

from trtpipe.config.audio_transform import AudioTransform
from trtpipe.config.image_transform import ImageTransform
from trtpipe.config.limits import OutputLimits
from trtpipe.config.profile import OutputTolerance
from trtpipe.config.recipe import AudioSettings, ImageSettings
from trtpipe.delivery.record import SCHEMA, FileDigest, Graph, Model, Plan, Postprocessing, Preprocessing
from trtpipe.errors import InputError

PATH = Path("pkg/model.json")


def parsed(model: Model) -> Model:
    return Model.parse(model.to_file().encode(), PATH)


def test_comes_back_from_its_file() -> None:
    image = Preprocessing(
        "x", ImageTransform(resize=256, crop=(224, 224), mean=(0.1, 0.2, 0.3), interpolation="bicubic")
    )
    model = record(preprocessing=(image,), postprocessing=(Postprocessing("y", "softmax", classes=True),))
    assert parsed(model) == model
    assert parsed(model).to_file() == model.to_file()


def test_a_newer_schema_is_refused_with_the_version_that_wrote_it() -> None:
    text = record().to_file().replace(f'"schema": {SCHEMA}', f'"schema": {SCHEMA + 1}').replace('"0.1.0"', '"7.2"')
    with pytest.raises(InputError) as caught:
        Model.parse(text.encode(), PATH)
    assert f"schema {SCHEMA + 1}" in caught.value.message
    assert "7.2" in caught.value.message


@pytest.mark.parametrize("schema", ['"1"', "true", "0", "-1", "null"])
def test_a_schema_that_is_none_is_refused(schema: str) -> None:
    text = record().to_file().replace(f'"schema": {SCHEMA}', f'"schema": {schema}')
    with pytest.raises(InputError, match="schema"):
        Model.parse(text.encode(), PATH)


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/b", "a\\b", "", ".", "..", "model.json", "c:x", "a\nb", "x" * 201, ".trtpipe.json"],
)
def test_names_that_are_no_files_of_a_package_are_refused(name: str) -> None:
    model = record()
    with pytest.raises(InputError, match="files"):
        parsed(replace(model, files=(*model.files, FileDigest(name, "0" * 64, 1))))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"files": ()}, "files"),
        ({"graph": Graph("other.onnx")}, "files"),
        ({"licenses": ("LICENSE",)}, "files"),
        ({"plans": (Plan("sm89.plan", "tensorrt", "11.4", "sm89", "0" * 64),)}, "plans"),
        ({"tolerances": {"z": OutputLimits()}}, "tolerances"),
        ({"preprocessing": (Preprocessing("z", ImageTransform()),)}, "preprocessing"),
        ({"postprocessing": (Postprocessing("z"),)}, "postprocessing"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(change: dict[str, object], field: str) -> None:
    with pytest.raises(InputError, match=rf"model\.json: {field}: "):
        parsed(record(**change))


LINES = "x\nsigned by: A"


@pytest.mark.parametrize("text", [LINES, "x\rsigned by: A", "x\x1b[1A", "x\u2028y", "x\u202ey"])
def test_a_name_is_one_line_that_moves_no_cursor(text: str) -> None:
    with pytest.raises(InputError, match=r"model\.json: name: .*U\+"):
        parsed(record(name=text))


def test_half_a_character_is_refused() -> None:
    text = record(name="xx").to_file().replace('"xx"', '"x\\ud800"')
    with pytest.raises(InputError, match=r"model\.json: name: .*U\+D800"):
        Model.parse(text.encode(), PATH)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"version": LINES}, "version"),
        ({"precision": LINES}, "precision"),
        ({"verdict": replace(record().verdict, headline=LINES)}, r"verdict\.headline"),
        ({"outputs": (replace(record().outputs[0], unit=LINES),)}, r"outputs\[0\]\.unit"),
        ({"notes": ("fine", LINES)}, r"notes\[1\]"),
        ({"plans": (replace(record().plans[0], plugins={LINES: "0" * 64}),)}, r"plans\[0\]\.plugins"),
    ],
)
def test_so_is_every_other_text(change: dict[str, object], field: str) -> None:
    with pytest.raises(InputError, match=rf"model\.json: {field}: "):
        parsed(record(**change))


def test_descriptions_may_have_several_lines_and_names_any_script() -> None:
    output = replace(record().outputs[0], meaning="one\ntwo")
    model = record(name="\u7db2\u3000\U0001f469\u200d\U0001f52c", description="one\n\ttwo", outputs=(output,))
    assert parsed(model) == model


def test_every_field_is_required_or_has_a_default_that_is_its_own() -> None:
    plain = json.loads(record().to_file())
    assert set(plain) == {each.name for each in fields(Model)}
    assert [file["name"] for file in plain["files"]] == list(FILES)


def test_plain_data_has_the_fields_of_what_users_write() -> None:
    """The runtime reads these without pydantic; what a recipe or a profile gains has to be read there too."""
    assert {each.name for each in fields(ImageTransform)} == set(ImageSettings.model_fields) - {"input"}
    assert {each.name for each in fields(AudioTransform)} == set(AudioSettings.model_fields) - {"input"}
    assert AudioSettings().transform() == AudioTransform()
    assert {each.name for each in fields(OutputLimits)} == set(OutputTolerance.model_fields)


@pytest.mark.parametrize(
    "values",
    [{"hop": 0}, {"window": 1}, {"seconds": 0.0}, {"seconds": 1e9}, {"decades": 0.0}, {"std": 0.0}, {"bands": -1}],
)
def test_a_preparation_that_no_sound_can_have_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="|".join(values)):
        AudioTransform(**values)  # type: ignore[arg-type]


def test_an_input_is_made_of_images_or_of_sounds() -> None:
    for image, audio in ((None, None), (ImageTransform(), AudioTransform())):
        with pytest.raises(ValueError, match="image or audio"):
            Preprocessing("x", image, audio=audio)


@pytest.mark.parametrize("settings", [{}, {"channels": "L"}, {"resize": (8, 9), "mean": (1, 2, 3), "std": (4, 5, 6)}])
def test_a_recipe_s_preparation_is_the_same_as_plain_data(settings: dict[str, object]) -> None:
    found, wanted = ImageSettings(**settings).transform(), ImageSettings(**settings)
    for each in fields(ImageTransform):
        value = getattr(wanted, each.name)
        channels = 1 if wanted.channels == "L" else 3
        assert getattr(found, each.name) == (value[:channels] if each.name in ("mean", "std") else value)


@pytest.mark.parametrize(
    "values",
    [{"resize": 0}, {"crop": (0, 1)}, {"fill": 256}, {"std": (0.0, 1.0, 1.0)}, {"channels": "L"}, {"mean": (0.0,)}],
)
def test_a_preparation_that_no_image_can_have_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"is |need "):
        ImageTransform(**values)  # type: ignore[arg-type]
