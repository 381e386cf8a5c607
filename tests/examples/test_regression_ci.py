"""The workflow of examples/regression-ci: its own shell steps, run here in their order."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import trtpipe

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "regression-ci"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed: pip install '.[rtx]'"
)


def steps() -> dict[str, str]:
    """Name -> command of every step that runs one, as the runner would join its lines."""
    text = (FOLDER / "accuracy.yml").read_text(encoding="utf-8")
    found = {}
    for block in re.split(r"\n      - ", text)[1:]:
        name = re.match(r"name: (\S+)", block)
        command = re.search(r"^        run: (>-\n|\|\n)?(.*?)(?=\n        \w|\Z)", block, re.MULTILINE | re.DOTALL)
        if name and command:
            lines = [line.strip() for line in command[2].splitlines()]
            found[name[1]] = ("\n" if command[1] == "|\n" else " ").join(lines)
    return found


def test_its_steps_run_and_hold_and_a_worse_model_is_caught(tmp_path: Path) -> None:
    work = tmp_path / "checkout"
    work.mkdir()
    for part in ("examples", "calib", "profiles"):
        shutil.copytree(ROOT / part, work / part)
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "trtpipe"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m trtpipe "$@"\n')
    script.chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "TRTPIPE_CACHE_DIR": str(tmp_path / "cache"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "TRTPIPE_CACHE_KEY": "a secret of this repository",
    }  # fmt: skip

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", command], cwd=work, env=environment, capture_output=True, text=True, check=False
        )

    found = steps()
    assert list(found) == ["install", "build", "check", "summary"]
    quick = " --target sm89 --warmup 1ms --duration 10ms"
    assert (built := run(found["build"] + quick)).returncode == 0, built.stderr
    (work / "examples" / "regression-ci" / "baseline.json").unlink(missing_ok=True)
    saved = run("trtpipe check build/digits --save-baseline examples/regression-ci/baseline.json")
    assert saved.returncode == 0, saved.stderr
    for name in ("check", "summary"):
        assert (done := run(found[name])).returncode == 0, done.stdout + done.stderr
    assert "No regression" in (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert ET.parse(work / "build" / "check.xml").getroot().attrib["failures"] == "0"

    # A cache that is restored under another home is believed with the secret, and not without it.
    def planned() -> list[dict[str, object]]:
        """What a dry run says of every step, but for the time that it took to find out."""
        listed = json.loads(run(found["build"] + quick + " --dry-run --json").stdout)["steps"]
        return [{name: value for name, value in step.items() if name != "seconds"} for step in listed]

    believed = planned()
    assert {step["state"] for step in believed} <= {"hit", "skipped"}
    environment |= {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "home" / "config")}
    assert planned() == believed
    del environment["TRTPIPE_CACHE_KEY"]
    assert "to build" in {step["state"] for step in planned()}
    environment["TRTPIPE_CACHE_KEY"] = "a secret of this repository"

    damage = (
        "import numpy as np\nfrom safetensors.numpy import load_file, save_file\n"
        "w = load_file('examples/digits/weights.safetensors')\nk = w['head.weight']\n"
        "w['head.weight'] = (k + np.random.default_rng(0).normal(size=k.shape) * abs(k).max()).astype('float32')\n"
        "save_file(w, 'examples/digits/weights.safetensors')\n"
    )
    (work / "damage.py").write_text(damage)
    assert run(f'"{sys.executable}" damage.py').returncode == 0
    assert run(found["build"] + quick).returncode == 0, "the build itself does not know how good it was"
    check = run(found["check"] + " --json")
    assert check.returncode == 3, check.stdout + check.stderr
    failed = [f["name"] for f in json.loads(check.stdout)["report"]["findings"] if f["status"] == "failed"]
    assert "top1 of lowered" in failed
    update = "trtpipe check build/digits --baseline examples/regression-ci/baseline.json --update 'a test of damage'"
    assert run(update).returncode == 0
    assert run(found["check"]).returncode == 0

    # A build that fails its own gate is reported as well.
    for written in (work / "build" / "check.xml", work / "build" / "check.md"):
        written.unlink()
    (tmp_path / "summary.md").unlink()
    assert run(found["build"] + quick + " --min-metric top1=100%").returncode == 3
    assert not (work / "build" / "digits").exists(), "no older build may be taken for it"
    assert run(found["check"]).returncode == 3
    assert run(found["summary"]).returncode == 0
    assert "Regression" in (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert int(ET.parse(work / "build" / "check.xml").getroot().attrib["failures"]) > 0


def test_the_baseline_that_comes_with_the_example_is_of_this_version() -> None:
    baseline = trtpipe.Baseline.read(FOLDER / "baseline.json")
    assert baseline.metrics[0].samples == 449
    assert set(baseline.engines) == {"sm86", "sm89", "sm120"}
