"""``package make`` and ``package selftest`` on the command line: exit codes, files and words."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from trtpipe.delivery.reader import Package
from trtpipe.reference.pytorch_outputs import load_reference, save_reference

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

QUICK = ("--backend", "null", "--target", "sm89", "--no-simplify", "--warmup", "1ms", "--duration", "10ms")


@pytest.fixture(scope="module")
def build(run: Run, model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("package") / "out"
    result = run("build", model, "-o", out, "--int8", "--calib-data", data, *QUICK)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def package(run: Run, build: Path, data: Path) -> Path:
    out = build.with_name("package")
    result = run("package", "make", build, "-o", out, "--samples", data)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-2:] == [
        f"result: {out}", f"next:   trtpipe package selftest {out} --device cpu"
    ]  # fmt: skip
    return out


def test_make_as_one_document(run: Run, build: Path, tmp_path: Path) -> None:
    result = run("package", "make", build, "-o", tmp_path / "p.tar", "--json")
    document = json.loads(result.stdout)
    assert (document["command"], document["exit_code"], document["out"]) == ("package make", 0, str(tmp_path / "p.tar"))
    assert document["model"] == Package.opened(tmp_path / "p.tar").model.to_dict()


def test_selftest_passes_where_it_was_made(run: Run, package: Path) -> None:
    result = run("package", "selftest", package, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith("PASSED the lowered graph (onnxruntime")
    document = json.loads(run("package", "selftest", package, "--device", "cpu", "--json").stdout)
    assert document["passed"] is True
    assert document["selftest"]["outputs"][0]["broken"] == []


def test_selftest_fails_with_the_exit_code_of_accuracy(run: Run, package: Path, tmp_path: Path) -> None:
    """Other reference outputs, in a package that is whole in itself."""
    copy = shutil.copytree(package, tmp_path / "copy", ignore=shutil.ignore_patterns(".trtpipe.json"))
    feeds, outputs = load_reference(copy / "reference.npz")
    save_reference(copy / "reference.npz", feeds, [{name: -value for name, value in each.items()} for each in outputs])
    stated = json.loads((copy / "model.json").read_text())
    for file in stated["files"]:
        if file["name"] == "reference.npz":
            content = (copy / "reference.npz").read_bytes()
            file.update(sha256=sha256(content).hexdigest(), size=len(content))
    (copy / "model.json").write_text(json.dumps(stated))
    result = run("package", "selftest", copy, "--device", "cpu")
    assert result.exit_code == 3
    assert result.stdout.splitlines()[-1].startswith("FAILED")
    document = json.loads(run("package", "selftest", copy, "--device", "cpu", "--json").stdout)
    assert (document["passed"], document["exit_code"]) == (False, 3)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("make", "nowhere", "-o", "p"), 2, "nowhere"),
        (("selftest", "nowhere"), 2, "nowhere"),
        (("selftest", "PACKAGE", "--device", "tpu"), 2, "tpu"),
        (("mkae", "x"), 2, "make"),
    ],
)
def test_bad_input(
    run: Run, package: Path, words: tuple[str, ...], code: int, said: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    result = run("package", *(package if word == "PACKAGE" else word for word in words))
    assert result.exit_code == code
    assert said in result.output
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_several_in_one(run: Run, package: Path, tmp_path: Path) -> None:
    archive = tmp_path / "other.tar"
    assert run("package", "make", package.with_name("out"), "-o", archive).exit_code == 0
    made = run("package", "join", package, archive, "-o", tmp_path / "both", "--name", "pair")
    assert made.exit_code == 0, made.output
    assert made.stdout.splitlines()[-1] == f"next:   trtpipe package selftest {tmp_path / 'both'} --device cpu"
    verified = run("package", "verify", tmp_path / "both")
    assert "package, other" in verified.stdout
    tested = run("package", "selftest", tmp_path / "both", "--device", "cpu")
    assert tested.exit_code == 0, tested.output
    assert "other/y" in tested.stdout
    assert run("package", "join", package, "-o", tmp_path / "one").exit_code == 2
