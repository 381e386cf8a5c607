"""What ``import trtpipe`` and ``trtpipe --help`` load: counted in modules, which no slow machine can blur."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Packages that cost tenths of a second, or do not exist on every machine.
HEAVY = {
    "ml_dtypes",
    "numpy",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "onnxsim",
    "PIL",
    "polygraphy",
    "pydantic",
    "tensorrt",
    "tensorrt_rtx",
    "torch",
}


def loaded_by(code: str) -> set[str]:
    """Modules in a fresh interpreter after running ``code``, without those it starts with."""
    program = f"import sys; before = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def run_command(*words: str) -> str:
    return "\n".join(
        [
            "from trtpipe.cli import main",
            "try:",
            f"    main({list(words)!r})",
            "except SystemExit as end:",
            "    assert end.code == 0",
        ]
    )


class TestImport:
    def test_package_alone_loads_next_to_nothing(self) -> None:
        modules = loaded_by("import trtpipe")
        assert not HEAVY & modules
        assert {name for name in modules if name.startswith("trtpipe")} == {"trtpipe"}
        assert len(modules) < 30, sorted(modules)

    def test_errors_settings_and_targets_need_no_library(self) -> None:
        modules = loaded_by("from trtpipe import InputError, Settings, find_target; find_target('rtx4090')")
        assert not (HEAVY | {"click", "rich"}) & modules

    def test_library_without_the_command_line_loads_neither_click_nor_rich(self) -> None:
        modules = loaded_by("import trtpipe; trtpipe.build, trtpipe.inspect, trtpipe.diagnose, trtpipe.ArtifactStore")
        assert not {"click", "rich", "trtpipe.cli"} & modules

    def test_public_api_loads_no_vendor_package(self) -> None:
        modules = loaded_by("import trtpipe; [getattr(trtpipe, name) for name in trtpipe.__all__]")
        vendors = {"onnxruntime", "onnxsim", "polygraphy", "tensorrt", "tensorrt_rtx", "torch"}
        assert not vendors & modules

    def test_build_and_its_stages_load_no_graph_library_before_there_is_work(self) -> None:
        """onnx-ir brings sympy, a third of a second: a build that finds everything in the cache does without."""
        modules = loaded_by("import trtpipe; trtpipe.build, trtpipe.calibrate, trtpipe.verify")
        assert "trtpipe.pipeline.pipeline" in modules
        assert not {"onnx", "onnx_ir", "sympy"} & modules


class TestCommandLine:
    @pytest.mark.parametrize(
        "words", [["--help"], ["--version"], [], ["build", "--help"], ["cache", "--help"], ["compile", "-h"]]
    )
    def test_help_loads_click_alone(self, words: list[str]) -> None:
        modules = loaded_by(run_command(*words))
        assert "click" in modules
        assert not (HEAVY | {"rich"}) & modules

    def test_overview_loads_each_command_but_nothing_below_the_public_api(self) -> None:
        modules = {name for name in loaded_by(run_command("--help")) if name.startswith("trtpipe.")}
        assert "trtpipe.cli.build" in modules
        below = {name for name in modules if name.split(".")[1] not in {"cli", "errors", "progress", "views"}}
        light = {"formats", "methods", "paths", "settings", "target", "units"}
        assert below <= {"trtpipe.config", *(f"trtpipe.config.{name}" for name in light)}
        assert len(modules) < 50
