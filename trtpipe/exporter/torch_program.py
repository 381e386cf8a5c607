"""The work of ``capture``: an exported program, in mixed precision where asked for, as a ``.pt2`` file."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.config.formats import FP32
from trtpipe.engine.record import ProgramRecord
from trtpipe.exporter.context import exporting
from trtpipe.exporter.naming import check_dynamic, paired
from trtpipe.exporter.refusals import Failure, export_error
from trtpipe.exporter.request import PROGRAM, ExportReply, TorchRequest
from trtpipe.exporter.torch_export import Exported, load_and_export, to_program
from trtpipe.isolation.worker import Report


def capture_task(request: TorchRequest, report: Report) -> ExportReply:
    """Load a factory or a ``.pt2`` file and write its program. Runs in a child process.

    Raises:
        InputError: the factory cannot be found, raises, or returns no module; shapes do not fit.
        StageError: the program cannot be exported.
    """
    return load_and_export(request, report, capture_module)


def capture_module(module: object, examples: object | None, request: TorchRequest) -> ExportReply:
    """Write a module or an exported program as ``program.pt2`` into the request's work folder.

    Raises:
        InputError: not a module; example inputs are missing, shapes or names do not fit.
        StageError: torch.export fails, or the code fixes a size that has to be dynamic.
    """
    exported = to_program(module, examples, request)
    half, program = request.half, exported.program
    if half is not None:
        program = _mixed(program, getattr(torch, half.storage))
    contract = _contract(program, exported, request)
    check_dynamic(((spec.name, spec.shape or ()) for spec in contract.inputs), request)
    for part in program.graph_module.modules():  # metadata that depends on this machine, or differs between runs
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            for trace in ("stack_trace", "from_node", "custom"):
                node.meta.pop(trace, None)
    program.example_inputs = None
    path = Path(request.workdir) / PROGRAM
    with exporting(None):
        torch.export.save(program, path)
    record = ProgramRecord(
        exporter=f"torch {torch.__version__} (torch.export)", precision=(half or FP32).storage, contract=contract
    )
    record.write(path.with_name(f"{PROGRAM}.json"))
    return ExportReply(names=(PROGRAM, f"{PROGRAM}.json"))


class _Mixed(torch.nn.Module):
    """A program with 16-bit weights, and float32 inputs and outputs.

    Autocast converts float32 tensors that the program makes to 16 bits where they enter heavy operators.
    """

    def __init__(self, inner: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = copy.deepcopy(inner).to(dtype)  # it shares its weights with the caller's module
        self.dtype = dtype

    def forward(self, *arguments: torch.Tensor) -> object:
        """The outputs of the inner program, 16-bit ones as float32."""
        narrow = [value.to(self.dtype) if value.is_floating_point() else value for value in arguments]
        with torch.autocast("cpu", self.dtype):
            result = self.inner(*narrow)
        return torch.utils._pytree.tree_map(self._widened, result)

    def _widened(self, value: object) -> object:
        return value.float() if isinstance(value, torch.Tensor) and value.dtype == self.dtype else value


def _mixed(program: torch.export.ExportedProgram, dtype: torch.dtype) -> torch.export.ExportedProgram:
    """The program in mixed precision, with explicit casts."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_tensor_metadata.default):
        program.graph.erase_node(node)  # they require float32
    _cast_states(program.graph, dtype)
    program.graph_module.recompile()
    arguments = []
    dynamic = []
    for value in _inputs(program):
        ranges = _ranges(program, value)
        arguments.append(torch.zeros([_example_size(dim, ranges.get(axis)) for axis, dim in enumerate(value.shape)],
                                     dtype=value.dtype))  # fmt: skip
        dynamic.append({axis: torch.export.Dim.AUTO(min=low, max=high) for axis, (low, high) in ranges.items()})
    try:
        with exporting(None):
            mixed = torch.export.export(
                _Mixed(program.module(), dtype), tuple(arguments), dynamic_shapes=(tuple(dynamic),)
            )
            decomposed: torch.export.ExportedProgram = mixed.run_decompositions({})
            return decomposed
    except Exception as error:
        remedy = "build with --fp32, or with --backend tensorrt-rtx, which lowers the ONNX graph"
        raise export_error(f"the program in {dtype}", Failure(None, error), remedy) from error


def _cast_states(graph: torch.fx.Graph, dtype: torch.dtype) -> None:
    """Cast the inputs of recurrent layers, such as initial states in float32: autocast does not."""
    recurrent = [torch.ops.aten.lstm.input, torch.ops.aten.gru.input,
                 torch.ops.aten.rnn_tanh.input, torch.ops.aten.rnn_relu.input]  # fmt: skip

    def cast(value: torch.fx.Node) -> torch.fx.Node:
        if value.op == "placeholder":  # 16 bits already
            return value
        return graph.call_function(torch.ops.aten.to.dtype, (value, dtype))

    for target in recurrent:
        for node in graph.find_nodes(op="call_function", target=target):
            with graph.inserting_before(node):
                node.args = torch.fx.map_arg(node.args, cast)


def _ranges(program: torch.export.ExportedProgram, value: torch.Tensor) -> dict[int, tuple[int, int]]:
    """Axis -> smallest and largest size, of every dynamic axis."""
    found = {}
    dims: list[int | torch.SymInt] = list(value.shape)
    for axis, dim in enumerate(dims):
        if isinstance(dim, torch.SymInt) and not _is_fixed(dim):
            limits = program.range_constraints[dim.node.expr]
            found[axis] = (max(int(limits.lower), 0), int(limits.upper))
    return found


def _is_fixed(dim: int | torch.SymInt) -> bool:
    """Whether a size is one number; torch keeps a size that the code fixes as a symbol with a value."""
    return isinstance(dim, int) or bool(dim.node.expr.is_number)


def _example_size(dim: int | torch.SymInt, limits: tuple[int, int] | None) -> int:
    """The size the program was exported with, so that its guards hold; else a small one within the limits."""
    if limits is None:
        return int(dim)
    hint = dim.node.hint if isinstance(dim, torch.SymInt) else None
    return int(hint) if hint is not None else min(limits[1], max(2, limits[0]))


def _inputs(program: torch.export.ExportedProgram) -> list[torch.Tensor]:
    """The program's user inputs, as torch.export describes them."""
    names = set(program.graph_signature.user_inputs)
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def _contract(program: torch.export.ExportedProgram, exported: Exported, request: TorchRequest) -> IOContract:
    """Inputs and outputs under the names of the ONNX export."""
    results = list(program.graph.output_node().args[0])[-len(program.graph_signature.user_outputs) :]
    outputs = [node.meta["val"] for node in results if isinstance(node, torch.fx.Node)]
    inputs = _inputs(program)
    symbols: dict[str, str] = {}
    return IOContract(
        inputs=tuple(
            _spec(name, value, symbols)
            for value, name in paired(inputs, request.input_names or exported.inputs, "input")
        ),
        outputs=tuple(
            _spec(name, value, symbols)
            for value, name in paired(outputs, request.output_names or exported.outputs, "output")
        ),
    )


def _spec(name: str, value: torch.Tensor, symbols: dict[str, str]) -> TensorSpec:
    shape: list[int | str | None] = []
    for axis, dim in enumerate(value.shape):
        if _is_fixed(dim):
            shape.append(int(dim))
            continue
        readable = "batch" if axis == 0 and "batch" not in symbols.values() else f"{name}_{axis}"
        shape.append(symbols.setdefault(str(dim), readable))
    return TensorSpec(name=name, dtype=str(value.dtype).removeprefix("torch."), shape=tuple(shape))
