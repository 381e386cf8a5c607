"""What a reader is warned of, and when."""

from __future__ import annotations

import re

import pytest

from trtpipe.backends.timing import DeviceState
from trtpipe.latency.advice import advice
from trtpipe.latency.reports import Latency, Times


def times(median, cov=1.0):
    same = dict.fromkeys(("min", "max", "mean", "median", "p90", "p95", "p99"), median)
    return Times(**same, cov=cov)


STATE = DeviceState(name="NVIDIA L4", sm_mhz=2000, processes=1)
PARTS = {"gpu_compute": times(10.0), "enqueue": times(1.0), "h2d": times(2.0), "d2h": times(2.0)}


def figure(**changes):
    whole = Latency(
        **times(14.0).to_dict(),
        artifact="engine:sm89",
        runner="a GPU",
        on_gpu=True,
        shapes={"x": (1,)},
        warmup_seconds=0.2,
        iterations=100,
        throughput_qps=70.0,
        parts=PARTS,
        windows=(14.0, 14.2),
        spread=1.4,
        before=STATE,
        after=STATE,
    )
    return whole.model_copy(update=changes)


def part(**changes):
    return {"parts": PARTS | changes}


def state(**changes):
    return STATE.model_copy(update=changes)


def test_good_figures_need_no_words():
    assert advice(figure()) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spread": 25.0, "windows": (10.0, 12.5)}, r"windows .* differ by 25 % \(first 10 ms, last 12.5 ms\)"),
        (part(gpu_compute=times(10.0, cov=3.0)), r"GPU compute time varies by 3.0 %; lock"),
        (part(enqueue=times(8.5)), r"launching kernels \(8.5 ms\) on the host; a CUDA graph may help"),
        (part(enqueue=times(8.5)) | {"cuda_graph": True}, r"launching kernels \(8.5 ms\) on the host$"),
        (part(h2d=times(10.0)), r"copies into the GPU \(10 ms\)"),
        (part(d2h=times(11.0)), r"copies out of the GPU \(11 ms\)"),
        ({"before": None, "after": None}, r"clocks were not read: pip install 'trtpipe\[gpu\]'"),
        ({"after": state(throttled=("power cap",))}, r"throttled: power cap"),
        ({"before": state(throttled=("temperature",))}, r"throttled: temperature"),
        ({"after": state(sm_mhz=1500)}, r"clock fell from 2000 to 1500 MHz"),
        ({"after": state(processes=3)}, r"3 programs use the GPU"),
    ],
)
def test_each_trouble_is_told_once(changes, words):
    [note] = advice(figure(**changes))
    assert re.search(words, note), note


@pytest.mark.parametrize(
    "changes",
    [
        {"spread": 10.0},
        part(gpu_compute=times(10.0, cov=2.5)),
        part(enqueue=times(8.0)),
        part(h2d=times(9.9)),
        {"after": state(sm_mhz=1901)},
        {"parts": {name: PARTS[name] for name in ("gpu_compute", "enqueue")}},
    ],
)
def test_below_the_thresholds_nothing_is_said(changes):
    assert advice(figure(**changes)) == ()


def test_a_cpu_is_only_told_to_be_unstable():
    cpu = {"on_gpu": False, "parts": {}, "before": None, "after": None, "cov": 50.0}
    assert advice(figure(**cpu)) == ()
    assert len(advice(figure(**cpu, spread=11.0))) == 1
