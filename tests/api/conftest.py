"""Fixtures that tests of other rooms have, too."""

from fixtures_backends import conv_net, recording_tensorrt, write_model  # noqa: F401
from fixtures_builds import build, built_world  # noqa: F401
