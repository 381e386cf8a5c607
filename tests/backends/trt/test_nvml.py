"""The GPU's state, from a recording fake of nvidia-ml-py; names are checked against the real one where it is there."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import pytest

from trtpipe.backends.gpu import has_driver
from trtpipe.backends.trt.nvml import read_state


class FakeNVMLError(Exception):
    pass


class FakeNVML(SimpleNamespace):
    """Answers like the package on an L4 that is hot; what is asked of it is written down."""

    def __init__(self, **answers):
        super().__init__(
            NVMLError=FakeNVMLError,
            NVML_CLOCK_SM=1,
            NVML_CLOCK_MEM=2,
            NVML_TEMPERATURE_GPU=0,
            nvmlClocksEventReasonSwPowerCap=0x4,
            nvmlClocksEventReasonHwSlowdown=0x8,
            nvmlClocksEventReasonSwThermalSlowdown=0x20,
            nvmlClocksEventReasonHwThermalSlowdown=0x40,
            nvmlClocksEventReasonHwPowerBrakeSlowdown=0x80,
        )
        self.asked = []
        self._answers = {
            "nvmlDeviceGetHandleByPciBusId": "gpu",
            "nvmlDeviceGetName": "NVIDIA L4",
            "nvmlDeviceGetClockInfo": {1: 1200, 2: 6251},
            "nvmlDeviceGetMaxClockInfo": 2040,
            "nvmlDeviceGetTemperature": 83,
            "nvmlDeviceGetPowerUsage": 71500,
            "nvmlDeviceGetCurrentClocksEventReasons": 0x4 | 0x20 | 0x2 | 0x1,
            "nvmlDeviceGetComputeRunningProcesses": ["us", "them"],
        } | answers

    def __getattr__(self, name):
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def call(*arguments):
            self.asked.append(name)
            answer = self._answers.get(name)
            if isinstance(answer, Exception):
                raise answer
            return answer[arguments[1]] if isinstance(answer, dict) else answer

        return call


@pytest.fixture
def fake(monkeypatch):
    def install(**answers):
        nvml = FakeNVML(**answers)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    return install


def test_the_state_is_in_megahertz_degrees_and_watts(fake):
    nvml = fake()
    state = read_state("0000:65:00.0")
    assert (state.name, state.sm_mhz, state.memory_mhz, state.max_sm_mhz) == ("NVIDIA L4", 1200, 6251, 2040)
    assert (state.temperature, state.watts, state.processes) == (83, 71.5, 2)
    assert nvml.asked[0] == "nvmlInit"
    assert nvml.asked[-1] == "nvmlShutdown"


def test_an_idle_gpu_and_clocks_that_were_set_are_no_throttling(fake):
    fake()
    assert read_state("x").throttled == ("power cap", "temperature")
    fake(nvmlDeviceGetCurrentClocksEventReasons=0x1 | 0x2)
    assert read_state("x").throttled == ()


def test_what_a_gpu_does_not_tell_is_left_out(fake):
    unknown = FakeNVMLError("Not Supported")
    fake(nvmlDeviceGetPowerUsage=unknown, nvmlDeviceGetCurrentClocksEventReasons=unknown,
         nvmlDeviceGetComputeRunningProcesses=unknown)  # fmt: skip
    state = read_state("x")
    assert (state.watts, state.throttled, state.processes, state.sm_mhz) == (None, (), None, 1200)


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetHandleByPciBusId"])
def test_a_machine_that_nvml_does_not_know_has_no_state(fake, call):
    nvml = fake(**{call: FakeNVMLError("no")})
    assert read_state("x") is None
    assert ("nvmlShutdown" in nvml.asked) is (call != "nvmlInit")


def test_without_the_package_there_is_no_state(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_state("x") is None


@pytest.mark.skipif(importlib.util.find_spec("pynvml") is None, reason="needs nvidia-ml-py")
def test_every_name_is_in_the_real_package(fake):
    import pynvml

    nvml = fake()
    read_state("x")
    sys.modules["pynvml"] = pynvml
    for name in (*nvml.asked, *nvml._REASONS.values(), "NVMLError", "NVML_CLOCK_SM", "NVML_TEMPERATURE_GPU"):
        assert hasattr(pynvml, name), name
    if not has_driver():
        assert read_state("0000:65:00.0") is None
