"""An application around a package: classifies image files, or serves classification over HTTP.

It is written and tested on the CPU, and runs on a GPU with ``--device cuda``: nothing else changes.
"""

from __future__ import annotations

import argparse
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from trtpipe.errors import TrtpipeError
from trtpipe.runtime import LoadedModel, load

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_BYTES = 1 << 20


def classify(model: LoadedModel, images: Sequence[str | bytes]) -> list[dict[str, object]]:
    """The best class of each image and its probability, as model.json says the output is to be read."""
    found = model.best_classes(model(list(images)))
    return [{"class": best.name, "probability": round(best.score, 4)} for best in found]


def handler(model: LoadedModel) -> type[BaseHTTPRequestHandler]:
    """Answers a POST of an image with its class."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            if not 0 < size <= MOST_BYTES:
                self._answer(413, {"error": "send one image of at most 1 MiB"})
                return
            try:
                self._answer(200, classify(model, [self.rfile.read(size)])[0])
            except TrtpipeError as error:
                self._answer(400, {"error": error.message, "remedy": error.remedy})

        def _answer(self, status: int, document: dict[str, object]) -> None:
            body = json.dumps(document).encode() + b"\n"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", help="what trtpipe package make wrote")
    parser.add_argument("images", nargs="*", help="image files to classify")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu")
    parser.add_argument("--serve", type=int, metavar="PORT", help="serve on this port; 0: any that is free")
    words = parser.parse_args()
    try:
        run(words)
    except TrtpipeError as error:
        print(f"{error.message}\n  {error.remedy}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def run(words: argparse.Namespace) -> None:
    with load(words.package, words.device) as model:
        if not model.selftest().passed:
            raise SystemExit(f"{words.package}: the self-test fails on {model.device}")
        for name, found in zip(words.images, classify(model, words.images) if words.images else [], strict=True):
            print(f"{name}: {found['class']} ({found['probability']:.0%})")
        if words.serve is not None:
            with ThreadingHTTPServer(("127.0.0.1", words.serve), handler(model)) as server:
                print(f"serving on http://127.0.0.1:{server.server_address[1]}", flush=True)
                server.serve_forever()


if __name__ == "__main__":
    main()
