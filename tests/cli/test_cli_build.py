"""``trtpipe build``: the table, the document, precedence of options, gates and exit codes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import onnx
import pytest

import trtpipe
from trtpipe.backends.base import Refusal
from trtpipe.backends.null import Null

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.target import Target

QUICK = ("--backend", "null", "--target", "sm89", "--no-simplify", "--warmup", "1ms", "--duration", "10ms")
STAGES = ["export", "simplify", "observe", "calibrate", "lower", "compile sm89", "verify", "measure", "bundle"]


def first_words(text: str) -> list[str]:
    """The first column of the table at the top of ``text``."""
    rows = text.splitlines()[2:]
    end = next(i for i, row in enumerate(rows) if row.startswith(("note: ", "PASSED ", "FAILED ", "NOT JUDGED")))
    return [re.split(r"  +", row)[0] for row in rows[:end]]


class TestResult:
    def test_table_verdict_place_and_next_command(self, run: Run, model: Path, data: Path, bundle: Path) -> None:
        result = run("build", model, "-o", bundle, "--int8", "--calib-data", data, *QUICK)
        assert result.exit_code == 0
        assert first_words(result.stdout) == STAGES
        assert re.search(r"verify +parity\.json .* cached +PASSED ", result.stdout)
        assert re.search(r"measure .*skipped +not measured here", result.stdout)
        verdict, place, following = result.stdout.splitlines()[-3:]
        assert verdict == "PASSED on the lowered graph (onnxruntime, CPU, 16 of 128 samples); engine not executed"
        assert place == f"result: {bundle}"
        assert following == f"next:   trtpipe inspect {bundle}/manifest.json"
        assert trtpipe.inspect(bundle).kind == "manifest"

    def test_json_is_one_document_with_every_artifact_where_it_lies(
        self, run: Run, model: Path, data: Path, bundle: Path
    ) -> None:
        result = run("build", model, "-o", bundle, "--int8", "--calib-data", data, *QUICK, "--json")
        document = json.loads(result.stdout)
        assert (document["command"], document["exit_code"], document["passed"]) == ("build", 0, True)
        steps = {step["stage"]: step for step in document["steps"]}
        assert list(steps) == [name.partition(" ")[0] for name in STAGES]
        assert steps.pop("measure")["state"] == "skipped"
        assert steps["compile"]["target"] == "sm89"
        manifest = trtpipe.Manifest.read(bundle / "manifest.json")
        digests = {entry.label: entry.digest for entry in manifest.artifacts}
        for step in steps.values():
            artifact = step["artifact"]
            main = artifact["files"][0]
            assert artifact["path"] == str(bundle / main["name"])
            assert (bundle / main["name"]).stat().st_size == main["size"]
            assert digests.get(artifact["label"], artifact["digest"]) == artifact["digest"]
        assert document["verdict"] == manifest.verdict.to_dict()
        assert document["verdict"]["latency"] == {"outcome": "not judged", "summary": "not measured here"}
        assert document["parity"]["precision"] == "int8"
        assert document["latency"] is None

    def test_progress_goes_to_stderr_and_quiet_leaves_warnings(
        self, run: Run, model: Path, bundle: Path, tmp_path: Path
    ) -> None:
        del bundle
        own = (*QUICK, "--keep", "no node is called so")  # whatever other tests have cached
        loud = run("build", model, "-o", tmp_path / "a", *own)
        quiet = run("build", model, "-o", tmp_path / "b", *own, "--rtol", "0.5", "-q")
        assert re.search(r"^export: cached$", loud.stderr, re.MULTILINE)
        assert re.search(r"^bundle: done in \d", loud.stderr, re.MULTILINE)
        assert quiet.stderr.startswith("warning: no data was given")
        assert len(quiet.stderr.splitlines()) == 1

    def test_verbose_tells_why_and_under_which_key(self, run: Run, model: Path, data: Path, bundle: Path) -> None:
        result = run("build", model, "-o", bundle, "--int8", "--calib-data", data, *QUICK, "-v")
        assert re.search(r"export .* nothing changed +[0-9a-f]{12}$", result.stdout, re.MULTILINE)

    def test_log_file_has_times_and_all_steps(
        self, run: Run, model: Path, data: Path, bundle: Path, tmp_path: Path
    ) -> None:
        log = tmp_path / "log"
        for _ in range(2):
            run("build", model, "-o", bundle, "--int8", "--calib-data", data, *QUICK, "--log-file", log)
        lines = log.read_text(encoding="utf-8").splitlines()
        assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d ", line) for line in lines)
        assert sum("compile sm89: cached" in line for line in lines) == 2


class TestDryRun:
    def test_plans_and_writes_nothing(self, run: Run, model: Path, data: Path, bundle: Path, tmp_path: Path) -> None:
        del bundle
        words = ("build", model, "-o", tmp_path / "out", "--int8", "--calib-data", data, *QUICK, "--dry-run")
        result = run(*words, "--percentile", "99")
        states = dict(re.split(r"  +", row)[:2] for row in result.stdout.splitlines()[2:])
        assert result.exit_code == 0
        assert not (tmp_path / "out").exists()
        assert [states[name] for name in ("export", "simplify", "observe")] == ["cached"] * 3
        assert states["calibrate"] == "to build"
        assert states["lower"] == "undecided"
        assert "changed: settings.percentile" in result.stdout

    def test_json(self, run: Run, model: Path, tmp_path: Path) -> None:
        words = ("build", model, "-o", tmp_path / "out", "--fp16", *QUICK, "--dry-run", "--json")
        document = json.loads(run(*words).stdout)
        assert document["dry_run"] is True
        states = {step["stage"]: step["state"] for step in document["steps"]}
        assert states["calibrate"] == "skipped"
        assert set(states.values()) <= {"hit", "to build", "skipped", "undecided"}


class TestGates:
    def test_accuracy_fails_with_3_and_spares_the_last_good_bundle(
        self, run: Run, model: Path, data: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        good = ("build", model, "-o", out, "--int8", "--calib-data", data, *QUICK)
        assert run(*good).exit_code == 0
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        result = run(*good, "--atol", "y:1e-9", "--rtol", "1e-9")
        assert result.exit_code == 3
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
        assert re.search(r"verify .* FAILED lowered: output 'y' differs from model", result.stdout)
        verdict, place, following = result.stdout.splitlines()[-3:]
        assert verdict.startswith("FAILED on the lowered graph (onnxruntime, CPU, 16 of 128 samples); engine not exec")
        assert "accuracy gate failed, first in lower" in verdict
        assert place == f"result: {out}.rejected"
        assert following == f"next:   trtpipe inspect {out}.rejected/parity.json"
        assert trtpipe.inspect(f"{out}.rejected/parity.json").parity is not None

    def test_a_target_that_fails_is_told_and_the_others_are_kept(
        self, run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuses(self: Null, model: Path, profile: DeploymentProfile, target: Target) -> Refusal | None:
            return Refusal("no \x1b[31msm120\n here", "choose another") if target.name == "sm120" else None

        monkeypatch.setattr(Null, "refuses", refuses)
        result = run("build", model, "-o", tmp_path / "out", *QUICK, "--target", "sm89,rtx5090")
        assert result.exit_code == 5
        assert re.search(r"compile sm120 .* FAILED .*no \\x1b\[31msm120", result.stdout)
        assert "; build failed: sm120" in result.stdout.splitlines()[-3]
        first = result.stderr.splitlines()[0]  # before any work
        assert first.startswith("warning: sm120 cannot be built here: ")
        assert "the exit code will be 5" in first
        assert (tmp_path / "out.rejected" / "sm89.plan").is_file()
        assert not (tmp_path / "out" / "sm120.plan").exists()
        assert "\x1b" not in result.output

    @pytest.mark.parametrize(("targets", "engines"), [("sm89,rtx5090", {"sm89.plan"}), ("rtx5090", set())])
    def test_a_target_that_is_handed_over_is_no_failure(
        self, run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: str, engines: set[str]
    ) -> None:
        monkeypatch.setattr(Null, "refuses", lambda self, model, profile, target: (
            Refusal("not here", "go there") if target.name == "sm120" else None))  # fmt: skip
        free = onnx.load(model)
        for value in (*free.graph.input, *free.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "N"
        onnx.save(free, tmp_path / "free.onnx")
        out, shapes = tmp_path / "out", ("--min-shapes", "x:1x8", "--opt-shapes", "x:2x8", "--max-shapes", "x:4x8")
        words = ("build", tmp_path / "free.onnx", "-o", out, *shapes, *QUICK[:2], "--target", targets, "--handover")
        assert run(*words, "--dry-run").exit_code == 0
        result = run(*words)
        assert result.exit_code == 0, result.stderr
        assert {path.name for path in out.glob("*.plan")} == engines
        assert re.search(r"engines? not executed; handed over: sm120$", result.stdout.splitlines()[-3])
        found = trtpipe.inspect(out)
        assert found.altered == ()
        assert found.manifest is not None
        assert (found.manifest.verdict.handed_over, found.manifest.targets[-1]) == (("sm120",), "sm120")
        made = run("package", "make", out, "-o", tmp_path / "there", "--handover", "sm120")
        assert made.exit_code == 0, made.stderr
        job = json.loads((tmp_path / "there" / "handover.json").read_text())
        assert job["profiles"] == [{"x": {"min": [1, 8], "opt": [2, 8], "max": [4, 8]}}]

    def test_a_target_that_lacks_the_precision_is_not_handed_over(
        self, run: Run, model: Path, data: Path, tmp_path: Path
    ) -> None:
        words = ("--fp8", "--calib-data", data, *QUICK[:2], "--target", "sm86", "--handover")
        result = run("build", model, "-o", tmp_path / "out", *words)
        assert result.exit_code == 5
        assert "sm86 (Ampere) does not compute in fp8" in result.stderr

    def test_no_target_at_all_is_an_error(
        self, run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Null, "refuses", lambda *_: Refusal("not today", "come back tomorrow"))
        result = run("build", model, "-o", tmp_path / "out", *QUICK)
        assert result.exit_code == 5
        first, second = result.stderr.splitlines()[-2:]
        assert first.startswith("error: ")
        assert first.endswith("not today")
        assert second == "  try: come back tomorrow"
        assert not (tmp_path / "out").exists()


class TestPrecedence:
    def document(self, run: Run, *words: str | Path) -> dict[str, object]:
        result = run("build", *words, "--json", "-q")
        assert result.exit_code == 0, result.stderr
        manifest = trtpipe.Manifest.read(words[2] / "manifest.json")  # type: ignore[operator]
        return dict(manifest.settings["profile"])

    def test_option_over_file_over_default(self, run: Run, model: Path, tmp_path: Path) -> None:
        profile = tmp_path / "p.toml"
        profile.write_text(
            'precision = "bf16"\nbackend = "null"\ntargets = ["sm86"]\nkeep = ["a*"]\n'
            '[latency]\nwarmup = "1ms"\nduration = "20ms"\n[tolerance.outputs.y]\natol = 5.0\n[build]\nopt_level = 1\n'
        )
        words = (model, "-o", tmp_path / "out", "--no-simplify", "--profile", profile)
        found = self.document(run, *words, "--fp16", "--duration", "10ms", "--rtol", "y:0.5", "--workspace", "1G")
        assert found["precision"] == "fp16"
        assert found["targets"] == ["sm86"]
        assert found["keep"] == ["a*"]
        assert found["latency"] == {
            "warmup": 0.001,
            "duration": 0.01,
            "iterations": 10,
            "cuda_graph": True,
            "transfers": True,
            "batches": [],
            "max_p99": None,
            "cpu": False,
        }
        assert found["tolerance"]["outputs"]["y"]["atol"] == 5.0
        assert found["tolerance"]["outputs"]["y"]["rtol"] == 0.5
        assert found["build"]["opt_level"] == 1
        assert found["build"]["workspace"] == 1 << 30
        assert found["accuracy"]["max_drop"] == 0.01


def test_int8_with_fp16_is_best(run: Run, model: Path, data: Path, tmp_path: Path) -> None:
    words = ("build", model, "-o", tmp_path / "out", "--int8", "--fp16", "--calib-data", data, *QUICK, "-q")
    assert run(*words).exit_code == 0
    assert trtpipe.Manifest.read(tmp_path / "out" / "manifest.json").precision == "best"


class TestRefused:
    @pytest.mark.parametrize(
        ("words", "error", "remedy"),
        [
            (["--int8"], "int8 needs calibration data, and none was given", "add --calib-data"),
            (["--fp16", "--bf16"], "--fp16 and --bf16 contradict each other", "choose one precision"),
            (["--fp8", "--fp16"], "--fp8 and --fp16 contradict each other", "choose one precision"),
            (["--int8", "--fp32"], "--int8 and --fp32 contradict each other", "choose one precision"),
            (["--workspace", "4X"], "--workspace: '4X' is not a size such as 512M or 4G", "correct --workspace"),
            (["--max-p99", "5"], "--max-p99: '5' has no unit: write 5ms or 5s", "correct --max-p99"),
            (["--atol", "y:soon"], "--atol: 'soon' is not a number; write 1e-3, or OUTPUT:1e-3", "correct --atol"),
            (["--atol", "-1"], "--atol: Input should be greater than or equal to 0", "correct --atol (it is -1.0)"),
            (["--opt-level", "9"], "--opt-level: Input should be less than", "correct --opt-level (it is 9)"),
            (["--target", "rtx40900"], "unknown target 'rtx40900'", "did you mean 'rtx4090'?"),
            (["--shapes", "x=2x8"], "cannot read shapes 'x=2x8'", "write them as x:1x3x224x224 or x:[1,3,224,224]"),
            (["--shapes", "z:2x8"], "shapes for 'z': no such input", "inputs: x"),
            (["--min-shapes", "x:2x8"], "input 'x' has no opt and no max shape", "add --opt-shapes x:2x8 and --max"),
            (["--shapes", "auto"], "shapes are to be inferred from calibration data, and none", "add --calib-data"),
            (["--max-drop", "1%"], "--max-drop: there is no evaluation data", "name it with --eval-data DATA"),
            (["--metric", "top1"], "--metric: there is no evaluation data", "name it with --eval-data DATA"),
            (["--profile", "nowhere.toml"], "nowhere.toml: cannot be read", "give an existing TOML file"),
            (["--calib", "nowhere.toml"], "nowhere.toml: cannot be read", "give an existing TOML file"),
        ],
    )
    def test_says_what_and_what_to_do(
        self, run: Run, model: Path, tmp_path: Path, words: list[str], error: str, remedy: str
    ) -> None:
        result = run("build", model, "-o", tmp_path / "out", *QUICK, *words, "-q")
        assert result.exit_code == 2
        first, second = result.stderr.splitlines()
        assert first.startswith(f"error: {error}")
        assert second.startswith(f"  try: {remedy}")
        assert result.stdout == ""
        assert not (tmp_path / "out").exists()

    def test_source_that_is_not_there(self, run: Run, tmp_path: Path) -> None:
        result = run("build", tmp_path / "a\x1b[2Jb.onnx", "-o", tmp_path / "out", *QUICK, "-q")
        assert result.exit_code == 2
        assert result.stderr.splitlines() == [
            f"error: {tmp_path}/a\\x1b[2Jb.onnx: no such file",
            "  try: check the path",
        ]

    def test_output_that_is_a_file(self, run: Run, model: Path, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("mine")
        result = run("build", model, "-o", tmp_path / "out", *QUICK, "-q")
        assert result.exit_code == 2
        assert "a file, so" in result.stderr
        assert (tmp_path / "out").read_text() == "mine"


def test_random_calibration_never_passes_for_real_data(run: Run, model: Path, tmp_path: Path) -> None:
    words = ("build", model, "-o", tmp_path / "out", "--int8", "--allow-random-calibration", *QUICK, "-q")
    result = run(*words)
    assert result.exit_code == 0
    assert "NOT JUDGED on real data" in result.stdout
    assert "PASSED" not in result.stdout
    manifest = trtpipe.Manifest.read(tmp_path / "out" / "manifest.json")
    assert manifest.calibration is not None
    assert "synthetic" in manifest.calibration.source
