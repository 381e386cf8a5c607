"""A TCP proxy on this machine that can cut every connection, and counts what is written by name."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from contextlib import suppress

_RECORD = re.compile(rb"PUT /\S*?(entries/[a-z0-9_/-]+\.json)")


class CutProxy:
    """Forwards to ``port``.

    Attributes:
        port: where it listens.
        records: name -> how many times the record of an entry was sent.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.records: Counter[str] = Counter()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._cut_until = 0.0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, seconds: float) -> None:
        """End all connections, and refuse others for so long."""
        self._cut_until = time.monotonic() + seconds
        with self._guard:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.close()
        self.cut(0)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if time.monotonic() < self._cut_until:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._guard:
                self._open |= {client, server}
            for source, sink, up in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, sink, up), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if up:
                    self.records.update(found.decode() for found in _RECORD.findall(data))
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        with self._guard:
            self._open -= {source, sink}
