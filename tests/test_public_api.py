"""The names users may rely on: one list of them, documented, with examples that run."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.metadata
import inspect
import json
import re
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import model, normal, run, save
from pydantic import BaseModel

import trtpipe
from trtpipe.api.arguments import MEANINGS, BuildArguments, CommonArguments, ModelArguments, PackageArguments
from trtpipe.artifact import PublicRecord

STUB = Path(trtpipe.__file__).with_suffix(".pyi")
FUNCTIONS = [name for name in trtpipe.__all__ if inspect.isfunction(getattr(trtpipe, name))]


def is_record(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, BaseModel)


def listed() -> list[tuple[str, str]]:
    """(name, module) of every line of the stub, in its order."""
    found = []
    for statement in ast.parse(STUB.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ImportFrom):
            (alias,) = statement.names
            assert alias.asname == alias.name, "a stub exports what it imports under its own name"
            found.append((alias.name, statement.module or ""))
    return found


class TestNames:
    def test_are_listed_once_and_nowhere_else(self) -> None:
        names = [name for name, _ in listed()]
        assert len(set(names)) == len(names)
        assert trtpipe.__all__ == sorted(names)
        source = Path(trtpipe.__file__).read_text(encoding="utf-8")
        assert [name for name in names if f'"{name}"' in source] == []

    @pytest.mark.parametrize(("name", "module"), listed(), ids=lambda text: text)
    def test_come_from_the_module_that_type_checkers_see(self, name: str, module: str) -> None:
        value = getattr(trtpipe, name)
        assert value is getattr(importlib.import_module(module), name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value)
            assert value.__module__.startswith(module), "it lives there, and is not only imported there"
            assert value.__name__ == name

    def test_dir_lists_them(self) -> None:
        assert set(dir(trtpipe)) == {*trtpipe.__all__, "__version__"}

    def test_a_star_import_has_them(self) -> None:
        names: dict[str, object] = {}
        exec("from trtpipe import *", names)
        assert set(names) - {"__builtins__"} == set(trtpipe.__all__)

    @pytest.mark.parametrize("name", [name for name in trtpipe.__all__ if is_record(getattr(trtpipe, name))])
    def test_values_that_are_no_record_are_our_error(self, name: str) -> None:
        record = getattr(trtpipe, name)
        assert issubclass(record, PublicRecord)
        for wrong in ("{", "[]", '{"no_such_key": 1}'):
            with pytest.raises(trtpipe.InputError, match=name) as caught:
                record.model_validate_json(wrong)
            assert caught.value.remedy
        with pytest.raises(trtpipe.InputError, match=name):
            record.model_validate({"no_such_key": 1})

    def test_an_unknown_one_is_an_attribute_error(self) -> None:
        with pytest.raises(AttributeError, match="module 'trtpipe' has no attribute 'bulid'"):
            _ = trtpipe.bulid  # type: ignore[attr-defined]


class TestFunctions:
    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_are_annotated_and_take_no_bag_of_arguments(self, name: str) -> None:
        signature = inspect.signature(getattr(trtpipe, name))
        assert signature.return_annotation is not inspect.Signature.empty
        for parameter in signature.parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty, parameter.name
            assert parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)

    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_take_paths_of_every_kind(self, name: str) -> None:
        for parameter in inspect.signature(getattr(trtpipe, name)).parameters.values():
            words = parameter.annotation.replace("os.PathLike[str]", "PathLike")
            assert "Path" not in words.replace("PathLike", ""), f"{parameter.name}: {parameter.annotation}"

    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_documents_say_what_goes_in_and_what_goes_wrong(self, name: str) -> None:
        text = inspect.getdoc(getattr(trtpipe, name)) or ""
        described = text.partition("Args:")[2].partition("\nReturns:")[0].partition("\nRaises:")[0]
        assert described or len(inspect.signature(getattr(trtpipe, name)).parameters) < 2 or name in {"diff"}
        assert "Raises:" in text or name in {"diagnose"}
        assert f"{name}(" in text.partition("Example:")[2], "an example calls the function"

    @pytest.mark.parametrize("name", [name for name in FUNCTIONS if "__signature__" in vars(getattr(trtpipe, name))])
    def test_shared_arguments_are_listed_explained_and_checked(self, name: str) -> None:
        function = getattr(trtpipe, name)
        parameters = inspect.signature(function).parameters
        assert {"settings", "progress"} <= set(parameters)
        described = (inspect.getdoc(function) or "").partition("Args:")[2].partition("\n\n")[0]
        listed = re.findall(r"^    (\w+(?:, \w+)*): \S", described, re.MULTILINE)
        explained = [each for names in listed for each in names.split(", ")]
        assert len(explained) == len(set(explained))
        assert set(explained) >= {each for each in parameters if each in MEANINGS}
        with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument 'precison'"):
            function(precison="int8")

    @pytest.mark.parametrize("arguments", [CommonArguments, ModelArguments, BuildArguments, PackageArguments])
    def test_every_shared_argument_has_one_meaning(self, arguments: type) -> None:
        listed = {*BuildArguments.__annotations__, *PackageArguments.__annotations__}
        assert set(arguments.__annotations__) <= set(MEANINGS) == listed


@dataclass(frozen=True)
class Workplace:
    """A folder with everything that the examples name."""

    folder: Path


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """What the examples read: a small classifier, in every stage of a build with placeholder engines, and data."""
    folder = tmp_path_factory.mktemp("examples")
    wide = {"w0": normal(16, 32) / 4, "w1": normal(32, 32, seed=1) / 5, "w2": normal(32, 16, seed=2) / 5}
    net = model("(float[8,16] x) => (float[8,16] y) { a = MatMul(x, w0) b = Relu(a) c = MatMul(b, w1) d = Relu(c) "
                "y = MatMul(d, w2) }", **wide)  # fmt: skip
    save(net, folder / "model.onnx")
    np.savez(folder / "photos.npz", x=normal(64, 16, seed=5))
    held_out = normal(64, 16, seed=6)
    labels = np.concatenate([run(net, {"x": batch})["y"].argmax(axis=1) for batch in np.split(held_out, 8)])
    np.savez(
        folder / "held_out.npz",
        x=held_out,
        labels=labels,
    )
    (folder / "model.py").write_text(
        "import torch\n\n\ndef factory():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(16, 4)).eval(), (torch.zeros(1, 16),)\n"
    )
    (folder / "deploy.toml").write_text(
        'precision = "int8"\nbackend = "null"\ntargets = ["sm89"]\n'
        '[latency]\nwarmup = "1ms"\nduration = "10ms"\n[tolerance]\natol = 100.0\n[accuracy]\nmax_drop = 0.1\n'
    )
    (folder / "calib.toml").write_text(
        'method = "max"\n[data]\nsource = "photos.npz"\n[evaluation]\nsource = "held_out.npz"\nlabels = "labels"\n'
        'metric = "top1"\n'
    )
    (folder / "matrix.toml").write_text(
        'precisions = ["fp16", "int8"]\nbackends = ["null"]\n'
        '[[models]]\nsource = "model.onnx"\nprofile = "deploy.toml"\nrecipe = "calib.toml"\n'
    )
    settings = trtpipe.Settings(cache_dir=folder / "cache")
    for name, keep in (("out", ()), ("old", ()), ("new", ("matmul_0",))):
        result = trtpipe.build(
            folder / "model.onnx", folder / name, profile=folder / "deploy.toml", keep=keep or None,
            recipe=folder / "calib.toml", settings=settings, simplify=False,
        )  # fmt: skip
        assert result.accurate, result.parity
    for name in (
        "simplified.onnx",
        "lowered.onnx",
        "lowered.onnx.json",
        "ranges.json",
        "statistics.npz",
        ".trtpipe.json",
    ):
        shutil.copy(folder / "out" / name, folder / name)
    trtpipe.save_baseline(folder / "out", folder / "baseline.json")
    for number, rows in enumerate((normal(32, 16, seed=7), normal(32, 16, seed=8))):
        np.savez(folder / f"shard_{number}.npz", x=rows)
        trtpipe.calibrate(
            folder / "simplified.onnx", folder / "ab"[number], calib_data=folder / f"shard_{number}.npz",
            settings=settings,
        )  # fmt: skip
    (folder / "calibration.cache").write_text("TRT-8601-EntropyCalibration2\nx: 3d000000\n")
    for name in ("old.plan", "new.plan"):
        shutil.copy(folder / "out" / "sm89.plan", folder / name)
        shutil.copy(folder / "out" / "sm89.plan.json", folder / f"{name}.json")
    trtpipe.compile(folder / "lowered.onnx", folder / "model.plan", profile=folder / "deploy.toml", settings=settings)
    shutil.rmtree(folder / "cache")
    return Workplace(folder)


class TestExamples:
    """Every example of a public function runs as it stands, in a folder with the files that it names."""

    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_of(self, name: str, workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = inspect.getdoc(getattr(trtpipe, name)) or ""
        example = text.partition("Example:\n")[2]
        if "torch" in example or ".py:" in example:
            pytest.importorskip("torch")
        if name.startswith("plot_"):
            pytest.importorskip("matplotlib")
        shutil.copytree(workplace.folder, tmp_path / "here")
        monkeypatch.chdir(tmp_path / "here")
        monkeypatch.setenv("TRTPIPE_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setattr("trtpipe.api.request.choose_backend", lambda wanted: ("null", "the test asks for it"))
        names = {"trtpipe": trtpipe, "np": np, "onnx": onnx}
        found = doctest.DocTestParser().get_doctest(example, names, f"trtpipe.{name}", None, None)
        assert found.examples, "there is no example"
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
        written = StringIO()
        with redirect_stdout(StringIO()):
            failed, _ = runner.run(found, out=written.write, clear_globs=False)
        assert failed == 0, written.getvalue()


def test_version_is_that_of_the_package() -> None:
    assert importlib.metadata.version("trtpipe") == trtpipe.__version__


def test_package_is_typed() -> None:
    assert Path(trtpipe.__file__).with_name("py.typed").is_file()


def test_settings_of_the_command_line_are_not_needed_from_python(tmp_path: Path) -> None:
    """What the README promises: a cache folder of one's own is a plain argument."""
    settings = trtpipe.Settings(cache_dir=tmp_path)
    job = trtpipe.make_job(settings=settings, engines=False)
    assert job.settings.cache_dir == tmp_path
    assert job.targets == ()
    assert json.loads(job.profile.to_json())["precision"] == "fp32"
