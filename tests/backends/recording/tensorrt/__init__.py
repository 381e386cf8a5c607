"""``import tensorrt`` finds the recording fake, where a test puts this folder on the import path of a child process."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from backends.recording_tensorrt import RecordingTensorRT

_FAKE = RecordingTensorRT()
__version__ = _FAKE.__version__


def __getattr__(name: str) -> object:
    return getattr(_FAKE, name)
