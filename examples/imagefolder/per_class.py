"""How well a package knows each class of an image folder: ``python per_class.py PACKAGE FOLDER``."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from trtpipe.runtime import load


def main() -> None:
    """One line a class: how many images are right, and what the others are taken for."""
    package, folder = Path(sys.argv[1]), Path(sys.argv[2])
    right = total = 0
    with load(package, device="cpu") as model:
        for name in model.classes:
            files = sorted((folder / name).glob("*.png"))
            found: Counter[str] = Counter()
            for file in files:
                found.update(best.name for best in model.best_classes(model(file)))
            right, total = right + found[name], total + len(files)
            wrong = ", ".join(f"{count} {other}" for other, count in found.most_common() if other != name)
            print(f"{name:6} {found[name]:3} of {len(files):3}  {wrong}".rstrip())
    print(f"all    {right:3} of {total:3}  {right / total:.1%}")


if __name__ == "__main__":
    main()
