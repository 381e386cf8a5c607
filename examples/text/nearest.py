"""The sentences of the documentation that are nearest to a question: ``python nearest.py PACKAGE WORD...``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from data import LONGEST, feed_of, sentences, tokens

from trtpipe.runtime import load

BATCH, BEST = 16, 3


def main() -> None:
    """The cosine and the words of each."""
    package, question = Path(sys.argv[1]), tuple(" ".join(sys.argv[2:]).lower().split())[:LONGEST]
    known = sentences("test")
    with load(package, device="cpu") as model:
        asked = model(feed_of([tokens(question)]))["embedding"][0]
        batches = (known[start : start + BATCH] for start in range(0, len(known), BATCH))
        embeddings = [model(feed_of([tokens(each) for each in batch]))["embedding"] for batch in batches]
    cosines = np.concatenate(embeddings) @ asked
    for index in np.argsort(-cosines, kind="stable")[:BEST]:
        print(f"{cosines[index]:.2f}  {' '.join(known[index])}")


if __name__ == "__main__":
    main()
