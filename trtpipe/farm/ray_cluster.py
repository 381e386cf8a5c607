"""Workers of a Ray cluster: tasks with custom resources, which each node says that it has when it joins.

``ray start ... --resources "$(trtpipe doctor --resources)"`` on a node says what is there: ``trtpipe-0.1.0``,
``tensorrt-rtx-1.7.1.116``, ``gpu-sm89``.
"""

from __future__ import annotations

import queue
import re
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from ray import exceptions

import trtpipe
from trtpipe.config.settings import environment
from trtpipe.errors import HostError, InputError
from trtpipe.farm.perform import failed, perform_text
from trtpipe.farm.resources import GPU, offer_of, resources_of
from trtpipe.farm.tasks import Needs, Offer, begins, own_offer
from trtpipe.farm.workers import Ended, Workers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from trtpipe.config.settings import Settings
    from trtpipe.farm.tasks import Task

#: Of what any number of tasks may use at once.
_SHARE = 0.001
#: Tasks that are handed to Ray before others are done, for each CPU of the cluster.
_AHEAD = 2
_SECONDS = 5.0
#: How long a node that has what a task needs may be away, until the task fails: one may be starting.
_RETURN_SECONDS = 300.0
#: What Ray takes for a machine and a port, and seconds that the port may take to answer: Ray itself tries for minutes.
_PLACE = re.compile(r"(?:ray://)?\[?([^\[\]/]+)\]?:(\d+)")
_ANSWER_SECONDS = 10.0
#: The beginning of a connection by HTTP/2, as gRPC's is, with empty settings; the answer has a type like it.
_GREETING, _SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)), 4
#: How often a cluster of one's own is started.
_STARTS = 3


class RayWorkers(Workers):
    """The nodes of a cluster.

    Args:
        address: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``; ``local`` starts a cluster on this machine, as large
            as ``settings.jobs`` says.

    Raises:
        HostError: there is no such cluster, it has another version of Ray or Python, or no node of it has this trtpipe.
    """

    def __init__(self, address: str, settings: Settings) -> None:
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self._running: dict[int, tuple[Any, frozenset[str]]] = {}
        self._missed: dict[frozenset[str], float] = {}
        _connect(address, settings)
        self._offers = tuple(offer_of(str(node["NodeManagerHostname"]), node["Resources"]) for node in _alive())
        ours = [offer for offer in self._offers if offer.trtpipe == trtpipe.__version__]
        if not ours:
            others = ", ".join(sorted({offer.trtpipe or "none" for offer in self._offers})) or "nothing"
            self.close()
            raise HostError(
                f"no node with CPUs of the Ray cluster {address} has trtpipe {trtpipe.__version__} (it has: {others})",
                'start nodes with ray start ... --resources "$(trtpipe doctor --resources)"',
            )
        self._offers = tuple(ours)
        self._cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        # Retries are the scheduler's: it says so, and counts them.
        self._perform = ray.remote(max_retries=0)(perform_text)

    @property
    def nodes(self) -> int:
        """How many there are with this trtpipe."""
        return len(self._offers)

    def offers(self) -> tuple[Offer, ...]:
        return self._offers

    def room(self) -> int:
        return _AHEAD * self._cpus + 2 - len(self._running)

    def submit(self, task: Task) -> None:
        wanted = self._resources(task.needs)
        reference = self._perform.options(num_cpus=1, resources=wanted, name=task.label[:100]).remote(
            task.request.to_line()
        )
        self._running[task.number] = (reference, frozenset(wanted))
        reference.future().add_done_callback(partial(self._note, task.number))

    def _resources(self, needs: Needs) -> dict[str, float]:
        found = {f"trtpipe-{trtpipe.__version__}": _SHARE}
        if needs.flavor:
            serving = [offer.flavors[needs.flavor] for offer in self._offers if offer.serves(needs)]
            version = max((each for each in serving if begins(each, needs.version)), key=_numbers)
            found[f"{needs.flavor}-{version or '0'}"] = _SHARE
        if needs.gpu:
            found[f"{GPU}{needs.gpu}"] = 1.0  # measuring takes a whole one
        return found

    def _note(self, number: int, done: Future[str]) -> None:
        """In a thread of Ray's."""
        error = done.exception()
        if error is None:
            self._ended.put(Ended(number, done.result()))
        elif isinstance(error, exceptions.RayTaskError):  # what a task does raises nothing: it could not begin
            why = " ".join(str(error.cause).split())[-300:]
            found = HostError(
                f"a worker of the Ray cluster cannot do what the driver asks for: {why}",
                "install one version of trtpipe, with its extra farm, on all machines",
            )
            self._ended.put(Ended(number, failed(found, time.monotonic()).to_line()))
        else:
            why = "its node is gone" if isinstance(error, exceptions.NodeDiedError) else "its worker died"
            self._ended.put(Ended(number, None, f"{why} ({type(error).__name__})"))

    def wait(self) -> Sequence[Ended]:
        ended: list[Ended] = []
        while self._running and not ended:
            found = [*self._next()]
            while not self._ended.empty():
                found.append(self._ended.get())
            ended += [each for each in found if self._running.pop(each.number, None) is not None]
        return ended

    def _next(self) -> Sequence[Ended]:
        """Tasks that are over, or that never will be."""
        while True:
            try:
                return [self._ended.get(timeout=_SECONDS)]
            except queue.Empty:
                if not ray.is_initialized():
                    raise HostError("the connection to the Ray cluster is lost", "start the matrix again") from None
                if stranded := list(self._stranded(time.monotonic())):
                    return stranded

    def _stranded(self, now: float) -> Iterator[Ended]:
        """Tasks for which there was no node for so long that none is expected to come: Ray waits for ever."""
        nodes = [set(node["Resources"]) for node in _alive()]
        waiting = {wanted for _, wanted in self._running.values() if not any(wanted <= node for node in nodes)}
        self._missed = {wanted: self._missed.get(wanted, now) for wanted in waiting}
        for number, (reference, wanted) in self._running.items():
            if now - self._missed.get(wanted, now) >= _RETURN_SECONDS:
                ray.cancel(reference, force=True)
                error = HostError(
                    f"no node of the Ray cluster has {' and '.join(sorted(wanted))} any more",
                    "add one that has, and start the matrix again: what was done is in the store",
                )
                yield Ended(number, failed(error, time.monotonic()).to_line())

    def close(self) -> None:
        for reference, _ in self._running.values():
            ray.cancel(reference, force=True)
        self._running.clear()
        ray.shutdown()


def _alive() -> list[dict[str, Any]]:
    """The nodes that can run anything: one without a CPU, as heads often are, cannot."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]


def _connect(address: str, settings: Settings) -> None:
    """Join a cluster, or start one; on a machine that is busy Ray may give up too soon, so that is tried again."""
    own = address == "local"
    encrypted = environment().get("RAY_USE_TLS", "0") not in ("", "0")
    place = None if encrypted else _PLACE.fullmatch(address)
    if place is not None:
        try:
            _greet(place[1], int(place[2]))
        except (OSError, OverflowError) as error:
            raise _no_cluster(address, error) from error
    resources = resources_of(own_offer(settings)) if own else None
    for left in reversed(range(_STARTS if own else 1)):
        try:
            ray.init(
                address=address,
                resources=resources,
                num_cpus=settings.jobs if own else None,
                include_dashboard=False if own else None,
                log_to_driver=False,
                logging_level="ERROR",
            )
        except Exception as error:
            ray.shutdown()  # of what was started before
            if left == 0 or "timed out" not in str(error):
                raise _no_cluster(address, error, answered=place is not None) from error
        else:
            return


def _greet(host: str, port: int) -> None:
    """Ask whether something like Ray listens.

    Raises:
        OSError: nothing does, or something else.
        OverflowError: there is no such port.
    """
    with socket.create_connection((host, port), _ANSWER_SECONDS) as stream:
        stream.sendall(_GREETING)
        answer = stream.recv(9)
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise ConnectionError("what listens there is not Ray")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _no_cluster(address: str, error: Exception, *, answered: bool = False) -> HostError | InputError:
    text = str(error)
    if "ersion mismatch" in text:
        words = " ".join(text.split())[:300]
        return HostError(
            f"the Ray cluster {address} has another version of Ray or Python than this machine: {words}",
            f"install one of both on all machines; here: ray {ray.__version__}",
        )
    if answered and isinstance(error, ConnectionError):
        return HostError(
            f"the Ray cluster at {address} answers, and lets nobody in: {' '.join(text.split())[:200]}",
            "if it asks for a token, as new ones of Ray do, set RAY_AUTH_MODE=token, and have the head's token in "
            "RAY_AUTH_TOKEN or in ~/.ray/auth_token",
        )
    if isinstance(error, ValueError):
        return InputError(f"--ray {address!r}: {' '.join(text.split())[:200]}", "give auto, local or HOST:PORT")
    return HostError(
        f"there is no Ray cluster at {address}: {' '.join(text.split())[:200]}",
        "start one (ray start --head), correct the address, or leave --ray out to work on this machine",
    )
