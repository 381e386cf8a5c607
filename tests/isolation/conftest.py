"""Fixtures of the tests of child processes."""

from __future__ import annotations

from fixtures_backends import conv_net, heard, product, recording_tensorrt, settings, write_model  # noqa: F401
