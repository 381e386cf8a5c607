from __future__ import annotations

import json

import pytest

from trtpipe.artifact import FileEntry
from trtpipe.errors import InputError
from trtpipe.report.manifest import Manifest, ManifestEntry
from trtpipe.report.verdict import Evidence, Failure, verdict_of


def manifest(*failures: Failure) -> Manifest:
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
        verdict=verdict_of(Evidence(failures=failures)),
    )


def test_it_passed_only_if_it_was_judged():
    assert manifest().passed is None
    assert manifest(Failure(step="compile sm89", reason="r")).passed is False


def test_it_survives_its_file_and_equal_ones_have_equal_bytes(tmp_path):
    for name in ("a.json", "b.json"):
        manifest().write(tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert Manifest.read(tmp_path / "a.json") == manifest()


def test_a_stranger_is_told_apart(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "a web app", "icons": []}')
    with pytest.raises(InputError, match="Manifest record"):
        Manifest.read(tmp_path / "manifest.json")


def test_the_schema_before_this_one_is_refused_by_name(tmp_path):
    document = json.loads(manifest().to_file()) | {"schema_version": 1, "verdicts": []}
    del document["verdict"]
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"manifest\.json: is of schema 1: .*reads 4"):
        Manifest.read(tmp_path / "manifest.json")
