"""A matrix on this machine, with the null back-end."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import trtpipe
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings, user_key
from trtpipe.errors import HostError, InputError
from trtpipe.farm.local import LocalWorkers
from trtpipe.farm.perform import perform, perform_text
from trtpipe.farm.report import MatrixReport, worst
from trtpipe.farm.run import build_matrix, plan_matrix
from trtpipe.farm.tasks import Needs, SealedCopy, TaskRequest
from trtpipe.progress import NullProgress
from trtpipe.remote import open_bucket
from trtpipe.remote.folder import FolderBucket
from trtpipe.store.layout import seal_name
from trtpipe.store.shipping import files_of, receive, same_here, send
from trtpipe.views.matrix import write_matrix_page

Matrix = Callable[..., Path]
MODELS = '[[models]]\nsource = "one.onnx"\ncalib_data = "data.npz"\n'
FOUR = 'precisions = ["fp16", "int8"]\ntargets = ["sm89", "sm120"]\nbackends = ["null"]\nshards = 2\n'


def request_of(folder: Path, source: str, *copies: SealedCopy) -> TaskRequest:
    """To export a model."""
    return TaskRequest(
        trtpipe=trtpipe.__version__, seal=seal_name(user_key()), source=source, profile=DeploymentProfile(),
        recipe=CalibrationRecipe(), backend="null", target="sm89", stages=("export",), last=False,
        cache_dir=str(folder / "cache"), copies=copies,
    )  # fmt: skip


@pytest.fixture
def listener() -> Listener:
    return Listener()


class Listener(NullProgress):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def test_cells_are_built_and_reported_and_found_again(
    matrix: Matrix, folder: Path, settings: Settings, listener: Listener
) -> None:
    path, out = matrix(head=FOUR), folder / "out"
    first = build_matrix(path, out, settings=settings, progress=listener)
    assert [line for line in listener.warnings if "only 64 samples" in line]
    assert (first.exit_code, len(first.cells), {cell.state for cell in first.cells}) == (0, 4, {"passed"})
    assert MatrixReport.read(out / "matrix.json") == first
    for cell in first.cells:
        assert (out / cell.parts[0].folder / "manifest.json").is_file()
        assert (out / cell.parts[0].folder / f"{cell.target}.plan").is_file()
    suite = ET.parse(out / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "0", "0")
    second = build_matrix(path, out, settings=settings)
    assert (second.built, second.exit_code) == (0, 0)


def test_a_second_machine_with_the_store_builds_nothing(
    matrix: Matrix, folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = replace(settings, store=f"file://{folder}/shared")
    assert {cell.there for cell in plan_matrix(matrix(head=FOUR), settings=shared)} == {0}
    assert build_matrix(matrix(head=FOUR), folder / "out", settings=shared).built > 0
    other = replace(shared, cache_dir=folder / "other")
    assert all(cell.there == cell.stages for cell in plan_matrix(matrix(head=FOUR), settings=other))
    monkeypatch.setattr(LocalWorkers, "submit", None)  # nor does it need a worker
    again = build_matrix(matrix(head=FOUR), folder / "again", settings=other)
    assert (again.built, again.exit_code) == (0, 0)
    assert {cell.state for cell in again.cells} == {"passed"}


def test_a_store_may_be_that_of_the_profiles(matrix: Matrix, folder: Path, settings: Settings) -> None:
    for number in (1, 2):
        (folder / f"{number}.toml").write_text(f'[store]\nurl = "file://{folder}/shared{number}"\n')
    one = 'profile = "1.toml"\n'
    plan_matrix(matrix(models=MODELS + one), settings=settings)
    assert (folder / "shared1" / "trtpipe-store.json").is_file()
    two = MODELS + one + '[[models]]\nsource = "two.onnx"\nprofile = "2.toml"\n'
    with pytest.raises(InputError, match="several stores"):
        build_matrix(matrix(models=two), folder / "out", settings=settings)
    with pytest.raises(InputError, match="several stores"):
        plan_matrix(matrix(models=two), settings=settings)


class TestCellsThatCannotBe:
    def test_a_file_that_is_missing_is_seen_beforehand(self, matrix: Matrix, settings: Settings) -> None:
        models = MODELS + '[[models]]\nsource = "gone.onnx"\n[[models]]\nname = "n"\nsource = "one.onnx"\n'
        head = 'precisions = ["int8"]\ntargets = ["sm89"]\nbackends = ["null"]\n'
        path = matrix(head=head, models=models + 'calib_data = "gone.npz"\n')
        planned = plan_matrix(path, settings=settings)
        assert [bool(cell.where) for cell in planned] == [True, False, False]
        assert "gone.onnx" in planned[1].problem
        assert "gone.npz" in planned[2].problem

    def test_are_said_before_any_work_and_others_go_on(self, matrix: Matrix, folder: Path, settings: Settings) -> None:
        path = matrix(head='targets = ["sm89"]\nbackends = ["null", "tensorrt-rtx 0.1"]\n')
        planned = {cell.name: cell for cell in plan_matrix(path, settings=settings)}
        assert "no worker has tensorrt-rtx 0.1" in planned["one-sm89-tensorrt-rtx-0.1"].problem
        assert planned["one-sm89-null"].where
        report = build_matrix(path, folder / "out", settings=settings)
        assert [cell.state for cell in report.cells] == ["passed", "error"]
        assert report.exit_code == 6

    def test_do_not_count_where_they_are_optional(self, matrix: Matrix, folder: Path, settings: Settings) -> None:
        tail = '[[optional]]\nbackend = "tensorrt-rtx*"\n'
        path = matrix(head='targets = ["sm89"]\nbackends = ["null", "tensorrt-rtx 0.1"]\n', tail=tail)
        report = build_matrix(path, folder / "out", settings=settings)
        assert report.exit_code == 0
        suite = ET.parse(folder / "out" / "junit.xml").getroot()
        assert (suite.get("errors"), suite.get("skipped")) == ("0", "1")

    def test_a_missing_or_broken_model(self, matrix: Matrix, folder: Path, settings: Settings) -> None:
        (folder / "broken.onnx").write_bytes(b"no graph")
        models = (
            '[[models]]\nsource = "gone.onnx"\n[[models]]\nsource = "broken.onnx"\n[[models]]\nsource = "one.onnx"\n'
        )
        report = build_matrix(matrix(models=models), folder / "out", settings=settings)
        assert [cell.exit_code for cell in report.cells] == [2, 2, 0]
        assert "gone.onnx" in report.cells[0].headline

    @pytest.mark.slow
    def test_a_users_file_where_a_rejected_cell_goes_hides_no_verdict(
        self, matrix: Matrix, folder: Path, settings: Settings
    ) -> None:
        (folder / "strict.toml").write_text("[tolerance]\natol = 0.0\nrtol = 0.0\nmin_snr_db = 900.0\n")
        head = 'precisions = ["int8"]\ntargets = ["sm89"]\nbackends = ["null"]\n'
        path = matrix(
            head=head, models='[[models]]\nsource = "one.onnx"\ncalib_data = "data.npz"\nprofile = "strict.toml"\n'
        )
        report = build_matrix(path, folder / "out", settings=settings)
        place = folder / "out" / report.cells[0].parts[0].folder
        assert place.name.endswith(".rejected")
        (place / "parity.json").write_text("notes")
        again = build_matrix(path, folder / "out", settings=settings).cells[0]
        assert (again.state, again.exit_code, again.parts[0].folder) == ("failed", 3, "")
        assert (place / "parity.json").read_text() == "notes"
        assert "FAILED" in again.headline
        assert "not kept" in again.headline

    def test_a_precision_that_needs_data(self, matrix: Matrix, folder: Path, settings: Settings) -> None:
        models = '[[models]]\nsource = "one.onnx"\n'
        path = matrix(head='precisions = ["int8"]\ntargets = ["sm89"]\nbackends = ["null"]\n', models=models)
        report = build_matrix(path, folder / "out", settings=settings)
        assert report.cells[0].exit_code == 2
        assert "calibration data" in report.cells[0].headline


class TestSeveralModelsOnOneGpu:
    MODELS = '[[models]]\nname = "both"\nsources = ["one.onnx", "two.onnx"]\n'

    def test_are_one_cell_with_one_package_and_a_repository(
        self, matrix: Matrix, folder: Path, settings: Settings
    ) -> None:
        report = build_matrix(matrix(models=self.MODELS), folder / "out", settings=settings)
        (cell,) = report.cells
        sizes = [part.figures.size for part in cell.parts if part.figures is not None]
        assert cell.size == sum(size or 0 for size in sizes) > 0
        place = folder / "out" / "cells" / cell.name
        assert {"one", "two"} <= {each.name for each in (place / "repository").iterdir()}
        assert cell.exit_code == 0
        made = trtpipe.verify_package(place / "package").model
        assert (made.name, [member.name for member in made.members]) == ("both", ["one", "two"])
        assert trtpipe.selftest_package(place / "package", "cpu").passed

    def test_a_budget_is_kept_together(self, matrix: Matrix, folder: Path, settings: Settings) -> None:
        head = 'targets = ["sm89"]\nbackends = ["null"]\nmemory_budget = "600 B"\n'
        one = build_matrix(matrix(head=head), folder / "one", settings=settings)
        both = build_matrix(matrix(head=head, models=self.MODELS), folder / "both", settings=settings)
        assert (one.exit_code, both.exit_code) == (0, 5)
        assert "budget" in both.cells[0].problem
        assert all(".rejected/" in part.folder for part in both.cells[0].parts)
        assert not (folder / "both" / "cells" / both.cells[0].name).exists()


class TestDrivers:
    @pytest.mark.parametrize("name", ["matrix.json", "junit.xml", "matrix.html", "cells"])
    def test_a_users_file_in_the_way_is_named_before_any_work(
        self, matrix: Matrix, folder: Path, settings: Settings, name: str
    ) -> None:
        out = folder / "out"
        out.mkdir()
        (out / name).write_text("mine")
        with pytest.raises(InputError, match=name):
            build_matrix(matrix(), out, settings=settings)
        assert {path.name for path in out.iterdir()} <= {name, ".matrix.lock"}
        assert (out / name).read_text() == "mine"
        assert not settings.cache_dir.exists() or not list(settings.cache_dir.glob("artifacts/*"))

    def test_two_on_one_folder(self, matrix: Matrix, folder: Path, settings: Settings) -> None:
        from trtpipe.store.files import try_locked

        (folder / "out").mkdir()
        with try_locked(folder / "out" / ".matrix.lock"), pytest.raises(InputError, match="another trtpipe matrix"):
            build_matrix(matrix(), folder / "out", settings=settings)

    def test_two_at_once_build_nothing_twice(self, matrix: Matrix, folder: Path, settings: Settings) -> None:
        path, reports = matrix(head=FOUR), []

        def drive(name: str) -> None:
            reports.append(build_matrix(path, folder / name, settings=settings))

        threads = [threading.Thread(target=drive, args=(name,)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        entries = sum(1 for _ in (settings.cache_dir / "v1").glob("*/*/*"))
        assert [report.exit_code for report in reports] == [0, 0]
        assert sum(report.built for report in reports) == entries


class TestWorkers:
    def test_a_killed_one_is_replaced(
        self, matrix: Matrix, folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        killed: list[int] = []
        submit = LocalWorkers.submit

        def kill_the_first(self: LocalWorkers, task: object) -> None:
            submit(self, task)  # type: ignore[arg-type]
            if not killed:
                killed.append(self.processes[-1])
                threading.Timer(0.5, os.kill, (killed[0], signal.SIGKILL)).start()

        monkeypatch.setattr(LocalWorkers, "submit", kill_the_first)
        report = build_matrix(matrix(head=FOUR), folder / "out", settings=settings)
        assert (report.exit_code, report.repeated) == (0, 1)

    def test_they_end_with_their_driver(self, settings: Settings) -> None:
        workers = LocalWorkers(settings)
        workers.close()
        assert workers.processes == ()

    @pytest.mark.parametrize(("field", "words"), [("trtpipe", "the driver 0.0.1"), ("seal", "another key")])
    def test_another_trtpipe_or_another_key_is_refused(self, folder: Path, field: str, words: str) -> None:
        request = request_of(folder, str(folder / "one.onnx"))
        assert perform(request).error is None
        wrong = request.model_copy(update={field: "0.0.1"})
        error = perform(wrong).error
        assert error is not None
        assert words in error.message
        assert error.exit_code == 6

    @pytest.mark.parametrize(("flavor", "version"), [("null", "2"), ("tensorrt", "")])
    def test_one_that_has_something_else_than_it_said_is_refused(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, flavor: str, version: str
    ) -> None:
        monkeypatch.setattr("trtpipe.farm.perform.missing", lambda name: "it" if name == "tensorrt" else None)
        needs = Needs(flavor=flavor, version=version)
        error = perform(request_of(folder, str(folder / "one.onnx")).model_copy(update={"needs": needs})).error
        assert error is not None
        assert (error.exit_code, f"taken for one with {needs}" in error.message) == (6, True)

    def test_a_request_that_is_none_gets_a_reply(self) -> None:
        assert json.loads(perform_text('{"from": "the future"}'))["error"]["exit_code"] == 6


class TestFilesOfTheDriver:
    def test_are_fetched_where_they_are_not(self, folder: Path, settings: Settings) -> None:
        bucket = open_bucket(f"file://{folder}/shared")
        place, names = files_of(folder / "one.onnx")
        assert send(bucket, place, names, 10)[1] is False
        assert list(bucket.list("sent/")) == []
        entries, sent = send(bucket, place, names, 1 << 20)
        assert sent
        assert same_here(folder, entries)
        receive(bucket, entries, folder / "there" / "x")
        assert (folder / "there" / "x" / "one.onnx").read_bytes() == (folder / "one.onnx").read_bytes()
        assert not same_here(folder / "elsewhere", entries)
        evil = tuple(entry.model_copy(update={"name": "../evil"}) for entry in entries)
        with pytest.raises(HostError):
            receive(bucket, evil, folder / "there" / "y")
        wrong = tuple(entry.model_copy(update={"sha256": "0" * 64}) for entry in entries)
        with pytest.raises(HostError):
            receive(bucket, wrong, folder / "there" / "z")
        assert not (folder / "there" / "z").exists()

    def test_that_are_too_large_count_where_they_are(self, folder: Path) -> None:
        files, _ = send(FolderBucket(folder / "shared"), *files_of(folder / "one.onnx"), limit=10)
        here = SealedCopy(path=str(folder / "one.onnx"), folder=False, files=files, sent=False)
        assert perform(request_of(folder, here.path, here)).error is None
        gone = here.model_copy(update={"path": str(folder / "elsewhere" / "one.onnx")})
        error = perform(request_of(folder, gone.path, gone)).error
        assert error is not None
        assert error.exit_code == 2
        assert f"{files[0].size:,} bytes" in error.message


class TestPage:
    def test_names_of_anybody_do_nothing(self, matrix: Matrix, folder: Path, settings: Settings) -> None:
        name = "<script>alert(1)</script><img src=x onerror=alert(2)>"
        models = f'[[models]]\nname = "{name}"\nsource = "gone.onnx"\n'
        report = build_matrix(matrix(models=models), folder / "out", settings=settings)
        text = write_matrix_page(report, folder / "out").read_text()
        assert text.count("<script") == 1
        assert "<img" not in text
        assert "default-src 'none'" in text
        assert "&lt;script&gt;" in text
        assert name not in (folder / "out" / "junit.xml").read_text()

    def test_its_script_is_the_one_that_the_policy_allows(
        self, matrix: Matrix, folder: Path, settings: Settings
    ) -> None:
        import base64
        import hashlib
        import re

        report = build_matrix(matrix(models='[[models]]\nsource = "gone.onnx"\n'), folder / "out", settings=settings)
        text = write_matrix_page(report, folder / "out").read_text()
        script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
        assert script is not None
        digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
        assert f"'sha256-{digest}'" in text


@pytest.mark.parametrize(("codes", "code"), [((0, 0), 0), ((0, 4, 3), 3), ((3, 5), 5), ((5, 6, 2), 2), ((), 0)])
def test_the_worst_code_decides(codes: tuple[int, ...], code: int) -> None:
    assert worst(codes) == code
