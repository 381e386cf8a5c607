"""Loading and running a function from the user's file or module; whatever it raises becomes an InputError.

This is what runs in the child process, for functions given by name, and here for what the caller holds.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trtpipe.config.units import suggestion
from trtpipe.errors import InputError, TrtpipeError, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from types import ModuleType

#: Imported name -> the package that has it, where that is called otherwise.
_PACKAGES = MappingProxyType(
    {
        "PIL": "pillow",
        "cv2": "opencv-python-headless",
        "skimage": "scikit-image",
        "sklearn": "scikit-learn",
        "yaml": "pyyaml",
        "mmcv": "mmcv-lite",
        "segmentation_models_pytorch": "segmentation-models-pytorch",
        "pytorch_lightning": "pytorch-lightning",
    }
)
_FEEDS = "correct the function; it is called with no arguments and must yield feeds"


@dataclass(frozen=True)
class UserFunction:
    """A function of the user that takes no arguments and gives an iterable.

    Attributes:
        source: as the user wrote it, for error messages.
        label: the same without folders, for reports.
        folder: importable while the user's code runs.
    """

    source: str
    label: str
    folder: Path
    call: Callable[..., Any]

    def items(self) -> Generator[Any, None, None]:
        """Call the function and yield its items.

        Raises:
            InputError: the user's code raised; the message has the sample's index, the exception and its line.
        """
        iterator: Iterator[Any] | None = None
        index, end = 0, object()
        while True:
            with running(f"{self.source}: sample {index} failed:", self.folder, _FEEDS):
                iterator = iter(self.call()) if iterator is None else iterator
                item = next(iterator, end)
            if item is end:
                return
            yield item
            index += 1


def load_function(source: str) -> UserFunction:
    """The function that ``path/file.py:function`` or ``package.module:function`` names.

    A file is loaded under a private module name; its own folder, or for a module the working folder, is
    importable meanwhile.

    Raises:
        InputError: no such file, module or function, or loading it fails.
    """
    path, _, name = source.rpartition(":")
    folder = Path(path).resolve().parent if path.endswith(".py") else Path.cwd()
    with running(f"{path}: loading it failed:", folder, "correct the file", path):
        module = _load_file(Path(path)) if path.endswith(".py") else importlib.import_module(path)
    function = getattr(module, name, None)
    if not callable(function):
        known = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise InputError(f"{path}: there is no function {name!r}", suggestion(name, known, "functions here"))
    return UserFunction(source, f"{Path(path).name}:{name}", folder, function)


@contextmanager
def running(what: str, folder: Path, remedy: str, module: str = "") -> Iterator[None]:
    """While entered, the user's code runs in ``one_process``, and modules in ``folder`` can be imported.

    Args:
        what: begins the message of an error.
        remedy: for anything but a missing package.
        module: what is imported, if it is that: where it is missing itself, the remedy holds too.

    Raises:
        InputError: the code raised anything but an interruption; the message has the exception and its line.
    """
    try:
        with one_process(), importable(folder):
            yield
    except (KeyboardInterrupt, TrtpipeError):
        raise
    except BaseException as error:
        message = f"{what} {type(error).__name__}: {text_of(error)}{_line_of(error, folder)}"
        raise InputError(message, missing_package(error, module) or remedy) from error


def missing_package(error: BaseException, own: str = "") -> str:
    """What to do about a missing package; empty for any other error, and where the module ``own`` is missing itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ModuleNotFoundError):
        cause = cause.__cause__ or cause.__context__
    missing = (cause.name or "") if isinstance(cause, ModuleNotFoundError) else ""
    if not missing or f"{own}.".startswith(f"{missing}."):
        return ""
    name = missing.partition(".")[0]
    return f"pip install {_PACKAGES.get(name, name)}; or, if {name} is your own, add its folder to PYTHONPATH"


@contextmanager
def one_process() -> Iterator[None]:
    """A fork that is made while this is entered ends when it is left: it must not go on with its parent's work."""
    process = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != process:
            os._exit(1)


def _line_of(error: BaseException, folder: Path) -> str:
    """The last line in the user's files."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == folder]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{path}: no such file", "give path/file.py:function")
    private = f"_trtpipe_data_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(private, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file", "give path/file.py:function")
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module  # dataclasses and typing look their module up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[private]
        raise
    return module


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """While entered, modules in ``folder`` can be imported."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):  # the user's code may have removed it
            sys.path.remove(str(folder))
