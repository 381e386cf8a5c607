"""The layers and rules of docs/design.md, read from the source itself; and proof that each rule can be broken."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import pytest

import trtpipe
from trtpipe.config.formats import FORMATS, Precision

ROOT = Path(trtpipe.__file__).parent
LONG, TOO_LONG = 400, 500

#: From the bottom to the top, each package a layer of its own; what lies beside the packages comes first. A module may
#: import from its own package and from those below.
LAYERS = (
    "errors", "digest", "durable", "artifact", "progress", "preflight", "config", "summary", "isolation", "passes",
    "engine", "backends", "data", "calibration", "autocast", "accuracy", "reference", "quantization", "dynamic",
    "latency", "report", "regression", "delivery", "runtime", "exporter", "stages", "remote", "store",
    "pipeline", "api", "farm", "views", "cli", "__main__",
)  # fmt: skip
#: Imports that still go upwards: (module, what it imports).
CIRCLES: set[tuple[str, str]] = set()
LEVELS = {name: level for level, name in enumerate(LAYERS)}

#: What the command line reaches through the public names alone.
BEHIND_THE_API = {
    *("accuracy", "api", "autocast", "backends", "calibration", "data", "delivery", "dynamic", "exporter", "farm"),
    *("latency",),
    *("passes", "pipeline", "quantization", "reference", "remote", "runtime", "stages", "store"),
}

#: Parts of stages that all stages share.
SHARED_BY_STAGES = {"export", "stage"}

#: The modules of the back-ends that others may import; and who may import more.
BACKEND_INTERFACE = {
    *("base", "choice", "compatibility", "device_array", "dlpack", "engine_file", "gpu", "inference", "timing"),
    *("optimization_level", "trtexec"),
}
BACKEND_INTERNALS = {"api.inspection": {"null"}}

#: package -> where it may be imported: beginnings of paths
VENDOR_PACKAGES: dict[str, tuple[str, ...]] = {
    "tensorrt": ("backends/", "delivery/finish/build"),
    "tensorrt_rtx": ("backends/", "delivery/finish/build"),
    "triton_python_backend_utils": ("delivery/triton_preprocess",),
    "pynvml": ("backends/trt/nvml",),
    "onnxruntime": ("backends/",),
    "polygraphy": ("backends/", "accuracy/"),
    "onnxsim": ("isolation/", "exporter/simplification"),
    "torch_tensorrt": ("backends/torch_tensorrt",),
    "torch": ("backends/torch_tensorrt", "exporter/", "stages/reference"),
    "PIL": ("data/pixels",),
    "safetensors": ("isolation/file_tracking",),
    "h5py": ("data/hdf5",),
    "matplotlib": ("report/plots",),
    "jinja2": ("views/page",),
    "markupsafe": ("views/page",),
    "obstore": ("remote/",),
    "ray": ("farm/ray_cluster",),
    "click": ("cli/",),
    "rich": ("cli/", "views/live"),
    "tomllib": ("config/toml_text",),
    "tomli": ("config/toml_text",),
    "tomli_w": ("config/tomlfile",),
    "cryptography": ("delivery/",),
    "pkcs11": ("delivery/tokens",),
    "pyrage": ("delivery/encryption",),
    "pickle": (),
    "marshal": (),
    "shelve": (),
}
ANYWHERE = {"google", "ml_dtypes", "numpy", "onnx", "onnx_ir", "pydantic", "pydantic_core", "trtpipe"}
#: Of pydantic's own requirements; type checkers read it, and no code of ours runs it.
FOR_TYPE_CHECKERS = {"typing_extensions"}

#: Calls that run what a file or a text says.
RUNS_CODE = {
    *("eval", "exec", "builtins.eval", "os.system", "os.popen", "subprocess.getoutput", "yaml.load", "joblib.load"),
    *("torch.jit.load", "torch.hub.load", "pandas.read_pickle", "runpy.run_path", "code.interact"),
}

#: Methods that change a list, dict or set.
MUTATORS = {
    *("add", "append", "clear", "discard", "extend", "insert", "pop"),
    *("popitem", "remove", "reverse", "setdefault", "sort", "update"),
}


#: What spells formats and precisions: every word of the table but ``FLOAT``, which is a kind of attribute in ONNX too.
FORMAT_WORDS = {str(precision) for precision in Precision}.union(
    *((form.name, form.storage, form.onnx, *form.engine) for form in FORMATS)
) - {"FLOAT"}
#: Attributes of numpy, onnx and Precision that do so; float32 is what graphs come in and arrays are computed in, and
#: ``best`` is also a word of searches.
FORMAT_ATTRIBUTES = FORMAT_WORDS - {"float32", "best"}
#: Where they may be spelled, and why.
SPELLS_FORMATS = {
    "config/formats.py": "the table",
}


class Module:
    """One source file: its place below the package's folder, and its syntax tree."""

    def __init__(self, where: str, text: str) -> None:
        self.where = where
        self.text = text
        self.name = where.removesuffix(".py").replace("/", ".").removesuffix("__init__").removesuffix(".")
        self.package = self.name.partition(".")[0]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        return tuple(ast.walk(self.tree))

    def imports(self) -> list[str]:
        """Everything it imports anywhere, for type checkers too: ``package.module`` or ``package.module.name``."""
        return list(imported(self.nodes))

    def own_imports(self) -> list[str]:
        """Modules of ours that it imports, without the package's name."""
        return [found for name in self.imports() if (found := our_module(name))]


def imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Names in import statements."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def our_module(name: str) -> str:
    """The module behind ``trtpipe.module.name``, without the package's name; empty for the package, or another's."""
    package, _, rest = name.partition(".")
    while package == "trtpipe" and rest and rest not in NAMES:
        rest = rest.rpartition(".")[0]
    return rest if package == "trtpipe" else ""


MODULES = tuple(
    Module(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))
)
NAMES = frozenset(module.name for module in MODULES)

Rule: TypeAlias = Callable[[Module], Iterable[str]]


def imports_go_downwards(module: Module) -> Iterator[str]:
    if module.name:  # the package itself only tells where its names live
        for other in module.own_imports():
            above = LEVELS[other.partition(".")[0]] > LEVELS[module.package]
            if above and (module.name, other) not in CIRCLES:
                yield f"imports {other}, which lies above"


def imports_are_absolute(module: Module) -> Iterator[str]:
    for node in module.nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"line {node.lineno}: relative import"


def only_the_command_line_uses_the_public_names(module: Module) -> Iterator[str]:
    if module.package not in ("", "cli", "__main__"):
        for name in module.imports():
            if name.startswith("trtpipe.") and not our_module(name) and name != "trtpipe.__version__":
                yield f"imports {name}, instead of the module it lives in"


def command_line_uses_nothing_but_the_public_names(module: Module) -> Iterator[str]:
    if module.package == "cli":
        for name in imported(at_run_time(module.tree.body)):
            if our_module(name).partition(".")[0] in BEHIND_THE_API:
                yield f"imports {name}"


def stages_do_not_know_each_other(module: Module) -> Iterator[str]:
    if module.package == "stages":
        mine = module.name.partition(".")[2].partition("_")[0]
        for other in module.own_imports():
            theirs = other.removeprefix("stages.").partition("_")[0]
            if other.startswith("stages.") and theirs != mine and theirs not in SHARED_BY_STAGES:
                yield f"imports {other}"


def back_ends_are_imported_by_their_interface(module: Module) -> Iterator[str]:
    for other in module.own_imports():
        package, _, part = other.partition(".")
        inside = part and part not in BACKEND_INTERFACE | BACKEND_INTERNALS.get(module.name, set())
        if package == "backends" and inside and module.package != "backends":
            yield f"imports {other}"


def only_the_api_knows_the_pipeline_and_only_the_pipeline_the_store(module: Module) -> Iterator[str]:
    allowed = {
        "pipeline": {"", "api", "farm", "pipeline", "views"},
        "store": {"", "api", "cli", "farm", "pipeline", "store"},
    }
    for other in module.own_imports():
        package = other.partition(".")[0]
        if module.package not in allowed.get(package, {module.package}):
            yield f"imports {other}"


def only_the_api_and_the_pipeline_know_the_job(module: Module) -> Iterator[str]:
    """So that a stage can read nothing that its settings, which are its key, do not hold."""
    if module.package not in ("api", "farm", "pipeline") and module.name not in ("config.job", "cli.session"):
        for name in module.imports():
            if our_module(name) == "config.job":
                yield f"imports {name}"


def vendor_packages_are_imported_in_their_place(module: Module) -> Iterator[str]:
    run = set(imported(at_run_time(module.tree.body)))
    for name in module.imports():
        package = name.partition(".")[0]
        if package in FOR_TYPE_CHECKERS and name not in run:
            continue
        if package in VENDOR_PACKAGES:
            if not module.where.startswith(VENDOR_PACKAGES[package] or ("nowhere",)):
                yield f"imports {name}"
        elif package not in ANYWHERE | sys.stdlib_module_names:
            yield f"imports {package}, which is no dependency"


def only_the_command_line_prints_and_exits(module: Module) -> Iterator[str]:
    if module.package == "cli":
        return
    for node in module.nodes:
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "input", "exit", "quit", "sys.exit"}:
            yield f"line {node.lineno}: {ast.unparse(node.func)}"
        if isinstance(node, ast.Raise) and node.exc is not None and "SystemExit" in ast.unparse(node.exc):
            yield f"line {node.lineno}: raises SystemExit"


def only_settings_reads_the_environment(module: Module) -> Iterator[str]:
    for node in module.nodes:
        names = {node.attr} if isinstance(node, ast.Attribute) else set(imported([node]))
        found = {name.rpartition(".")[2] for name in names} & {"environ", "environb", "getenv"}
        if found and module.where != "config/settings.py":
            yield f"line {node.lineno}: reads the environment"  # type: ignore[attr-defined]


def nothing_runs_code_from_files(module: Module) -> Iterator[str]:
    """No unpickling, no evaluation of text, no shell, no unpacking of archives, whoever the file is from.

    ``torch.export.load`` is the exception: a ``.pt2`` file is a program, and the child that loads it is confined.
    """
    for node in module.nodes:
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in RUNS_CODE or name.endswith((".extractall", ".extract")):
            yield f"line {node.lineno}: calls {name}"
        if name in {"np.load", "numpy.load"} and options.get("allow_pickle") != "False":
            yield f"line {node.lineno}: {name} without allow_pickle=False"
        if name == "torch.load" and options.get("weights_only") != "True":
            yield f"line {node.lineno}: {name} without weights_only=True"
        if {options.get("shell"), options.get("allow_pickle"), options.get("trust_remote_code")} & {"True"}:
            yield f"line {node.lineno}: {name} with an unsafe option"


def no_error_is_swallowed(module: Module) -> Iterator[str]:
    for node in module.nodes:
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
            if node.type is None or (broad and all(isinstance(line, ast.Pass) for line in node.body)):
                yield f"line {node.lineno}: swallows every error"


def no_state_in_modules_and_classes(module: Module) -> Iterator[str]:
    """A list, dict or set there is a constant: it is named in capitals, and nothing changes it."""
    constants = set()
    bodies = [module.tree.body, *(node.body for node in module.nodes if isinstance(node, ast.ClassDef))]
    for name, value in (pair for body in bodies for pair in assigned(body)):
        if is_container(value):
            constants.add(name)
            if not name.isupper() and name not in {"__all__", "model_config"}:
                yield f"line {value.lineno}: {name} is a variable that everybody shares"
    for node in module.nodes:
        if isinstance(node, ast.Global):
            yield f"line {node.lineno}: global {', '.join(node.names)}"
        for name in changed(node):
            if name.rpartition(".")[2] in constants and name.isupper():
                yield f"line {node.lineno}: changes the constant {name}"  # type: ignore[attr-defined]


def no_bags_of_keyword_arguments(module: Module) -> Iterator[str]:
    """But for wrappers around another function's signature, for what Click's own constructors and that of a pydantic
    record take, and for those whose names and types a TypedDict lists.
    """
    if module.where in ("cli/app.py", "cli/groups.py", "cli/options.py", "artifact.py", "config/user_record.py"):
        return
    functions = [node for node in module.nodes if isinstance(node, ast.FunctionDef)]
    wrappers = {inner for outer in functions for inner in ast.walk(outer) if inner is not outer}
    for function in functions:
        bag = function.args.kwarg
        listed = bag is not None and bag.annotation is not None and ast.unparse(bag.annotation).startswith("Unpack[")
        if bag is not None and not listed and function not in wrappers:
            yield f"line {function.lineno}: {function.name} takes **{bag.arg}"


def formats_are_spelled_in_their_table(module: Module) -> Iterator[str]:
    """A comparison with "int8" would be one more place to edit for a new format; rows have fields to ask."""
    if module.where in SPELLS_FORMATS:
        return
    for node in module.nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in FORMAT_WORDS:
            yield f"line {node.lineno}: spells {node.value!r}; ask a row of trtpipe.config.formats"
        if isinstance(node, ast.Attribute):
            row = ast.unparse(node.value).endswith("Precision") and node.attr in FORMAT_WORDS
            if row or node.attr in FORMAT_ATTRIBUTES:
                yield f"line {node.lineno}: names {ast.unparse(node)}; ask a row of trtpipe.config.formats"


def at_run_time(statements: Iterable[ast.stmt], *, in_functions: bool = True) -> Iterator[ast.stmt]:
    """All statements, nested ones too, but those that only type checkers read."""
    for node in statements:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        if in_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for field in ("body", "orelse", "finalbody", "handlers"):
                yield from at_run_time(getattr(node, field, ()), in_functions=in_functions)


def assigned(body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    """(name, value) of the assignments in a body."""
    for node in body:
        if isinstance(node, ast.Assign):
            yield from ((ast.unparse(target), node.value) for target in node.targets)
        elif isinstance(node, ast.AnnAssign) and node.value is not None and not is_default(node.value):
            yield ast.unparse(node.target), node.value


def is_default(value: ast.expr) -> bool:
    """Whether it is ``{}``, a record's default: pydantic copies it for every instance."""
    return isinstance(value, ast.Dict) and not value.keys


def is_container(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        return ast.unparse(value.func) in {"list", "dict", "set", "defaultdict", "OrderedDict", "Counter", "deque"}
    return isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)


def changed(node: ast.AST) -> Iterator[str]:
    """What a statement or call changes in place."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
        yield ast.unparse(node.func.value)
    elif isinstance(node, ast.Assign | ast.Delete):
        yield from (ast.unparse(target.value) for target in node.targets if isinstance(target, ast.Subscript))
    elif isinstance(node, ast.AugAssign):
        yield ast.unparse(node.target.value if isinstance(node.target, ast.Subscript) else node.target)


#: rule -> sources that break it: (where, text)
RULES: dict[Rule, tuple[tuple[str, str], ...]] = {
    imports_go_downwards: (
        ("store/x.py", "from trtpipe.pipeline.pipeline import Step"),
        ("passes/x.py", "def f():\n    import trtpipe.stages.lower"),
        ("errors.py", "if TYPE_CHECKING:\n    from trtpipe.artifact import Record"),
    ),
    imports_are_absolute: (("cli/x.py", "from . import app"),),
    only_the_command_line_uses_the_public_names: (("stages/x.py", "from trtpipe import InputError"),),
    command_line_uses_nothing_but_the_public_names: (
        ("cli/x.py", "def f():\n    from trtpipe.stages.lower import Lower"),
        ("cli/x.py", "import trtpipe.store"),
    ),
    stages_do_not_know_each_other: (("stages/lower.py", "from trtpipe.stages.calibrate import Calibrate"),),
    back_ends_are_imported_by_their_interface: (("stages/x.py", "from trtpipe.backends.tensorrt import TensorRT"),),
    only_the_api_knows_the_pipeline_and_only_the_pipeline_the_store: (
        ("stages/x.py", "from trtpipe.store import ArtifactStore"),
        ("doctor.py", "from trtpipe.pipeline.pipeline import STAGES"),
    ),
    only_the_api_and_the_pipeline_know_the_job: (
        ("stages/x.py", "if TYPE_CHECKING:\n    from trtpipe.config.job import Job"),
        ("quantization/x.py", "def f():\n    import trtpipe.config.job"),
    ),
    vendor_packages_are_imported_in_their_place: (
        ("accuracy/x.py", "def f():\n    import torch"),
        ("stages/verify.py", "import onnxruntime as ort"),
        ("api/x.py", "import click"),
        ("store/x.py", "import pickle"),
        ("config/profile.py", "import tomllib"),
        ("api/x.py", "import requests"),
        ("api/x.py", "def f():\n    from typing_extensions import Unpack"),
    ),
    only_the_command_line_prints_and_exits: (
        ("api/x.py", "print(1)"),
        ("api/x.py", "sys.exit(1)"),
        ("api/x.py", "raise SystemExit(1)"),
    ),
    only_settings_reads_the_environment: (
        ("api/x.py", "x = os.environ['A']"),
        ("api/x.py", "x = os.getenv('A')"),
        ("api/x.py", "from os import environ"),
    ),
    nothing_runs_code_from_files: (
        ("api/x.py", "x = eval(text)"),
        ("calibration/x.py", "np.load(path)"),
        ("calibration/x.py", "np.load(path, allow_pickle=True)"),
        ("exporter/loading.py", "torch.load(path)"),
        ("exporter/loading.py", "torch.load(path, weights_only=False)"),
        ("data/tar.py", "archive.extractall(folder)"),
        ("isolation/worker.py", "subprocess.run(line, shell=True)"),
        ("api/x.py", "os.system('ls')"),
    ),
    no_error_is_swallowed: (
        ("api/x.py", "try:\n    f()\nexcept:\n    g()"),
        ("api/x.py", "try:\n    f()\nexcept Exception:\n    pass"),
    ),
    no_state_in_modules_and_classes: (
        ("api/x.py", "cache = {}"),
        ("api/x.py", "seen: set[str] = set()"),
        ("api/x.py", "class C:\n    items = []"),
        ("api/x.py", "NAMES = [1]\ndef f():\n    NAMES.append(2)"),
        ("api/x.py", "NAMES = {1: 2}\ndef f():\n    NAMES[1] = 3"),
        ("api/x.py", "NAMES = {1}\ndef f():\n    global NAMES"),
    ),
    formats_are_spelled_in_their_table: (
        ("stages/x.py", 'if precision == "int8": ...'),
        ("stages/x.py", 'half: Literal["", "bfloat16"]'),
        ("stages/x.py", "if precision is Precision.best: ..."),
        ("quantization/x.py", "zero = np.zeros((), ml_dtypes.float8_e4m3fn)"),
        ("backends/x.py", "if onnx.TensorProto.FLOAT16 in types: ..."),
        ("engine/x.py", 'SERVED = {"Half"}'),
    ),
    no_bags_of_keyword_arguments: (
        ("stages/x.py", "def run(job, **settings): ..."),
        ("api/x.py", "def run(job, **settings: Any): ..."),
    ),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule: Rule) -> None:
    assert [f"{module.where} {complaint}" for module in MODULES for complaint in rule(module)] == []


@pytest.mark.parametrize(
    ("rule", "where", "text"), [(rule, *broken) for rule, examples in RULES.items() for broken in examples]
)
def test_rule_notices_when_it_is_broken(rule: Rule, where: str, text: str) -> None:
    assert list(rule(Module(where, text)))


def test_modules_do_not_import_each_other_in_circles() -> None:
    needs = {module.name: {our_module(name) for name in imported(at_run_time(module.tree.body))} for module in MODULES}
    done = {""}
    while ready := {name for name in needs if name not in done and needs[name] - {name} <= done}:
        done |= ready
    assert set(needs) <= done


def test_files_that_may_spell_formats_do_so() -> None:
    unlisted = {module.where: Module(f"anywhere/{module.where}", module.text) for module in MODULES}
    assert [where for where in SPELLS_FORMATS if not list(formats_are_spelled_in_their_table(unlisted[where]))] == []


def test_every_module_has_a_layer() -> None:
    assert {module.package for module in MODULES} - {""} == set(LEVELS)


def test_files_are_short_enough_to_read(capsys: pytest.CaptureFixture[str]) -> None:
    lengths = {module.where: len(module.text.splitlines()) for module in MODULES}
    long = {where: length for where, length in lengths.items() if length > LONG}
    with capsys.disabled():
        for where, length in sorted(long.items()):
            sys.stdout.write(f"\n{where}: {length} lines; split it when you work on it next")
    assert {where: length for where, length in long.items() if length > TOO_LONG} == {}


def test_every_module_says_in_a_sentence_what_it_is_for() -> None:
    assert [module.where for module in MODULES if not ast.get_docstring(module.tree)] == []
