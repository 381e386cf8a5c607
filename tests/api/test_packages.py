"""Packages of a build with a placeholder engine: what is in them, and which builds become none."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.parser
import pytest
from models import model, normal, run, save
from world import content

import trtpipe
from trtpipe.artifact import FileEntry
from trtpipe.config.audio_transform import AudioTransform
from trtpipe.delivery.reader import Package
from trtpipe.delivery.record import SCHEMA
from trtpipe.errors import InputError, RecipeError
from trtpipe.pipeline.ownership import held
from trtpipe.reference.pytorch_outputs import load_reference
from trtpipe.runtime import load

if TYPE_CHECKING:
    from pathlib import Path

    from world import World


def test_holds_what_the_build_knows(build: Path, tmp_path: Path) -> None:
    made = trtpipe.make_package(build, tmp_path / "pkg")
    found = Package.opened(made.out)
    found.verify()
    assert found.model == made.model
    model, manifest = found.model, trtpipe.Manifest.read(build / "manifest.json")
    assert (model.name, model.source, model.precision) == ("net", "net.onnx", "int8")
    assert [str(each) for each in model.inputs] == ["x: float32[Nx3x8x8]"]
    assert [str(each) for each in model.outputs] == ["y: float32[Nx5]"]
    assert model.classes == tuple("abcde")
    assert [(each.output, each.classes) for each in model.postprocessing] == [("y", True)]
    assert (model.verdict.outcome, model.verdict.scope) == ("passed", manifest.verdict.scope)
    assert model.tolerances["y"].atol == 100.0
    (plan,) = model.plans
    assert (plan.file, plan.flavor, plan.target) == ("sm89.plan", "null", "sm89")
    assert plan.profiles[0]["x"].max == (8, 3, 8, 8)
    assert found.read("sm89.plan") == (build / "sm89.plan").read_bytes()
    assert found.read("lowered.onnx") == (build / "lowered.onnx").read_bytes()


def test_reference_outputs_are_those_of_the_lowered_graph(build: Path, tmp_path: Path) -> None:
    given = normal(3, 3, 8, 8, seed=9)
    np.savez(tmp_path / "samples.npz", x=given)
    made = trtpipe.make_package(build, tmp_path / "pkg", samples=tmp_path / "samples.npz")
    assert made.model.reference is not None
    assert made.model.reference.data == "real"
    feeds, outputs = load_reference(tmp_path / "pkg" / "reference.npz")
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), given)
    lowered = onnx.load(build / "lowered.onnx")
    for feed, output in zip(feeds, outputs, strict=True):
        np.testing.assert_allclose(output["y"], run(lowered, feed)["y"], rtol=1e-5, atol=1e-6)


def test_reference_images_are_prepared_as_the_package_says(build: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image.fromarray(pixels).save(tmp_path / "photos" / "a.png")
    prepared = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "channels": "BGR"}
    words = trtpipe.ModelDescription(inputs={"x": {"image": prepared}})
    made = trtpipe.make_package(build, tmp_path / "pkg", description=words, samples=tmp_path / "photos")
    ((feed,), _) = load_reference(made.out / "reference.npz")
    wanted = (pixels[:, :, ::-1].astype(np.float32) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(feed["x"], wanted.transpose(2, 0, 1)[None], rtol=1e-6, atol=1e-6)
    with load(made.out, device="cpu") as model:
        np.testing.assert_array_equal(model(tmp_path / "photos" / "a.png")["y"], model(feed["x"])["y"])


def test_feeds_in_memory_are_taken(build: Path, tmp_path: Path) -> None:
    feeds = [{"x": normal(2, 3, 8, 8, seed=seed)} for seed in range(9)]
    made = trtpipe.make_package(build, tmp_path / "pkg", samples=feeds)
    assert made.model.reference is not None
    assert made.model.reference.feeds == 4


@pytest.mark.parametrize("kind", ["an archive", "no archive", "a changed package", "another's package"])
def test_an_archive_of_others_is_not_replaced(build: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.tar"
    if kind == "a changed package":
        trtpipe.make_package(build, path)
        data = bytearray(path.read_bytes())
        data[path.read_bytes().index((build / "sm89.plan").read_bytes())] ^= 1
        path.write_bytes(data)
    elif kind == "another's package":
        (tmp_path / "theirs").mkdir()
        words = trtpipe.ModelDescription(name="theirs")
        trtpipe.make_package(build, tmp_path / "theirs" / "x.tar", description=words)
        path.write_bytes((tmp_path / "theirs" / "x.tar").read_bytes())
    elif kind == "an archive":
        (tmp_path / "model.json").write_text("{}")
        with tarfile.open(path, "w") as archive:
            archive.add(tmp_path / "model.json", "model.json")
    else:
        path.write_text("mine")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"x\.tar: is there already"):
        trtpipe.make_package(build, path)
    assert path.read_bytes() == before


def test_an_equal_archive_stays(build: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    trtpipe.make_package(build, tmp_path / "theirs" / "x.tar")
    (tmp_path / "x.tar").write_bytes((tmp_path / "theirs" / "x.tar").read_bytes())
    assert trtpipe.make_package(build, tmp_path / "x.tar").out == tmp_path / "x.tar"


def test_an_archive_of_ours_is_replaced(build: Path, tmp_path: Path) -> None:
    trtpipe.make_package(build, tmp_path / "x.tar")
    words = trtpipe.ModelDescription(version="2")
    trtpipe.make_package(build, tmp_path / "x.tar", description=words)
    assert Package.opened(tmp_path / "x.tar").model.version == "2"


@pytest.mark.parametrize(
    ("image", "fits"),
    [
        ({"resize": [8, 8]}, True),
        ({"resize": 9}, True),  # the other side is that of the image
        ({"resize": [9, 9], "crop": [8, 8]}, True),
        ({"channels": "L"}, False),
        ({"resize": [9, 8]}, False),
        ({"resize": [8, 8], "crop": [8, 7]}, False),
        ({"letterbox": [16, 16]}, False),
        ({"resize": 4, "pad": [8, 9]}, False),
        ({"layout": "HWC"}, False),
    ],
)
def test_images_have_to_become_what_the_model_takes(
    build: Path, tmp_path: Path, image: dict[str, Any], fits: bool
) -> None:
    words = trtpipe.ModelDescription(inputs={"x": {"image": image}})
    if fits:
        made = trtpipe.make_package(build, tmp_path / "pkg", description=words)
        assert [each.input for each in made.model.preprocessing] == ["x"]
        return
    with pytest.raises(InputError, match=r"inputs\.x\.image: "):
        trtpipe.make_package(build, tmp_path / "pkg", description=words)
    assert not (tmp_path / "pkg").exists()


@pytest.mark.parametrize(("audio", "fits"), [({"bands": 4}, True), ({"bands": 5}, False), ({}, False)])
def test_sounds_have_to_become_what_the_model_takes(tmp_path: Path, audio: dict[str, Any], fits: bool) -> None:
    net = model("(float[n,4,t] x) => (float[n,4,t] y) { y = Relu(x) }")
    shapes = {"x": trtpipe.ShapeRange(min=(1, 4, 2), opt=(1, 4, 25), max=(2, 4, 50))}
    trtpipe.build(
        save(net, tmp_path / "net.onnx"), tmp_path / "out",
        profile=trtpipe.DeploymentProfile(backend="null", targets=("sm89",), shapes=(shapes,)),
        settings=trtpipe.Settings(cache_dir=tmp_path / "cache"),
    )  # fmt: skip
    words = trtpipe.ModelDescription(inputs={"x": {"audio": audio}})
    if not fits:
        with pytest.raises(InputError, match=r"inputs\.x\.audio: gives (5|80)x\?"):
            trtpipe.make_package(tmp_path / "out", tmp_path / "pkg", description=words)
        return
    made = trtpipe.make_package(tmp_path / "out", tmp_path / "pkg", description=words)
    assert made.model.preprocessing[0].audio == AudioTransform(bands=4)


def test_bytes_that_a_model_takes_as_they_are_are_not_described_as_normalized(tmp_path: Path) -> None:
    text = (
        '<ir_version: 10, opset_import: ["": 20]> g (uint8[2,3,8,8] x) => (float[2,3,8,8] y) '
        "{ f = Cast<to = 1>(x) y = Relu(f) }"
    )
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")
    trtpipe.build(
        tmp_path / "net.onnx", tmp_path / "out", profile=trtpipe.DeploymentProfile(backend="null", targets=("sm89",)),
        settings=trtpipe.Settings(cache_dir=tmp_path / "cache"),
    )  # fmt: skip
    for image in ({"mean": [0.5, 0.5, 0.5]}, {"std": [2.0, 1.0, 1.0]}):
        words = trtpipe.ModelDescription(inputs={"x": {"image": image}})
        with pytest.raises(InputError, match=r"inputs\.x\.image: mean and std"):
            trtpipe.make_package(tmp_path / "out", tmp_path / "pkg", description=words)
    words = trtpipe.ModelDescription(inputs={"x": {"image": {"resize": [8, 8]}}})
    made = trtpipe.make_package(tmp_path / "out", tmp_path / "pkg", description=words)
    assert made.model.preprocessing[0].raw


@pytest.mark.parametrize("name", ["model.json", "model.sig", ".trtpipe.json", "sm89.plan"])
def test_a_paper_has_a_name_of_its_own(build: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("free")
    with pytest.raises(InputError) as caught:
        trtpipe.make_package(build, tmp_path / "pkg", licenses=[tmp_path / name])
    assert caught.value.message.startswith(f"{tmp_path / name}: ")


def test_a_name_of_two_lines_is_refused_when_the_package_is_made(build: Path, tmp_path: Path) -> None:
    words = trtpipe.ModelDescription(name="x\nsigned by: A")
    with pytest.raises(InputError, match=r"name: .*U\+000A"):
        trtpipe.make_package(build, tmp_path / "pkg", description=words)
    assert not (tmp_path / "pkg").exists()


@pytest.mark.parametrize("name", ["pkg", "pkg.tar"])
def test_equal_arguments_give_equal_bytes(build: Path, tmp_path: Path, name: str) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        trtpipe.make_package(build, tmp_path / place / name)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_the_author_s_words_and_papers(build: Path, tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("free")
    (tmp_path / "card.md").write_text("# net")
    (tmp_path / "d.toml").write_text(
        'name = "Net"\nversion = "3"\nclasses = ["v", "w", "x", "y", "z"]\n'
        '[inputs.x]\nmeaning = "pixels"\nunit = "0..1"\n'
        "[inputs.x.image]\nresize = [8, 8]\n"
        '[outputs.y]\nmeaning = "score"\nactivation = "softmax"\nclasses = true\n'
    )
    model = trtpipe.make_package(
        build, tmp_path / "pkg", description=tmp_path / "d.toml", licenses=[tmp_path / "LICENSE"],
        model_card=tmp_path / "card.md",
    ).model  # fmt: skip
    assert (model.name, model.version, model.classes[0]) == ("Net", "3", "v")
    assert (model.inputs[0].meaning, model.inputs[0].unit) == ("pixels", "0..1")
    assert model.preprocessing[0].image.resize == (8, 8)
    assert model.postprocessing[0].activation == "softmax"
    assert (model.licenses, model.model_card) == (("LICENSE",), "card.md")
    assert (tmp_path / "pkg" / "LICENSE").read_text() == "free"


def test_a_second_one_takes_the_place_of_the_first(build: Path, tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("free")
    trtpipe.make_package(build, tmp_path / "pkg", licenses=[tmp_path / "LICENSE"])
    trtpipe.make_package(build, tmp_path / "pkg")
    ours = {"model.json", "lowered.onnx", "sm89.plan", "reference.npz", "provenance.intoto.json", "bom.cdx.json"}
    assert {path.name for path in (tmp_path / "pkg").iterdir()} == ours | {".trtpipe.json"}


def test_the_list_of_written_files_forgets_what_is_gone(build: Path, tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("free")
    trtpipe.make_package(build, tmp_path / "pkg", licenses=[tmp_path / "LICENSE"])
    (tmp_path / "pkg" / "LICENSE").unlink()
    trtpipe.make_package(build, tmp_path / "pkg")
    trtpipe.verify_package(tmp_path / "pkg")


def test_one_of_another_version_is_replaced(build: Path, tmp_path: Path) -> None:
    out = tmp_path / "pkg"
    trtpipe.make_package(build, out)
    text = (out / "model.json").read_text().replace(f'"schema": {SCHEMA}', '"schema": 99')
    assert '"schema": 99' in text
    with held(out) as folder, folder.staging() as staging:
        (out / "model.json").write_text(text)
        folder.record({**folder.files, "model.json": {FileEntry.of(out / "model.json")}}, staging)
    trtpipe.make_package(build, out)
    found = Package.opened(out)
    found.verify()
    assert found.model.schema == SCHEMA


@pytest.mark.parametrize(("name", "earlier"), [("note.txt", False), ("more/note.txt", True), ("model.sig", True)])
def test_a_folder_with_files_of_others_is_no_place_for_one(
    build: Path, tmp_path: Path, name: str, earlier: bool
) -> None:
    """They would be in the package, which would not be whole with them."""
    if earlier:
        trtpipe.make_package(build, tmp_path / "pkg", description=trtpipe.ModelDescription(name="earlier"))
    theirs = tmp_path / "pkg" / name
    theirs.parent.mkdir(parents=True, exist_ok=True)
    theirs.write_text("mine")
    before = content(tmp_path / "pkg")
    with pytest.raises(InputError, match="holds its own files alone") as caught:
        trtpipe.make_package(build, tmp_path / "pkg")
    assert str(tmp_path / "pkg" / name.partition("/")[0]) in caught.value.message
    assert content(tmp_path / "pkg") == before
    theirs.unlink()
    if theirs.parent != tmp_path / "pkg":
        theirs.parent.rmdir()
    trtpipe.make_package(build, tmp_path / "pkg")
    assert trtpipe.verify_package(tmp_path / "pkg").model.name == "net"


def test_an_edited_file_is_not_replaced(build: Path, tmp_path: Path) -> None:
    trtpipe.make_package(build, tmp_path / "pkg")
    (tmp_path / "pkg" / "model.json").write_text("mine")
    with pytest.raises(InputError, match=r"model\.json"):
        trtpipe.make_package(build, tmp_path / "pkg")
    assert (tmp_path / "pkg" / "model.json").read_text() == "mine"


class TestRejectedBuilds:
    @pytest.fixture
    def rejected(self, built_world: World, tmp_path: Path) -> Path:
        job = built_world.job(tolerance={"atol": 0.0, "rtol": 0.0, "min_cosine": 1.0})
        result = trtpipe.build(job, tmp_path / "bad")
        assert result.verdict.exit_code == 3
        assert result.out is not None
        return result.out

    def test_need_a_word(self, rejected: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError) as caught:
            trtpipe.make_package(rejected, tmp_path / "pkg")
        assert "rejected" in caught.value.message
        assert "--allow-failed" in caught.value.remedy
        assert not (tmp_path / "pkg" / "model.json").exists()

    def test_are_recorded_as_such(self, rejected: Path, tmp_path: Path) -> None:
        verdict = trtpipe.make_package(rejected, tmp_path / "pkg", allow_failed=True).model.verdict
        assert (verdict.allowed_failed, verdict.outcome, verdict.exit_code) == (True, "failed", 3)
        stated = json.loads((tmp_path / "pkg" / "model.json").read_text())["verdict"]
        assert stated["allowed_failed"] is True


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"samples": "nothing.npz"}, InputError, "nothing.npz"),
        ({"samples": [{"z": np.zeros((1, 3, 8, 8), np.float32)}]}, InputError, "'z'"),
        ({"samples": []}, InputError, "samples"),
        ({"samples": [{"x": np.zeros((5000, 3, 8, 8), np.float32)}]}, InputError, "sample 0: sm89.plan: input 'x'"),
        ({"samples": {"x": 1}}, InputError, "samples"),
        ({"licenses": ["missing"]}, InputError, "missing"),
        ({"licenses": "missing"}, InputError, "licenses"),
        ({"model_card": "missing"}, InputError, "missing"),
        ({"description": "missing.toml"}, RecipeError, "missing.toml"),
        ({"description": trtpipe.ModelDescription(inputs={"z": {}})}, InputError, "'z'"),
        ({"description": 3}, InputError, "description"),
        ({"description": trtpipe.ModelDescription(outputs={"y": {"axis": 2}})}, InputError, "outputs.y.axis"),
        (
            {
                "description": trtpipe.ModelDescription(
                    classes=list("abcde"), outputs={"y": {"classes": True, "axis": 0}}
                )
            },
            InputError,
            "axis of the samples",
        ),
        (
            {"description": trtpipe.ModelDescription(outputs={"y": {"activation": "softmax", "axis": -2}})},
            InputError,
            "axis of the samples",
        ),
        (
            {"description": trtpipe.ModelDescription(classes=["a"], outputs={"y": {"classes": True}})},
            InputError,
            "1 class",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    build: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        trtpipe.make_package(build, tmp_path / "pkg", **options)
    assert not (tmp_path / "pkg").exists() or not (tmp_path / "pkg" / "model.json").exists()


def test_a_build_s_own_folder_is_no_place_for_its_package(build: Path) -> None:
    with pytest.raises(InputError, match="a build lies there"):
        trtpipe.make_package(build, build)


def test_what_is_no_build(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no bundle"):
        trtpipe.make_package(tmp_path, tmp_path / "pkg")


def test_a_graph_with_plug_ins_has_no_reference_outputs(tmp_path: Path) -> None:
    text = (
        '<ir_version: 10, opset_import: ["": 20, "own": 1]> g (float[2,4] x) => (float[2,4] y) '
        "{ r = Relu(x) y = own.Scale(r) }"
    )
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")
    trtpipe.build(
        tmp_path / "net.onnx", tmp_path / "out", profile=trtpipe.DeploymentProfile(backend="null", targets=("sm89",)),
        settings=trtpipe.Settings(cache_dir=tmp_path / "cache"),
    )  # fmt: skip
    made = trtpipe.make_package(tmp_path / "out", tmp_path / "pkg")
    assert made.model.reference is None
    assert "plug-ins" in made.model.notes[-1]
    with pytest.raises(InputError, match="plug-ins"):
        load(made.out, device="cpu")


@pytest.mark.parametrize("name", ["pkg", "pkg.tar"])
def test_inspect_shows_what_is_in_a_package(build: Path, tmp_path: Path, name: str) -> None:
    made = trtpipe.make_package(build, tmp_path / name)
    found = trtpipe.inspect(made.out)
    assert found.kind == "package"
    assert found.contents["inputs"] == "x: float32[Nx3x8x8]"
    assert found.contents["plan sm89.plan"] == "null 1 for sm89"
    assert found.contents["verdict"] == made.model.verdict.headline


def test_inspect_shows_where_a_build_comes_from(build: Path) -> None:
    found = trtpipe.inspect(build / "provenance.json")
    assert found.kind == "provenance"
    assert found.contents["source"] == "net.onnx"
