"""Write ``cudart_api.json`` from CUDA's own headers: ``python make_cudart_api.py VERSION=cuda_runtime_api.h ...``.

The headers are in the wheels nvidia-cuda-runtime-cu12 and nvidia-cuda-runtime.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from trtpipe.backends.trt.cudart import CALLS

SNAPSHOT = Path(__file__).with_name("cudart_api.json")


def declared(header: Path) -> dict[str, list[str]]:
    """Call -> types of its parameters, for the calls that trtpipe makes."""
    text = header.read_text(encoding="utf-8")
    found = {}
    for name in (*CALLS, "cudaGetErrorString"):
        match = re.search(rf"CUDARTAPI {name}\(([^;]*)\);", text)
        if match:
            parameters = re.sub(r"\s*__dv\([^)]*\)", "", match[1]).split(",")
            types = [re.sub(r"\w+$", "", each.strip()).strip() for each in parameters if each.strip() != "void"]
            found[name] = types
    return found


if __name__ == "__main__":
    headers = dict(argument.split("=", 1) for argument in sys.argv[1:])
    apis = {version: declared(Path(header)) for version, header in headers.items()}
    SNAPSHOT.write_text(json.dumps(apis, indent=1, sort_keys=True) + "\n", encoding="utf-8")
