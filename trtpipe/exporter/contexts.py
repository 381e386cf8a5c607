"""What holds while PyTorch exports a module: eval mode, quiet, recurrent layers in one piece."""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import TYPE_CHECKING

from trtpipe.exporter.loading import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def whole_recurrent_layers(module: object) -> Iterator[None]:
    """Inside, LSTM and GRU layers of ``module`` are exported as one operator each.

    torch.export by itself may write them out step by step, which fixes the length of sequences to that of the example
    and makes hundreds of nodes. Its own remedy is used where this torch has it (2.13 does); the ONNX exporter then
    makes LSTM and GRU of them.
    """
    parts = module.modules() if isinstance(module, torch.nn.Module) else ()
    with contextlib.ExitStack() as stack:
        if any(isinstance(part, (torch.nn.LSTM, torch.nn.GRU)) for part in parts):
            for remedy in _remedies():
                stack.enter_context(remedy)
        yield


def _remedies() -> Iterator[contextlib.AbstractContextManager[None]]:
    try:
        from torch.export import _patches
    except ImportError:
        return
    for name in ("register_lstm_while_loop_decomposition", "register_gru_while_loop_decomposition"):
        if (remedy := getattr(_patches, name, None)) is not None:
            yield remedy()


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside, every submodule's own training flag restored after."""
    before = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's chatter about packages nobody asked for off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
