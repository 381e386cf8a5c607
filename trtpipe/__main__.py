"""``python -m trtpipe``."""

from trtpipe.cli import main

main()
