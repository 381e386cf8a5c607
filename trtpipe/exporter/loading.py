"""Loading PyTorch programs: a factory in a file or a package, or a ``.pt2`` file. Both run the user's code."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtpipe.config.os_errors import cannot_load
from trtpipe.config.requirements import install
from trtpipe.data.usercode import missing_package, one_process, running
from trtpipe.errors import HostError, InputError, text_of
from trtpipe.exporter.archive import check_archive

try:
    import torch as torch  # noqa: PLC0414  other modules import it from here, for the same error
except ModuleNotFoundError as error:
    raise HostError(
        "exporting a PyTorch model needs the package 'torch', which is not installed",
        f"{install('torch')}; or give an .onnx file",
    ) from error
except (ImportError, OSError) as error:
    raise cannot_load("torch", error, f"{install('torch')}; or give an .onnx file") from error


#: Where ``torch.compile`` keeps the module that it wraps.
COMPILED = "_orig_mod"


def unwrapped(module: object) -> object:
    """The module inside of what ``torch.compile`` or a data-parallel wrapper made; any other object as it is."""
    if not isinstance(module, torch.nn.Module):
        return module
    parallel = isinstance(module, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel))
    inner = dict(module.named_children()).get("module" if parallel else COMPILED)
    return module if inner is None else unwrapped(inner)


@dataclass(frozen=True)
class Example:
    """Example inputs of a module, as its ``forward`` takes them."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether there are none."""
        return not (self.args or self.kwargs)

    @classmethod
    def of(cls, module: torch.nn.Module, given: object) -> Example:
        """What people mean by the inputs that they return beside a module.

        A tuple or list holds positional arguments; its last one may be a dict of keyword arguments. A dict alone holds
        keyword arguments too. A dict whose keys are no arguments of ``forward`` is an argument itself, and so is
        anything else.
        """
        names = [name for name, _ in parameters_of(module.forward)]
        if isinstance(given, Mapping) and _are_keywords(given, module, names):
            return cls((), dict(given))
        if not isinstance(given, (tuple, list)) or isinstance(given, torch.Size):
            return cls((given,))
        if given and isinstance(given[-1], Mapping) and _are_keywords(given[-1], module, names[len(given) - 1 :]):
            return cls(tuple(given[:-1]), dict(given[-1]))
        return cls(tuple(given))


def _are_keywords(given: Mapping[Any, Any], module: torch.nn.Module, names: Sequence[str]) -> bool:
    anything = any(parameter.kind == parameter.VAR_KEYWORD for _, parameter in parameters_of(module.forward))
    return bool(given) and all(isinstance(key, str) and (key in names or anything) for key in given)


def load_program(module: str, function: str) -> tuple[object, Example | None]:
    """The module or exported program of a factory, or of a ``.pt2`` file if ``function`` is empty; and its examples.

    Raises:
        InputError: there is none, or the user's code raised.
    """
    return _call_factory(module, function) if function else _load_pt2(module)


def _call_factory(module: str, function: str) -> tuple[torch.nn.Module, Example | None]:
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
    made, *given = made if isinstance(made, tuple) and made else (made,)
    made = unwrapped(made)
    with_keywords = len(given) == 2 and isinstance(given[1], Mapping)
    if len(given) > 1 and not with_keywords:
        raise InputError(
            f"{label} returned {len(given) + 1} values",
            "return a module, (module, example_inputs), or (module, args, kwargs)",
        )
    if not isinstance(made, torch.nn.Module):
        raise InputError(f"{label} returned a {type(made).__name__}, not an nn.Module", "return an nn.Module")
    if not given or (given[0] is None and not with_keywords):
        return made, None
    if with_keywords:
        args = given[0] if isinstance(given[0], (tuple, list)) else () if given[0] is None else (given[0],)
        return made, Example(tuple(args), dict(given[1]))
    return made, Example.of(made, given[0])


def _import(module: str) -> Any:
    sys.dont_write_bytecode = True
    if not module.endswith(".py"):
        sys.path.insert(0, str(Path.cwd()))
        what, remedy = f"module {module!r} cannot be imported:", "check its name and PYTHONPATH"
        with running(what, _folder(module), remedy, module):
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
            remedy = missing_package(error) or "fix the file"
            raise InputError(f"{module} raised {type(error).__name__} when loaded: {text_of(error)}", remedy) from error
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
    check_archive(Path(path))
    with suppress(ImportError):  # the operators of programs that PyTorch's own tools (pt2e) quantized
        importlib.import_module("torch.ao.quantization.fx._decomposed")
    logger, cause = logging.getLogger(torch.export.__name__), _Cause()
    logger.addHandler(cause)
    try:
        return torch.export.load(path), None
    except Exception as error:
        reason = text_of(cause.error or error)
        raise InputError(f"{path}: not a program saved by torch.export.save: {reason}", "save it again") from error
    finally:
        logger.removeHandler(cause)


class _Cause(logging.Handler):
    """The error that torch logs before it raises one that says nothing but to look at the log."""

    error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None:
            self.error = record.exc_info[1]
