"""Fixtures that tests of the back-ends have, too."""

from fixtures_backends import recording_tensorrt  # noqa: F401
