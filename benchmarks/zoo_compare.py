"""Lowered graphs against PyTorch.

Decibels are of what the inputs change: the outputs' deviation from their mean over samples, against the error. That is
what tells a graph that follows its input from one that repeats an average. Of an output that no input changes beyond
rounding, they are of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn
from zoo_models import feeds

from trtpipe.accuracy.alignment import ROUNDING

_UNSEEN = 100
_TINY = float(np.finfo(np.float64).tiny)


def compared(
    name: str, source: tuple[nn.Module, tuple[Any, ...], dict[str, Any]], graphs: Mapping[str, Path], count: int
) -> dict[str, tuple[float | None, float | None]]:
    """Cosine and decibels of each graph's worst output against PyTorch, on inputs of a seed of its own."""
    module, positional, _ = source
    samples = list(feeds(name, _UNSEEN, count))
    wanted = []
    for feed in samples if graphs else ():
        tensors = {key: torch.from_numpy(value) for key, value in feed.items()}
        with torch.no_grad():
            outputs = module(*tensors.values()) if positional else module(**tensors)
        wanted.append([tensor.float().numpy() for tensor in _tensors(outputs)])
    return {label: _worst(wanted, _run(graph, samples)) for label, graph in graphs.items()}


def _run(graph: Path, samples: Sequence[Mapping[str, np.ndarray]]) -> list[list[np.ndarray]]:
    """Outputs of every sample, Q/DQ pairs computed as written."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # right for float8 too
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    known = [entry.name for entry in session.get_inputs()]
    found = []
    for feed in samples:
        given = dict(zip(known, feed.values(), strict=False)) if len(known) == len(feed) else feed
        found.append(session.run(None, {key: feed.get(key, given.get(key)) for key in known}))
    return found


def _tensors(outputs: object) -> Iterator[torch.Tensor]:
    """Floating-point tensors anywhere in what forward returned, in order."""
    if isinstance(outputs, torch.Tensor):
        if outputs.is_floating_point():
            yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from _tensors(value)
    elif isinstance(outputs, Sequence) and not isinstance(outputs, str):
        for value in outputs:
            yield from _tensors(value)


def _worst(wanted: list[list[np.ndarray]], found: list[list[np.ndarray]]) -> tuple[float | None, float | None]:
    """Of the outputs whose shapes agree: the least cosine and decibels."""
    cosines, decibels = [], []
    for place, first in enumerate(wanted[0]):
        same = [n for n, value in enumerate(found[0]) if value.shape == first.shape and value.dtype.kind == "f"]
        if not same:
            continue
        output = place if place in same else same[0]
        x = np.stack([each[place] for each in wanted]).astype(np.float64)
        y = np.stack([each[output] for each in found]).astype(np.float64)
        whole, noise = np.square(x).sum(), np.square(x - y).sum()
        change = np.square(x - x.mean(0)).sum() * len(x) / max(len(x) - 1, 1)
        if change <= ROUNDING**2 * whole:  # no sample changes it
            change = whole
        cosines.append(float((x * y).sum() / max(np.linalg.norm(x) * np.linalg.norm(y), _TINY)))
        decibels.append(float(10 * np.log10(max(change, _TINY) / max(noise, _TINY))))
    if not decibels:
        return None, None
    return round(min(cosines), 5), round(min(decibels), 1)
