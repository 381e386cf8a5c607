"""A model of Triton's Python back-end: image files, or WAV files, to one input of the model behind it.

It runs in the server, which has to have trtpipe (and pillow for images): so the very code that calibrated prepares the
files. ``transform.json`` beside it holds the settings.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as server  # only there is in the server's own Python

from trtpipe.delivery.record import Preprocessing
from trtpipe.delivery.schema import load_object, read_record
from trtpipe.errors import InputError


class TritonPythonModel:
    """What the back-end looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the settings; ``args`` names the version's folder."""
        folder = Path(args["model_repository"]) / args["model_version"]
        path = folder / "transform.json"
        self._wanted = read_record(Preprocessing, load_object(path.read_bytes(), path), path)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request; what cannot be read as such a file is that request's error."""
        return [self._answered(request) for request in requests]

    def _answered(self, request: Any) -> Any:
        files = server.get_input_tensor_by_name(request, self._wanted.takes.upper()).as_numpy().ravel().tolist()
        try:
            value = np.stack([self._array(number, file) for number, file in enumerate(files)])
        except InputError as error:
            return server.InferenceResponse([], server.TritonError(f"{error.message}; {error.remedy}"))
        return server.InferenceResponse([server.Tensor(self._wanted.input, value)])

    def _array(self, number: int, content: bytes) -> np.ndarray:
        return self._wanted.array(Path(f"{self._wanted.takes} {number}"), io.BytesIO(content))
