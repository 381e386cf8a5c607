"""The command line: one command, one file, one call of the public API."""

from trtpipe.cli.app import main

__all__ = ["main"]
