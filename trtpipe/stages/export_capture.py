"""The work of ``capture``: an exported program, in mixed precision where asked for, as a ``.pt2`` file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.backends.base import ProgramFacts
from trtpipe.backends.worker import Report
from trtpipe.errors import InputError, StageError
from trtpipe.stages.export import ExportReply, TorchRequest
from trtpipe.stages.export_contexts import quiet
from trtpipe.stages.export_loading import load_program
from trtpipe.stages.export_program import PROGRAM
from trtpipe.stages.export_torch import Exported, to_program
from trtpipe.stages.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Sequence


def capture_task(request: TorchRequest, report: Report) -> ExportReply:
    """Load a factory or a ``.pt2`` file and write its program. Runs in a child process.

    Raises:
        InputError: the factory cannot be found, raises, or returns no module; shapes do not fit.
        StageError: the program cannot be exported.
    """
    report("load", 0, None)
    with Reading(Path(request.workdir)) as reading:
        program, examples = load_program(request.module, request.function)
        report("export", 0, None)
        reply = capture_module(program, examples, request)
    return reply.model_copy(update={"files_read": reading.files()})


def capture_module(module: object, examples: tuple[Any, ...] | None, request: TorchRequest) -> ExportReply:
    """Write a module or an exported program as ``program.pt2`` into the request's work folder.

    Raises:
        InputError: not a module; example inputs are missing, shapes or names do not fit.
        StageError: torch.export gives up.
    """
    exported = to_program(module, examples, request)
    program = exported.program if not request.half else _mixed(exported.program, getattr(torch, request.half))
    contract = _contract(program, exported, request)
    for part in program.graph_module.modules():  # what would tell of this machine, or differ from run to run
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            for trace in ("stack_trace", "from_node", "custom"):
                node.meta.pop(trace, None)
    program.example_inputs = None
    path = Path(request.workdir) / PROGRAM
    with quiet():
        torch.export.save(program, path)
    facts = ProgramFacts(
        exporter=f"torch {torch.__version__} (torch.export)", precision=request.half or "float32", contract=contract
    )
    facts.write(path.with_name(f"{PROGRAM}.json"))
    return ExportReply(names=(PROGRAM, f"{PROGRAM}.json"))


class _Mixed(torch.nn.Module):
    """A program with 16-bit weights: float32 in and out.

    Where the program itself makes float32 tensors, autocast brings what enters heavy operators back to 16 bits.
    """

    def __init__(self, inner: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = copy.deepcopy(inner).to(dtype)  # it shares its weights with the caller's module
        self.dtype = dtype

    def forward(self, *arguments: torch.Tensor) -> object:
        """The inner program's answer, its 16-bit outputs as float32."""
        narrow = [value.to(self.dtype) if value.is_floating_point() else value for value in arguments]
        with torch.autocast("cpu", self.dtype):
            answer = self.inner(*narrow)
        return torch.utils._pytree.tree_map(self._widened, answer)

    def _widened(self, value: object) -> object:
        return value.float() if isinstance(value, torch.Tensor) and value.dtype == self.dtype else value


def _mixed(program: torch.export.ExportedProgram, dtype: torch.dtype) -> torch.export.ExportedProgram:
    """The program with casts written into it."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_tensor_metadata.default):
        program.graph.erase_node(node)  # they insist on float32
    program.graph_module.recompile()
    values = _inputs(program)
    ranges = program.range_constraints
    arguments = []
    dynamic = []
    for value in values:
        dims: list[Any] = list(value.shape)
        sizes = {axis: ranges[dim.node.expr] for axis, dim in enumerate(dims) if isinstance(dim, torch.SymInt)}
        shape = [
            min(int(sizes[axis].upper), max(2, int(sizes[axis].lower))) if axis in sizes else int(dim)
            for axis, dim in enumerate(dims)
        ]
        arguments.append(torch.zeros(shape, dtype=value.dtype))
        auto = torch.export.Dim.AUTO
        dynamic.append({a: auto(min=max(int(r.lower), 0), max=int(r.upper)) for a, r in sizes.items()})
    try:
        with torch.no_grad(), quiet():
            mixed = torch.export.export(
                _Mixed(program.module(), dtype), tuple(arguments), dynamic_shapes=(tuple(dynamic),)
            )
            decomposed: torch.export.ExportedProgram = mixed.run_decompositions({})
            return decomposed
    except Exception as error:
        lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise StageError(
            f"torch cannot export the program in {dtype}: {lines[0]}",
            "build with --fp32, or with --backend tensorrt-rtx, which lowers the ONNX graph",
        ) from error


def _inputs(program: torch.export.ExportedProgram) -> list[torch.Tensor]:
    """The program's own inputs, as torch.export describes them."""
    names = set(program.graph_signature.user_inputs)
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def _contract(program: torch.export.ExportedProgram, exported: Exported, request: TorchRequest) -> IOContract:
    """Inputs and outputs under the names that the ONNX export gives them."""
    results = list(program.graph.output_node().args[0])[-len(program.graph_signature.user_outputs) :]
    outputs = [node.meta["val"] for node in results if isinstance(node, torch.fx.Node)]
    inputs = _inputs(program)
    symbols: dict[str, str] = {}
    return IOContract(
        inputs=tuple(
            _spec(name, value, symbols)
            for name, value in _paired(request.input_names or exported.inputs, inputs, "input")
        ),
        outputs=tuple(
            _spec(name, value, symbols)
            for name, value in _paired(request.output_names or exported.output_names(len(outputs)), outputs, "output")
        ),
    )


def _paired(names: Sequence[str], values: Sequence[torch.Tensor], what: str) -> list[tuple[str, torch.Tensor]]:
    if len(names) != len(values):
        raise InputError(
            f"{len(names)} {what} names were given ({', '.join(names)}), the model has {len(values)} {what}s",
            f"give one name per {what}",
        )
    return list(zip(names, values, strict=True))


def _spec(name: str, value: torch.Tensor, symbols: dict[str, str]) -> TensorSpec:
    shape: list[int | str | None] = []
    for axis, dim in enumerate(value.shape):
        if isinstance(dim, int):
            shape.append(dim)
            continue
        readable = "batch" if axis == 0 and "batch" not in symbols.values() else f"{name}_{axis}"
        shape.append(symbols.setdefault(str(dim), readable))
    return TensorSpec(name=name, dtype=str(value.dtype).removeprefix("torch."), shape=tuple(shape))
