"""The surroundings of an export: the mode of the module, and what torch does otherwise while a graph is traced."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from typing import TYPE_CHECKING

from trtpipe.exporter.loading import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def exporting(module: object) -> Iterator[None]:
    """What holds while a module runs, is traced, and becomes ONNX.

    Eval mode, restored after; no gradients, with which the conversion cannot take views of weights; whatever the module
    compiles runs uncompiled; recurrent layers become one operator each; warnings of the exporter are silent.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(module, torch.nn.Module):
            stack.enter_context(_eval_mode(module))
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:  # else nothing was compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_recurrent_layers_kept(module))
        stack.enter_context(_quiet())
        yield


@contextlib.contextmanager
def _eval_mode(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside; every submodule's training flag is restored after."""
    before = {part: part.training for part in module.modules()}
    for part in before:
        part.training = False  # not eval(): exported programs refuse it, and have the mode they were exported in
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training


@contextlib.contextmanager
def _recurrent_layers_kept(module: object) -> Iterator[None]:
    """Inside, LSTM and GRU layers of ``module`` are exported as one operator each.

    torch.export may unroll them, which fixes the sequence length to that of the example and makes hundreds of nodes.
    Its own patches prevent that, where this torch has them (2.13 does).
    """
    parts = module.modules() if isinstance(module, torch.nn.Module) else ()
    with contextlib.ExitStack() as stack:
        if any(isinstance(part, (torch.nn.LSTM, torch.nn.GRU)) for part in parts):
            for patch in _recurrent_patches():
                stack.enter_context(patch)
        yield


def _recurrent_patches() -> Iterator[contextlib.AbstractContextManager[None]]:
    try:
        from torch.export import _patches
    except ImportError:
        return
    for name in ("register_lstm_while_loop_decomposition", "register_gru_while_loop_decomposition"):
        if (patch := getattr(_patches, name, None)) is not None:
            yield patch()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings of the exporters, such as those about optional packages, and graphs that they print."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
