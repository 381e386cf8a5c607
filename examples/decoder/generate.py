"""Continue a text, character by character: ``python generate.py PACKAGE WORD...``; and compare with PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from data import EXPECTED, decoded, encoded, equal_tokens, steps

from trtpipe.runtime import load


def main() -> None:
    """The text with what follows, and how many of PyTorch's texts come out the same."""
    package, begun = Path(sys.argv[1]), " ".join(sys.argv[2:])
    with load(package, device="cpu") as model:
        followed = decoded(np.array([token for _, token in steps(model, encoded(begun))]))
        print(f"{begun}|{' '.join(followed.split())}")
        found = equal_tokens(model)
    print(f"{found['equal']:.0%} of {found['n']} texts are those of PyTorch ({EXPECTED.name})")


if __name__ == "__main__":
    main()
