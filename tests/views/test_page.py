"""A build as one HTML page: everything in it, nothing of it markup."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from models import conv_net
from onnx import TensorProto, helper, numpy_helper, save

import trtpipe
from trtpipe.errors import HostError, InputError
from trtpipe.report.manifest import Manifest
from trtpipe.views.page import write_report

#: A name that would be markup, and then turn the direction of writing round.
HOSTILE = "<script>alert('x')</script>\u202e"


class Reading(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


@pytest.fixture(scope="module")
def images_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network that takes images, with coarse scales, so that its outputs depart."""
    folder = tmp_path_factory.mktemp("images")
    save(conv_net(), folder / "m.onnx")
    images = np.random.default_rng(3).normal(size=(12, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "images.npz", x=images)
    trtpipe.build(
        folder / "m.onnx",
        folder / "out",
        profile=trtpipe.DeploymentProfile.model_validate({"precision": "int8", "backend": "null", "targets": ["sm89"]}),
        calib_data=folder / "images.npz",
        shapes={"x": (1, 3, 8, 8)},
    )
    return folder / "out"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    weights = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"], name=HOSTILE), helper.make_node("Relu", ["h"], ["y"], name="r")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        [numpy_helper.from_array(weights, "w")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "m.onnx")
    np.savez(folder / "d.npz", x=np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32))
    trtpipe.build(
        folder / "m.onnx",
        folder / "out",
        profile=trtpipe.DeploymentProfile.model_validate(
            {
                "precision": "int8",
                "backend": "null",
                "targets": ["sm89"],
                "latency": {"warmup": 0.001, "duration": 0.01, "cpu": True},
            }
        ),
        recipe=trtpipe.CalibrationRecipe.model_validate({"data": {"source": str(folder / "d.npz")}}),
        simplify=False,
    )
    return folder / "out"


def test_the_page_tells_of_every_part_of_the_build(build: Path) -> None:
    path = write_report(build)
    assert path == build / "report.html"
    page = Reading(path.read_text(encoding="utf-8"))
    assert not page.open
    headline = "PASSED on the lowered graph (onnxruntime, CPU, 16 of 64 samples); engine not executed"
    assert f"<title>m.onnx, int8: {headline}</title>" in path.read_text(encoding="utf-8")
    shown = trtpipe.inspect(path)
    assert (shown.kind, shown.contents) == ("HTML report", {"title": f"m.onnx, int8: {headline}"})
    for words in (
        headline,
        "Accuracy",
        "Latency",
        "Engine for sm89",
        "Precision of every node",
        "Calibration",
        "Settings",
    ):
        assert words in page.text
    manifest = Manifest.read(build / "manifest.json")
    for entry in manifest.artifacts:
        for file in entry.files:
            assert file.sha256[:12] in page.text
    for node in manifest.nodes:
        assert node.reason in page.text
    assert page.tags.count("img") == 0, "no sample of the data, unless it is asked for"


def test_the_manifest_stands_for_its_build(build: Path) -> None:
    assert write_report(build / "manifest.json") == write_report(build) == build / "report.html"


def test_the_page_is_one_file_without_scripts_or_addresses(build: Path, tmp_path: Path) -> None:
    text = write_report(build, tmp_path / "page.html", plots=True).read_text(encoding="utf-8")
    page = Reading(text)
    assert not {"script", "link", "img", "iframe", "a", "object", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href", "srcset") or name.startswith("on")]
    assert "default-src 'none'" in text
    assert "url(" not in text


def test_names_are_text_and_show_what_they_hide(build: Path, tmp_path: Path) -> None:
    text = write_report(build, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert('x')</script>\\u202e" in Reading(text).text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)


def test_a_plot_holds_the_histogram_and_a_line_for_every_method(build: Path, tmp_path: Path) -> None:
    page = Reading(write_report(build, tmp_path / "page.html", plots=True).read_text(encoding="utf-8"))
    assert page.tags.count("polygon") == 1  # x, the one calibrated tensor
    assert page.tags.count("line") == 8  # the range in force, and seven methods
    maximum = float(np.abs(np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32)).max())
    assert f"max {maximum:.4g}" in page.text


def test_only_tensors_that_lose_most_are_drawn_unless_all_are_asked_for(build: Path, tmp_path: Path) -> None:
    page = Reading(write_report(build, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.tags.count("polygon") == 1
    assert "more with --plots" not in page.text


def test_samples_are_shown_where_they_are_asked_for(images_build: Path, tmp_path: Path) -> None:
    data = images_build.with_name("images.npz")
    page = Reading(write_report(images_build, tmp_path / "page.html", images=data).read_text(encoding="utf-8"))
    sources = [value or "" for name, value in page.attributes if name == "src"]
    assert 0 < len(sources) <= 12
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_other_samples_than_those_evaluated_are_refused(images_build: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros((4, 3, 8, 8), np.float32))
    with pytest.raises(InputError, match="not the samples that this build was evaluated on"):
        write_report(images_build, tmp_path / "page.html", images=tmp_path / "other.npz")
    assert not (tmp_path / "page.html").exists()


def test_what_changed_since_another_build(build: Path, images_build: Path, tmp_path: Path) -> None:
    page = Reading(write_report(build, tmp_path / "page.html", against=images_build).read_text(encoding="utf-8"))
    assert f"Changed since {images_build}" in page.text
    assert "before" in page.text


def test_equal_builds_give_equal_pages(build: Path, tmp_path: Path) -> None:
    one, two = (write_report(build, tmp_path / name, plots=True).read_bytes() for name in ("1.html", "2.html"))
    assert one == two


class TestBadInput:
    def test_a_folder_without_a_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no bundle"):
            write_report(tmp_path)

    def test_a_bundle_that_was_edited(self, build: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(build, tmp_path / "copy", ignore=shutil.ignore_patterns("report.html")))
        ranges = copy / "ranges.json"
        ranges.write_text(ranges.read_text().replace("percentile", "percentilE", 1))
        with pytest.raises(InputError, match=r"ranges.json: changed since it was built"):
            write_report(copy)
        assert not (copy / "report.html").exists()

    def test_no_statistics_to_plot(self, build: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(build, tmp_path / "copy", ignore=shutil.ignore_patterns("report.html")))
        manifest = Manifest.read(copy / "manifest.json")
        kept = tuple(entry for entry in manifest.artifacts if entry.label != "statistics")
        manifest.model_copy(update={"artifacts": kept}).write(copy / "manifest.json")
        with pytest.raises(InputError, match="no calibration statistics to plot"):
            write_report(copy, plots=True)

    def test_a_place_that_cannot_be_written(self, build: Path) -> None:
        with pytest.raises((InputError, HostError)):
            write_report(build, build / "ranges.json" / "page.html")
