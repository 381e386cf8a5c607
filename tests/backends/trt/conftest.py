"""Fixtures of the tests of what the TensorRT flavors share."""

from __future__ import annotations

from fixtures_backends import conv_net, heard, product, recording_tensorrt, settings, write_model  # noqa: F401
