"""Fixtures that tests of other rooms have, too."""

from fixtures_backends import recording_tensorrt  # noqa: F401
from fixtures_builds import build, built_world  # noqa: F401
