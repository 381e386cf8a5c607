from __future__ import annotations

import pytest

from trtpipe.artifact import FileEntry
from trtpipe.errors import InputError
from trtpipe.report.manifest import Manifest, ManifestEntry
from trtpipe.report.verdict import Verdict


def manifest(*passed: bool | None) -> Manifest:
    files = (FileEntry(name="lowered.onnx", sha256="0" * 64, size=3),)
    return Manifest(
        trtpipe="0.1.0",
        source="model.onnx",
        precision="int8",
        backend="null",
        targets=("sm89",),
        settings={"simplify": True, "profile": {"keep": ["a*"]}},
        toolchain={"onnx": "1.18.0"},
        calibration=None,
        artifacts=(ManifestEntry(label="lowered", digest="1" * 64, key="2" * 64, files=files),),
        verdicts=tuple(Verdict(gate="accuracy", passed=value, summary="s") for value in passed),
    )


@pytest.mark.parametrize(
    ("gates", "passed"), [((), True), ((True,), True), ((None,), True), ((True, False), False), ((None, True), True)]
)
def test_it_may_ship_unless_a_gate_failed(gates, passed):
    assert manifest(*gates).passed is passed


def test_it_survives_its_file_and_equal_ones_have_equal_bytes(tmp_path):
    for name in ("a.json", "b.json"):
        manifest(True).write(tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert Manifest.read(tmp_path / "a.json") == manifest(True)


def test_a_stranger_is_told_apart(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "a web app", "icons": []}')
    with pytest.raises(InputError, match="Manifest record"):
        Manifest.read(tmp_path / "manifest.json")
