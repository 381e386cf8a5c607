"""Fixtures that tests of the back-ends have, too."""

from fixtures_backends import conv_net, write_model  # noqa: F401
