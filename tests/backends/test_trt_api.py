"""Every attribute, enum member and call of TensorRT's in our code exists in each of the versions it claims to support.

No type checker sees TensorRT's objects, which the code takes as arguments of type ``Any``. Here names stand for
classes, by the table below, and what a call returns is followed by the snapshots.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from pathlib import Path

import pytest
from backends.trt_api_snapshot import APIS, Api, parameters, returned

import trtpipe.backends
from trtpipe.backends.trt import options

FOLDER = Path(trtpipe.backends.__file__).parent
RTX = tuple(name for name in APIS if name.startswith("tensorrt_rtx"))
CLASSIC = tuple(name for name in APIS if name not in RTX)

#: file -> the versions it is for
FILES = {
    "trt/builder.py": (*CLASSIC, *RTX),
    "trt/inspector.py": (*CLASSIC, *RTX),
    "trt/errors.py": (*CLASSIC, *RTX),
    "trt/options.py": (*CLASSIC, *RTX),
    "trt/parser.py": (*CLASSIC, *RTX),
    "trt/runner.py": (*CLASSIC, *RTX),
    "trt/session.py": (*CLASSIC, *RTX),
    "trt/timer.py": (*CLASSIC, *RTX),
    "trt/timing_cache.py": (*CLASSIC, *RTX),
}
#: What a parameter or attribute of type Any is, by its name: ``module``, a class, or empty for what is not TensorRT's.
NAMES = {
    "trt": "module",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "tensor": "ITensor",
    "boundary": "IAttentionBoundaryLayer",
    "dtype": "DataType",
    "error": "ParserError",
    "_trt": "module",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "context": "IExecutionContext",
    "_context": "IExecutionContext",
    "severity": "",
    "kind": "",
    "entry": "",
    "entries": "",
    "runner": "",
    "_runner": "",
}
#: What not every version has, and what the code asks before it uses it.
GUARDED = {
    "Builder.build_serialized_network_to_stream": "hasattr",
    "IStreamWriter": "only by the way of build_serialized_network_to_stream",
    "IAttentionInputLayer": "only for a layer of LayerType.ATTENTION_INPUT, which getattr looks for",
    "ComputeCapability": "TensorRT-RTX only",
    "IBuilderConfig.num_compute_capabilities": "the same",
    "IBuilderConfig.set_compute_capability": "the same",
    "ICudaEngine.create_runtime_config": "only where getattr finds DynamicShapesKernelSpecializationStrategy",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy": "the same",
}


class Uses(ast.NodeVisitor):
    """What one file uses of one version of TensorRT: names that are missing, and how many were looked at."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.scopes: list[dict[str, str]] = [{}]
        self.missing: set[str] = set()
        self.seen: set[str] = set()
        self.wrong: list[str] = []
        self.unknown: set[str] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        scope = {}
        for argument in (*node.args.args, *node.args.kwonlyargs):
            if argument.annotation is not None and ast.unparse(argument.annotation) == "Any":
                if argument.arg not in NAMES:
                    self.unknown.add(f"{node.name}({argument.arg})")
                scope[argument.arg] = NAMES.get(argument.arg, "")
        self.scopes.append(scope)
        self.generic_visit(node)
        self.scopes.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        if len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            self.scopes[-1][node.targets[0].id] = self.type_of(node.value)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        kind = self.type_of(node.value)
        if node.attr.startswith("__"):
            return
        if kind == "module":
            self.note(node.attr, node.attr in self.api.classes or node.attr in self.api.functions)
        elif kind.startswith("class "):
            self.note(f"{kind[6:]}.{node.attr}", self.api.has(kind[6:], node.attr))
        elif kind in self.api.classes:
            self.note(f"{kind}.{node.attr}", self.api.has(kind, node.attr))

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Attribute):
            return
        kind, name = self.type_of(node.func.value), node.func.attr
        signatures = self.api.functions.get(name) if kind == "module" else self.api.members(kind).get(name)
        starred = any(isinstance(argument, ast.Starred) for argument in node.args)
        if signatures and not starred and not any(fits(node, text) for text in signatures):
            self.wrong.append(f"line {node.lineno}: {ast.unparse(node)} does not fit {signatures}")

    def note(self, name: str, exists: bool) -> None:
        self.seen.add(name)
        if not exists:
            self.missing.add(name)

    def type_of(self, node: ast.expr) -> str:
        """``module``, ``class X``, a class for an instance of it, or empty."""
        if isinstance(node, ast.Name):
            return next((scope[node.id] for scope in reversed(self.scopes) if node.id in scope), "")
        if isinstance(node, ast.Attribute):
            kind = self.type_of(node.value)
            if kind == "module":
                return f"class {node.attr}" if node.attr in self.api.classes else ""
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return NAMES.get(node.attr, "")
            if kind.startswith("class "):
                return kind[6:]
            return {"IAttentionBoundaryLayer.attention": "IAttention"}.get(f"{kind}.{node.attr}", "")
        if isinstance(node, ast.IfExp):
            return self.type_of(node.body)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            kind, name = self.type_of(node.func.value), node.func.attr
            if kind == "module":
                return name if name in self.api.classes else returned(self.api.functions.get(name, []))
            return self.api.returns(kind, name) if kind in self.api.classes else ""
        return ""


def fits(call: ast.Call, signature: str) -> bool:
    names = parameters(signature)
    given = {keyword.arg for keyword in call.keywords}
    return len(call.args) + len(given) <= len(names) and given <= set(names)


def uses(file: str, api: Api) -> Uses:
    found = Uses(api)
    found.visit(ast.parse((FOLDER / file).read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("file", FILES)
def test_what_the_code_uses_is_there(file):
    for name in FILES[file]:
        found = uses(file, APIS[name])
        assert not found.missing - set(GUARDED), f"{file} uses what {name} does not have"
        assert not found.wrong, f"{file} calls {name} otherwise than it is declared"
        assert not found.unknown, "say in NAMES what these arguments are"


def test_the_check_sees_what_there_is_to_see():
    seen = set().union(*(uses(file, APIS[FILES[file][-1]]).seen for file in FILES))
    assert {"OnnxParser.parse_from_file", "IBuilderConfig.set_flag", "ProfilingVerbosity.DETAILED", "ITensor.shape",
            "ICudaEngine.get_tensor_shape", "IOptimizationProfile.set_shape", "ParserError.desc",
            "ITimingCache.serialize", "EngineInspector.get_engine_information"} <= seen  # fmt: skip
    assert len(seen) > 60


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        ("def f(trt: Any):\n    trt.IInt8Calibrator", "IInt8Calibrator"),
        ("def f(config: Any):\n    config.int8_calibrator = 1", "IBuilderConfig.int8_calibrator"),
        ("def f(trt: Any):\n    x = trt.BuilderFlag.FP16", "BuilderFlag.FP16"),
        ("def f(trt: Any):\n    b = trt.Builder(1)\n    n = b.create_network()\n    n.add_magic()",
         "INetworkDefinition.add_magic"),
    ],
)  # fmt: skip
def test_the_check_can_fail(code, missing):
    found = Uses(APIS["tensorrt-11.4.0.106"])
    found.visit(ast.parse(code))
    assert found.missing == {missing}


def test_a_call_that_does_not_fit_is_found():
    found = Uses(APIS["tensorrt-11.4.0.106"])
    found.visit(ast.parse("def f(config: Any):\n    config.set_timing_cache(1, 2, 3)"))
    assert len(found.wrong) == 1


def test_every_guard_is_needed():
    absent = set()
    for file, names in FILES.items():
        for name in names:
            absent |= uses(file, APIS[name]).missing
    assert absent <= set(GUARDED)
    for name in GUARDED:
        kind, _, member = name.partition(".")
        there = [api.has(kind, member) if member else kind in api.classes for api in APIS.values()]
        assert any(there), name
        assert not all(there), f"every version has {name}"


def test_files_that_are_handed_trt_are_all_checked():
    handed = {
        path.relative_to(FOLDER).as_posix()
        for path in FOLDER.rglob("*.py")
        if "trt: Any" in path.read_text(encoding="utf-8")
    }
    assert handed <= set(FILES)


def test_flags_that_options_name():
    """They are looked up by name, and the versions without one say so."""
    for flag in (*options._FLAGS.values(), "REFIT_IDENTICAL"):
        assert all(api.has("BuilderFlag", flag) for api in APIS.values()), flag
    lacking = {
        (level, api.name)
        for level in options._LEVELS.values()
        for api in APIS.values()
        if not api.has("HardwareCompatibilityLevel", level)
    }
    assert lacking == {("SAME_COMPUTE_CAPABILITY", "tensorrt-10.3.0")}


@pytest.mark.parametrize("module", ["tensorrt_rtx", "tensorrt"])
def test_the_snapshot_is_what_is_installed(module):
    """Where the wheel of a snapshot's very version is installed, it has every name."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    installed = importlib.import_module(module)
    api = APIS.get(f"{module}-{installed.__version__}")
    if api is None:
        pytest.skip(f"there is no snapshot of {module} {installed.__version__}")
    for kind in api.classes:
        found = getattr(installed, kind)
        assert inspect.isclass(found)
        assert not [name for name in api.members(kind) if not hasattr(found, name)]
    assert all(callable(getattr(installed, name)) for name in api.functions)
