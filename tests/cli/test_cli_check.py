"""``check``, ``diff`` and ``verify --reuse`` on the command line: exit codes, files and words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import trtpipe

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """64 held-out samples with the labels the model itself gives, but for one: nothing has all right."""
    import onnxruntime as ort

    x = np.random.default_rng(2).normal(size=(64, 8)).astype(np.float32)
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    labels = np.concatenate([session.run(None, {"x": x[i : i + 2]})[0].argmax(axis=1) for i in range(0, 64, 2)])
    labels[0] = 1 - min(labels[0], 1)
    path = tmp_path_factory.mktemp("labeled") / "eval.npz"
    np.savez(path, x=x, labels=labels)
    return path


@pytest.fixture(scope="module")
def good(run: Run, model: Path, data: Path, labeled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(run, model, data, labeled, tmp_path_factory.mktemp("good") / "out")


def built(run: Run, model: Path, data: Path, labeled: Path, out: Path, *words: str) -> Path:
    quick = ("--backend", "null", "--target", "sm89", "--no-simplify", "--warmup", "1ms", "--duration", "10ms")
    evaluation = ("--eval-data", labeled, "--labels", "labels", "--metric", "top1", "--max-drop", "100%")
    profile = out.with_name("cpu.toml")
    profile.parent.mkdir(parents=True, exist_ok=True)
    profile.write_text("[latency]\ncpu = true\n")
    evaluation = (*evaluation, "--profile", profile)
    result = run("build", model, "-o", out, "--int8", "--calib-data", data, *quick, *evaluation, *words)
    assert result.exit_code == 0, result.output
    return out


class TestCheck:
    def test_a_good_build_is_saved_and_holds(self, run: Run, good: Path, tmp_path: Path) -> None:
        saved = run("check", good, "--save-baseline", tmp_path / "b.json")
        assert saved.exit_code == 0, saved.output
        assert "lowered: top1 " in saved.stdout
        result = run("check", good, "--baseline", tmp_path / "b.json", "--junit", tmp_path / "r" / "j.xml",
                     "--markdown", tmp_path / "r" / "m.md")  # fmt: skip
        assert result.exit_code == 0, result.output
        scope = "on the lowered graph (onnxruntime, CPU, 64 samples); engine not executed"
        assert result.stdout.splitlines()[-1] == f"PASSED: out against b.json; judged {scope}"
        suite = ET.parse(tmp_path / "r" / "j.xml").getroot()
        assert suite.attrib["failures"] == "0"
        said = {each.attrib["name"]: each.attrib["value"] for each in suite.iter("property")}
        assert said == {"verdict": f"PASSED: out against b.json; judged {scope}", "build": f"PASSED {scope}"}
        assert "No regression" in (tmp_path / "r" / "m.md").read_text()
        assert scope in (tmp_path / "r" / "m.md").read_text()
        for name, kind in (("j.xml", "JUnit report"), ("m.md", "Markdown summary")):
            shown = trtpipe.inspect(tmp_path / "r" / name)
            assert shown.kind == kind
            assert any(scope in value for value in shown.contents.values())
        assert trtpipe.inspect(tmp_path / "b.json").kind == "baseline"

    def test_a_regression_has_exit_code_3(
        self, run: Run, good: Path, model: Path, data: Path, labeled: Path, tmp_path: Path
    ) -> None:
        run("check", good, "--save-baseline", tmp_path / "b.json")
        (tmp_path / "loose.toml").write_text("[tolerance]\natol = 100.0\nmin_cosine = -1.0\nmin_snr_db = -99.0\n")
        worse = built(run, model, data, labeled, tmp_path / "out", "--calib-method", "percentile",
                      "--percentile", "50.1", "--profile", str(tmp_path / "loose.toml"))  # fmt: skip
        result = run("check", worse, "--baseline", tmp_path / "b.json", "--json")
        report = json.loads(result.stdout)["report"]
        assert result.exit_code == json.loads(result.stdout)["exit_code"] == 3
        failed = [finding["name"] for finding in report["findings"] if finding["status"] == "failed"]
        assert failed == ["top1 of lowered"]
        updated = run("check", worse, "--baseline", tmp_path / "b.json", "--update", "a smaller range was asked for")
        assert updated.exit_code == 0, updated.output
        assert run("check", worse, "--baseline", tmp_path / "b.json").exit_code == 0
        assert trtpipe.Baseline.read(tmp_path / "b.json").history[0].reason == "a smaller range was asked for"

    def test_a_slower_engine_alone_has_exit_code_4(
        self, run: Run, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from trtpipe.regression.gate import CheckReport, Finding
        from trtpipe.report.verdict import Evidence, verdict_of

        slow = Finding(gate="latency", name="latency", status="failed", message="slower")
        report = CheckReport(baseline="b.json", build="out", verdict=verdict_of(Evidence()), findings=(slow,))
        monkeypatch.setattr(trtpipe, "check", lambda *args, **options: report, raising=False)
        assert run("check", good, "--baseline", tmp_path / "b.json").exit_code == 4
        wrong = slow.model_copy(update={"gate": "accuracy"})
        monkeypatch.setattr(
            trtpipe,
            "check",
            lambda *args, **options: report.model_copy(update={"findings": (slow, wrong)}),
            raising=False,
        )
        assert run("check", good, "--baseline", tmp_path / "b.json").exit_code == 3

    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            ((), "--baseline is missing"),
            (("--baseline", "none.json"), "none.json: cannot be read"),
            (("--baseline", "b", "--save-baseline", "c"), "--save-baseline makes a new baseline"),
            (("--baseline", "b", "--update", " "), "--update needs a reason"),
        ],
    )
    def test_bad_usage(self, run: Run, good: Path, words: tuple[str, ...], complaint: str) -> None:
        result = run("check", good, *words)
        assert result.exit_code == 2
        assert complaint in result.stderr


class TestBaselinesOfSomethingElse:
    @pytest.fixture
    def baseline(self, run: Run, good: Path, tmp_path: Path) -> Path:
        assert run("check", good, "--save-baseline", tmp_path / "b.json").exit_code == 0
        return tmp_path / "b.json"

    @pytest.mark.parametrize(
        ("field", "value", "complaint"),
        [
            ("contract", {"inputs": [], "outputs": []}, "a baseline of another model"),
            ("data_digest", "0" * 64, "the baseline was measured on other data"),
        ],
    )
    def test_are_bad_input(
        self, run: Run, good: Path, baseline: Path, field: str, value: object, complaint: str
    ) -> None:
        baseline.write_text(json.dumps({**json.loads(baseline.read_text()), field: value}))
        result = run("check", good, "--baseline", baseline)
        assert result.exit_code == 2, result.output
        assert complaint in result.stderr
        assert "try:" in result.stderr

    def test_another_machine_only_leaves_latency_out(self, run: Run, good: Path, baseline: Path) -> None:
        found = json.loads(baseline.read_text())
        found["latency"]["machine"]["cpu"] = "another"
        baseline.write_text(json.dumps(found))
        result = run("check", good, "--baseline", baseline)
        assert result.exit_code == 0, result.output
        assert "measured on another machine, so latency is not compared" in " ".join(result.stdout.split())


class TestDiff:
    def test_nothing(self, run: Run, good: Path) -> None:
        assert run("diff", good, good).stdout.strip() == "no differences"

    def test_something(self, run: Run, good: Path, bundle: Path) -> None:
        result = run("diff", bundle, good)
        assert result.exit_code == 0, result.output
        assert "profile.accuracy" in result.stdout
        assert json.loads(run("diff", bundle, good, "--json").stdout)["diff"]["metrics"]

    def test_no_build(self, run: Run, good: Path, tmp_path: Path) -> None:
        result = run("diff", good, tmp_path)
        assert result.exit_code == 2
        assert "no bundle lies there" in result.stderr


class TestReuse:
    def test_tolerances_are_applied_to_what_was_kept(self, run: Run, good: Path, tmp_path: Path) -> None:
        assert run("verify", "--reuse", good / "parity.json").exit_code == 0
        result = run("verify", "--reuse", good, "--atol", "0", "--rtol", "0", "-o", tmp_path / "again.json")
        assert result.exit_code == 3
        assert "first failing stage: lower" in result.stdout
        assert trtpipe.ParityReport.read(tmp_path / "again.json").failing_stage == "lower"

    def test_the_share_of_integers_that_have_to_be_equal(self, run: Run, good: Path, tmp_path: Path) -> None:
        result = run("verify", "--reuse", good, "--min-agreement", "y:0.75", "-o", tmp_path / "again.json")
        assert result.exit_code == 0, result.output
        tolerances = [
            o.tolerance for c in trtpipe.ParityReport.read(tmp_path / "again.json").comparisons for o in c.outputs
        ]
        assert {tolerance.min_agreement for tolerance in tolerances} == {0.75}
        assert "--min-agreement: " in run("verify", "--reuse", good, "--min-agreement", "2").stderr

    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            (("lowered.onnx", "--reuse", "p.json"), "--reuse"),
            (("lowered.onnx",), "--reference is missing"),
            ((), "CANDIDATE is missing"),
            (("--reuse", "none.json"), "none.json: cannot be read"),
        ],
    )
    def test_bad_usage(self, run: Run, words: tuple[str, ...], complaint: str) -> None:
        result = run("verify", *words)
        assert result.exit_code == 2
        assert complaint in result.stderr


class TestMetrics:
    def test_a_function_of_the_users_as_it_is(
        self, run: Run, model: Path, data: Path, tmp_path: Path, labeled: Path
    ) -> None:
        (tmp_path / "case.py").write_text(
            "import numpy as np\n"
            "def evaluate(run, limit=None):\n"
            "    return {'mean': float(run({'x': np.ones((2, 8), np.float32)})['y'].mean()), 'n': 2.0}\n"
        )
        quick = ("--backend", "null", "--target", "sm89", "--no-simplify", "--warmup", "1ms", "--duration", "10ms")
        words = ("build", model, "-o", tmp_path / "out", "--int8", "--calib-data", data, *quick)
        result = run(*words, "--metric", f"{tmp_path / 'case.py'}:evaluate", "--max-drop", "9", "--json")
        assert result.exit_code == 0, result.output
        metrics = json.loads(result.stdout)["parity"]["metrics"]
        assert [value["metric"] for value in metrics] == ["mean"] * 3
        lower = run(
            *words, "--metric", f"{tmp_path / 'case.py'}:evaluate", "--max-drop", "9", "--lower-is-better", "--json"
        )
        assert json.loads(lower.stdout)["parity"]["metrics"][0]["lower_is_better"]
        wrong = run(*words, "--metric", f"{tmp_path / 'case.py'}:nothing")
        assert wrong.exit_code == 2
        assert "there is no function 'nothing'" in wrong.stderr

    @pytest.mark.parametrize(
        ("body", "complaint"),
        [
            ("raise ValueError('no such sample')", "raised ValueError: no such sample"),
            ("return {'m': float('nan')}", "nan"),
        ],
    )
    def test_a_function_that_fails_is_bad_input_and_costs_no_earlier_result(
        self, run: Run, model: Path, data: Path, tmp_path: Path, body: str, complaint: str
    ) -> None:
        (tmp_path / "case.py").write_text(f"def evaluate(run): {body}\n")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "parity.json").write_text("earlier")
        words = ("--reference", model, "--data", data, "--metric", f"{tmp_path / 'case.py'}:evaluate")
        result = run("verify", model, *words, "-o", tmp_path / "out")
        assert result.exit_code == 2, result.output
        assert complaint in result.stderr
        assert "try:" in result.stderr
        assert (tmp_path / "out" / "parity.json").read_text() == "earlier"

    def test_labels_that_are_missing(self, run: Run, model: Path, data: Path, tmp_path: Path) -> None:
        result = run("verify", model, "--reference", model, "--data", data, "--metric", "top1")
        assert result.exit_code == 2
        assert "no labels, so top1 cannot be measured" in result.stderr


@pytest.fixture(scope="module")
def baseline(run: Run, good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("floor") / "b.json"
    assert run("check", good, "--save-baseline", file).exit_code == 0
    return file


class TestMinMetric:
    @pytest.mark.parametrize(
        ("given", "code"),
        [("top1=50%", 0), ("top1=0.5", 0), ("top1=100%", 3), ("top1=100.1%", 2), ("top1=1", 2), ("map=50%", 2),
         ("50%", 2)],
    )  # fmt: skip
    def test_of_check(self, run: Run, good: Path, baseline: Path, given: str, code: int) -> None:
        result = run("check", good, "--baseline", baseline, "--min-metric", given)
        assert result.exit_code == code, result.output
        if code == 3:
            assert "at least 1 wanted" in result.stdout
            assert result.stdout.splitlines()[-1].startswith("FAILED: ")

    @pytest.mark.parametrize(("given", "code"), [("top1=50%", 0), ("top1=100%", 3), ("top1=100.1%", 2), ("top1=95", 2)])
    def test_of_build(
        self, run: Run, model: Path, data: Path, labeled: Path, tmp_path: Path, given: str, code: int
    ) -> None:
        result = run("build", model, "-o", tmp_path / "out", "--int8", "--calib-data", data, "--backend", "null",
                     "--target", "sm89", "--no-simplify", "--eval-data", labeled, "--labels", "labels",
                     "--metric", "top1", "--max-drop", "100%", "--min-metric", given)  # fmt: skip
        assert result.exit_code == code, result.output
        assert (tmp_path / "out.rejected").exists() is (code == 3)


class TestUpgrade:
    """The engines themselves are compared in tests/api/test_upgrade.py."""

    @pytest.fixture
    def compared(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
        """What ``check_upgrade`` was asked for; its result has one finding for each gate that ``failing`` names."""
        from trtpipe.regression.gate import Finding
        from trtpipe.regression.upgrade import UpgradeReport
        from trtpipe.report.verdict import Evidence, verdict_of

        asked: list[tuple[str, ...]] = []

        def check(build: Path, pythons: tuple[Path, ...], **_: object) -> UpgradeReport:
            asked.append((str(build), *map(str, pythons)))
            findings = tuple(
                Finding(gate=gate, name=f"{gate} of it", status="failed", message="differs")
                for gate in ("build", "accuracy", "latency")
                if gate in str(build)
            )
            return UpgradeReport(
                baseline="rtx 1",
                build=build.name,
                verdict=verdict_of(Evidence()),
                findings=findings,
                versions=("rtx 2",),
            )

        monkeypatch.setattr(trtpipe, "check_upgrade", check, raising=False)
        return asked

    @pytest.mark.parametrize(
        ("failing", "code"),
        [("none", 0), ("accuracy", 3), ("latency", 4), ("latency-accuracy", 3), ("build-latency", 5)],
    )
    def test_the_exit_code_is_that_of_the_worst(
        self, run: Run, compared: list[tuple[str, ...]], tmp_path: Path, failing: str, code: int
    ) -> None:
        result = run("check", failing, "--upgrade", "--python", "a/bin/python", "--python", "b",
                     "--junit", tmp_path / "j.xml", "--markdown", tmp_path / "m.md")  # fmt: skip
        assert result.exit_code == code, result.output
        assert compared == [(failing, "a/bin/python", "b")]
        last = result.stdout.splitlines()[-1]
        assert last.startswith("FAILED: " if code else "PASSED: ")
        assert last.endswith("no engine executed")
        failures = ET.parse(tmp_path / "j.xml").getroot().attrib["failures"]
        assert (failures == "0") is (code == 0)
        assert (tmp_path / "m.md").read_text().startswith("### trtpipe check: ")

    @pytest.mark.parametrize(
        "words",
        [
            ("--python", "a"),
            ("--upgrade", "--baseline", "b.json"),
            ("--upgrade", "--save-baseline", "b.json"),
            ("--upgrade", "--min-metric", "top1=90%"),
        ],
    )
    def test_it_goes_with_no_baseline(self, run: Run, compared: list[tuple[str, ...]], words: tuple[str, ...]) -> None:
        result = run("check", "none", *words)
        assert result.exit_code == 2
        assert compared == []


class TestLocked:
    def test_the_same_versions_build_and_others_do_not(
        self, run: Run, model: Path, data: Path, labeled: Path, good: Path, tmp_path: Path
    ) -> None:
        built(run, model, data, labeled, tmp_path / "same" / "out", "--locked", str(good))
        other = json.loads((good / "manifest.json").read_text())
        other["toolchain"]["onnx"] = "1.0.0"
        (tmp_path / "manifest.json").write_text(json.dumps(other))
        result = run("build", model, "-o", tmp_path / "out", "--int8", "--calib-data", data, "--backend", "null",
                     "--target", "sm89", "--locked", tmp_path)  # fmt: skip
        assert result.exit_code == 6
        assert "onnx: 1.0.0 there" in result.stderr
        assert not (tmp_path / "out").exists()
