"""How a model is served by Triton Inference Server: what a user may set. A TOML file, or a record in Python."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field

from trtpipe.config.paths import path_of
from trtpipe.config.profile import Seconds
from trtpipe.config.tomlfile import load_toml
from trtpipe.config.user_record import UserRecord


class TritonSettings(UserRecord):
    """A model in a Triton model repository; see NVIDIA's "Model Configuration".

    Attributes:
        name: of the model in the repository; by default that of the package.
        version: number of the version's folder; other versions that are there stay.
        backend: Triton's back-end: ``tensorrt`` serves plans, ``onnxruntime`` the lowered graph on a CPU.
        max_batch_size: largest batch; by default that of the optimization profiles. 0: requests have the model's own
            shapes, batch axis included, and are never batched together.
        dynamic_batching: whether requests are batched together, where the model has a batch axis.
        preferred_batch_sizes: which batches are made first; by default the typical ones of several optimization
            profiles.
        max_queue_delay: how long a request may wait for others; by default not at all.
        instances: how many copies of the model run at once, on each GPU.
        gpus: numbers of the GPUs; by default all.
        warmup: whether the server runs the reference inputs before the model is ready.
        preprocessing: whether a Python model that makes the input of image or WAV files, and an ensemble of both, are
            added.
    """

    name: str = ""
    version: Annotated[int, Field(ge=1, lt=1 << 31)] = 1
    backend: Literal["tensorrt", "onnxruntime"] = "tensorrt"
    max_batch_size: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    dynamic_batching: bool = True
    preferred_batch_sizes: tuple[Annotated[int, Field(ge=1, lt=1 << 31)], ...] = ()
    max_queue_delay: Seconds | None = None
    instances: Annotated[int, Field(ge=1, le=1024)] = 1
    gpus: tuple[Annotated[int, Field(ge=0, lt=1024)], ...] = ()
    warmup: bool = True
    preprocessing: bool = False

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TritonSettings:
        """Read settings from TOML.

        Raises:
            RecipeError: the file or a key in it is wrong; the message names both.
        """
        return load_toml(path_of(path, "path"), cls)
