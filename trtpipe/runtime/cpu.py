"""The lowered graph of a package through the reference executor: for writing and testing an application without a GPU.

Everything that lowers graphs is imported here, on use: onnx, onnx-ir and onnxruntime.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from trtpipe.errors import HostError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from trtpipe.backends.base import OpenRunner
    from trtpipe.backends.dlpack import DeviceTensor
    from trtpipe.delivery.reader import Package

#: Modules of the extra ``runtime-cpu``.
_NEEDED = ("pydantic", "onnx", "onnx_ir", "onnxruntime", "ml_dtypes")


class GraphSession:
    """A graph that is ready to run on the CPU."""

    def __init__(self, runner: OpenRunner) -> None:
        self._runner = runner

    @property
    def stream(self) -> int:
        """There is none."""
        return 0

    def run(self, feed: Mapping[str, np.ndarray | DeviceTensor], *, on_device: bool = False) -> dict[str, np.ndarray]:
        """Run once.

        Raises:
            InputError: the graph does not run on these values, or outputs are wanted on a GPU.
        """
        if on_device:
            raise InputError("on_device: the model runs on the CPU", "leave on_device out")
        return self._runner.infer(dict(feed))  # type: ignore[arg-type]  # a feeder for the CPU gives arrays alone


@contextmanager
def open_graph(package: Package) -> Iterator[tuple[GraphSession, str]]:
    """The lowered graph, and in words what runs it.

    Raises:
        InputError: the package has none, or it was changed.
        HostError: what runs it is not installed.
    """
    graph = package.model.graph
    if graph is None:
        raise InputError(f"{package.path}: the package has no lowered graph", "make one of a build that has it")
    _require_packages()
    from trtpipe.backends.base import load_backend
    from trtpipe.config.formats import HALF_FORMATS
    from trtpipe.config.settings import Settings
    from trtpipe.preflight import digest_model
    from trtpipe.reference.runnable import runnable_graph

    half = next((form for form in HALF_FORMATS if form.name == graph.half), None)
    if half is None and graph.half:
        raise InputError(
            f"{package.path}: the graph is in {graph.half!r:.40}, which is no 16-bit format", "make it again"
        )
    encrypted = any(package.model.is_encrypted(name) for name in (graph.file, *graph.data))
    with ExitStack() as stack:
        # gone before the first run: a process that is killed leaves nothing decrypted behind
        with TemporaryDirectory(prefix="trtpipe-", dir=_in_memory(package) if encrypted else None) as temporary:
            folder = Path(temporary)
            package.copy((graph.file, *graph.data), folder)
            try:
                digest_model(folder / graph.file)  # before anything native reads it
            except InputError as error:
                said = error.message.replace(str(folder), str(package.path))
                raise InputError(said, "make the package again with trtpipe package make") from error
            path, note = runnable_graph(folder / graph.file, half, folder)
            settings = replace(Settings.from_environment(), isolate=False)
            runner = stack.enter_context(load_backend("onnxruntime").open(path, settings))
        if [spec.name for spec in runner.outputs] != [tensor.name for tensor in package.model.outputs]:
            raise InputError(f"{package.path}: the graph has plug-ins, which only TensorRT runs", "load it on a GPU")
        yield GraphSession(runner), ", ".join(word for word in (runner.device, note) if word)


def _in_memory(package: Package) -> Path:
    """A folder that no disk holds, for the decrypted graph: onnxruntime reads external data from files."""
    folder = Path("/dev/shm")  # noqa: S108 - a private folder is made in it
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        mounts = []
    if [str(folder), "tmpfs"] not in mounts:
        raise HostError(
            f"{package.path}: encrypted, and this system has no memory file system at {folder} to decrypt the graph in",
            "mount one, or run the engine on a GPU",
        )
    return folder


def _require_packages() -> None:
    from trtpipe.config.requirements import require

    for module in _NEEDED:
        require(module, "running a package on the CPU", "runtime-cpu")
