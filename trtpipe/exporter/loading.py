"""Loading PyTorch programs: a factory in a file or a package, or a ``.pt2`` file. Both run the user's code."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from trtpipe.data.usercode import one_process, running
from trtpipe.errors import HostError, InputError

try:
    import torch as torch  # noqa: PLC0414  other modules import it from here, for the same error
except ImportError as error:
    raise HostError(
        "exporting a PyTorch model needs the package 'torch', which is not installed",
        "pip install 'trtpipe[torch]', or give an .onnx file",
    ) from error


def load_program(module: str, function: str) -> tuple[object, tuple[Any, ...] | None]:
    """The module or exported program of a factory, or of a ``.pt2`` file if ``function`` is empty; and its examples.

    Raises:
        InputError: there is none, or the user's code raised.
    """
    return _call_factory(module, function) if function else _load_pt2(module)


def _call_factory(module: str, function: str) -> tuple[object, tuple[Any, ...] | None]:
    label = f"{module}:{function}"
    loaded = _import(module)
    factory = getattr(loaded, function, None)
    if factory is None:
        public = sorted(name for name, value in vars(loaded).items() if callable(value) and not name.startswith("_"))
        raise InputError(f"{module} has no function {function!r}", f"callables there: {', '.join(public) or 'none'}")
    if not callable(factory):
        raise InputError(f"{label} is a {type(factory).__name__}, not a function", "name a function without arguments")
    needed = [
        name
        for name, parameter in parameters_of(factory)
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise InputError(
            f"{label} needs arguments ({', '.join(needed)})",
            "name a function without arguments; wrap this one if needed",
        )
    with running(f"{label} raised", _folder(module), "run the factory by itself and fix it"):
        made = factory()
    examples = None
    if isinstance(made, tuple):
        if len(made) != 2:
            raise InputError(f"{label} returned {len(made)} values", "return a module, or (module, example_inputs)")
        made, examples = made
        examples = examples if isinstance(examples, tuple | list) else (examples,)
    if not isinstance(made, torch.nn.Module):
        raise InputError(f"{label} returned a {type(made).__name__}, not an nn.Module", "return an nn.Module")
    return made, None if examples is None else tuple(examples)


def _import(module: str) -> Any:
    sys.dont_write_bytecode = True
    if not module.endswith(".py"):
        sys.path.insert(0, str(Path.cwd()))
        with running(f"module {module!r} cannot be imported:", _folder(module), "check its name and PYTHONPATH"):
            return importlib.import_module(module)
    path = Path(module).resolve()
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{module} cannot be loaded as Python", "give a .py file")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = loaded
    with one_process():
        try:
            spec.loader.exec_module(loaded)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise InputError(f"{module} raised {type(error).__name__} when loaded: {error}", "fix the file") from error
    return loaded


def _folder(module: str) -> Path:
    """Where the user's code is, for a file; else the working folder."""
    return Path(module).resolve().parent if module.endswith(".py") else Path.cwd()


def parameters_of(function: Any) -> list[tuple[str, inspect.Parameter]]:
    """The parameters of a callable, by name; none for a callable without a signature."""
    try:
        return list(inspect.signature(function).parameters.items())
    except (TypeError, ValueError):  # built-in callables: errors of the call itself are reported
        return []


def _load_pt2(path: str) -> tuple[object, None]:
    try:
        return torch.export.load(path), None
    except Exception as error:
        raise InputError(f"{path}: not a program saved by torch.export.save: {error}", "save it again") from error
