"""Leases: one holder at a time, whatever happens to the others."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from trtpipe.remote import Blob, Bucket, Lease

TERM = 0.8


def lease(bucket: Bucket, waiting: list[str] | None = None) -> Lease:
    return Lease(bucket, "leases/x", TERM, lambda: None if waiting is None else waiting.append("waits"))


def test_eight_who_want_it_hold_it_one_after_the_other(bucket: Bucket) -> None:
    inside, most = 0, 0
    guard = threading.Lock()

    def hold(_: int) -> bool:
        nonlocal inside, most
        with lease(bucket) as held:
            with guard:
                inside += 1
                most = max(most, inside)
            time.sleep(0.03)
            with guard:
                inside -= 1
        return held.taken_over

    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(hold, range(8)))
    assert most == 1
    assert bucket.head("leases/x") is None


def test_it_is_renewed_for_as_long_as_it_is_held(bucket: Bucket) -> None:
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with lease(bucket, said) as held:
            order.append("second")
            assert not held.taken_over

    with lease(bucket):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(3 * TERM)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert said == ["waits"]


def test_that_of_a_dead_holder_is_taken_over_by_just_one(bucket: Bucket) -> None:
    bucket.create("leases/x", b"dead 1")
    begin, inside = time.monotonic(), []

    def hold(_: int) -> bool:
        with lease(bucket) as held:
            inside.append(time.monotonic() - begin)
            time.sleep(0.02)
        return held.taken_over

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(hold, range(4)))
    assert sum(taken) == 1
    assert min(inside) >= TERM


def test_the_clock_of_the_holder_does_not_matter(bucket: Bucket) -> None:
    """A lease that was written far in the future, or in the past, is judged by whether it changes."""

    class Skewed:
        def __init__(self, by: float) -> None:
            self.by = by

        def __getattr__(self, name: str) -> object:
            return getattr(bucket, name)

        def get(self, name: str, limit: int) -> Blob | None:
            found = bucket.get(name, limit)
            return None if found is None else Blob(found.data, found.tag, found.modified + self.by)

    for by in (-1e6, 1e6):
        bucket.create("leases/x", b"dead 1")
        begin = time.monotonic()
        with Lease(Skewed(by), "leases/x", TERM, lambda: None):  # type: ignore[arg-type]
            assert TERM <= time.monotonic() - begin < 4 * TERM


def test_a_holder_that_lost_it_leaves_the_new_one_alone(bucket: Bucket) -> None:
    with lease(bucket):
        bucket.put("leases/x", b"another 1")
        time.sleep(TERM)
    found = bucket.get("leases/x", 100)
    assert found is not None
    assert found.data == b"another 1"
