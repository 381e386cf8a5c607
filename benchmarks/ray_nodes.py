"""A Ray cluster of several nodes on this machine, until standard input ends: what it is to be comes as JSON.

python benchmarks/ray_nodes.py '{"ray": "", "nodes": [{"resources": {"null-1": 1000}, "env": {"NAME": "value"}}]}'

``ray`` is the version that the cluster says it has; empty: its own. The head has no CPUs. Prints the address.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import Any

import ray
from ray.cluster_utils import Cluster

#: A machine that is busy may take longer than Ray waits for a part to start.
_STARTS = 4


def started(nodes: list[dict[str, Any]]) -> Cluster:
    for left in reversed(range(_STARTS)):
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=0)
            for node in nodes:
                cluster.add_node(num_cpus=1, resources=node["resources"], env_vars=node["env"])
        except Exception:
            with suppress(Exception):
                cluster.shutdown()
            if not left:
                raise
        else:
            return cluster
    raise AssertionError


def main() -> None:
    asked = json.loads(sys.argv[1])
    if asked["ray"]:
        ray.__version__ = asked["ray"]
    cluster = started(asked["nodes"])
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
