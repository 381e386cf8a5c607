"""The same tests with the other TensorRT, where two are installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trtpipe.backends.base import missing
from trtpipe.backends.gpu import gpus

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not gpus(), reason="needs an NVIDIA GPU")]


def test_the_other_flavor_in_a_process_of_its_own(flavor):
    other = {"tensorrt": "tensorrt-rtx", "tensorrt-rtx": "tensorrt"}[flavor]
    if missing(other) is not None or "TRTPIPE_TEST_FLAVOR" in os.environ:
        pytest.skip("only one TensorRT is to be tested")
    words = [sys.executable, "-m", "pytest", "-m", "gpu", str(Path(__file__).parent)]
    answer = subprocess.run(
        words, env={**os.environ, "TRTPIPE_TEST_FLAVOR": other}, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout
