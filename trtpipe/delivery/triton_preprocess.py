"""A model of Triton's Python back-end: image files to one input of the model behind it.

It runs in the server, which has to have trtpipe and pillow: so the very code that calibrated prepares the images.
``transform.json`` beside it holds the settings.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as server  # only there is in the server's own Python

from trtpipe.config.image_transform import ImageTransform
from trtpipe.data.pixels import load_tensor
from trtpipe.delivery.schema import load_object, read_record
from trtpipe.errors import InputError


class TritonPythonModel:
    """What the back-end looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the settings; ``args`` names the version's folder."""
        folder = Path(args["model_repository"]) / args["model_version"]
        path = folder / "transform.json"
        found = load_object(path.read_bytes(), path)
        self._image = read_record(ImageTransform, found["image"], path)
        self._input, self._raw = str(found["input"]), bool(found["raw"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request; what cannot be read as an image is that request's error."""
        return [self._answered(request) for request in requests]

    def _answered(self, request: Any) -> Any:
        files = server.get_input_tensor_by_name(request, "IMAGE").as_numpy().ravel().tolist()
        try:
            value = np.stack([self._tensor(number, file) for number, file in enumerate(files)])
        except InputError as error:
            return server.InferenceResponse([], server.TritonError(f"{error.message}; {error.remedy}"))
        return server.InferenceResponse([server.Tensor(self._input, value)])

    def _tensor(self, number: int, content: bytes) -> np.ndarray:
        return load_tensor(Path(f"image {number}"), self._image, self._raw, io.BytesIO(content))
