"""Runs a package: an engine on a GPU, or the lowered graph on the CPU, behind one callable.

    model = trtpipe.runtime.load("package")
    outputs = model("photo.jpg")

It imports numpy and, on a GPU, the engine's TensorRT flavor; images need Pillow, and the CPU needs onnxruntime and
what lowers graphs, both imported when they are used.
"""

from __future__ import annotations

from trtpipe.runtime.classes import Classified
from trtpipe.runtime.loading import load
from trtpipe.runtime.model import LoadedModel
from trtpipe.runtime.selftest import OutputCheck, SelfTest

__all__ = ["Classified", "LoadedModel", "OutputCheck", "SelfTest", "load"]
