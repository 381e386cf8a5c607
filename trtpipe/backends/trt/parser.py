"""Asks TensorRT's parser which nodes of a graph it refuses, in a child process and without a build."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtpipe.artifact import Record
from trtpipe.backends.base import Refusal
from trtpipe.backends.target_support import refuse_unknown_types
from trtpipe.backends.trt.errors import Log
from trtpipe.backends.trt.flavor import Flavor, load
from trtpipe.backends.trt.options import load_plugins
from trtpipe.config.plugins import plugin_paths
from trtpipe.config.profile import BuildSettings
from trtpipe.errors import BuildError
from trtpipe.isolation.remote_runner import call_forked
from trtpipe.isolation.worker import LIGHT, Report, limits_for, scratch_in
from trtpipe.preflight import folder_size

if TYPE_CHECKING:
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.settings import Settings


class ParseRequest(Record):
    """A graph to parse.

    Attributes:
        model, workdir: paths; partial graphs are written to the second.
        options: plug-ins as absolute paths.
        device: the GPU to use, for ``CUDA_VISIBLE_DEVICES``; empty: the first.
    """

    model: str
    workdir: str
    flavor: Flavor
    options: BuildSettings = BuildSettings()
    device: str = ""


class ParseReply(Record):
    """Why the parser refuses the graph, and what to do; both empty where it takes it."""

    reason: str = ""
    remedy: str = ""


def ask_parser(
    model: Path, profile: DeploymentProfile, settings: Settings, flavor: Flavor, device: str = "", *, confined: bool
) -> Refusal | None:
    """Why the parser of ``flavor`` refuses ``model``: nodes, operators, the user's lines. ``None`` if it does not.

    Raises:
        HostError: TensorRT does not start here.
        WorkerError: the parser crashed, hung or ran out of memory.
    """
    if (refusal := refuse_unknown_types(model)) is not None:
        return refusal  # the parser names neither tensor nor type
    plugins = plugin_paths(profile.build)
    with scratch_in(None) as folder:
        reply = call_forked(
            "trtpipe.backends.trt.parser:parse_task",
            ParseRequest(
                model=str(model),
                workdir=folder,
                flavor=flavor,
                options=BuildSettings(plugins=tuple(map(str, plugins))),
                device=device,
            ),
            ParseReply,
            limits=limits_for(settings, work=LIGHT, size=folder_size(model.parent)),
            what=f"parsing {model.name}",
            reads=(model.parent, *plugins) if confined else None,
            workdir=Path(folder),
        )
    return Refusal(reply.reason, reply.remedy) if reply.reason else None


def parse_task(request: ParseRequest, report: Report) -> ParseReply:
    """Parse one graph (in the worker process)."""
    if request.device:
        os.putenv("CUDA_VISIBLE_DEVICES", request.device)  # before the CUDA driver reads it
    trt = load(request.flavor)
    return refused(trt, request)


def refused(trt: Any, request: ParseRequest) -> ParseReply:
    """What the parser of ``trt`` says (in the worker process)."""
    from trtpipe.backends.trt.bisect import with_failing_node
    from trtpipe.backends.trt.builder import new_builder, parse

    log = Log(trt)
    builder = new_builder(trt, log, request.flavor)
    load_plugins(trt, request.options)

    def attempt(model: Path) -> None:
        attempt_log = Log(trt)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parse(trt, network, attempt_log, str(model))

    model = Path(request.model)
    try:
        attempt(model)
    except BuildError as error:
        told = with_failing_node(error, model, attempt, Path(request.workdir), request.flavor, lowered=False)
        return ParseReply(reason=told.message, remedy=told.remedy)
    return ParseReply()
