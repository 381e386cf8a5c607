"""Clocks, temperature and throttling of a GPU, read from NVML if nvidia-ml-py is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trtpipe.backends.timing import DeviceState

#: Throttling reasons and their NVML bits. Reduced clocks of an idle GPU, or set by a user, are not throttling.
_REASONS = {
    "power cap": "nvmlClocksEventReasonSwPowerCap",
    "hardware slowdown": "nvmlClocksEventReasonHwSlowdown",
    "temperature": "nvmlClocksEventReasonSwThermalSlowdown",
    "temperature (hardware)": "nvmlClocksEventReasonHwThermalSlowdown",
    "power brake": "nvmlClocksEventReasonHwPowerBrakeSlowdown",
}


def read_state(bus_id: str) -> DeviceState | None:
    """The GPU at a PCI address now; ``None`` without nvidia-ml-py, or if NVML does not know it (Jetson).

    Args:
        bus_id: as ``0000:65:00.0``.
    """
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        try:
            return _read(pynvml, pynvml.nvmlDeviceGetHandleByPciBusId(bus_id))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def _read(nvml: Any, gpu: Any) -> DeviceState:
    def asked(call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(gpu, *arguments)
        except nvml.NVMLError:  # not every GPU reports everything
            return None

    bits = asked(nvml.nvmlDeviceGetCurrentClocksEventReasons) or 0
    milliwatts = asked(nvml.nvmlDeviceGetPowerUsage)
    running = asked(nvml.nvmlDeviceGetComputeRunningProcesses)
    return DeviceState(
        name=nvml.nvmlDeviceGetName(gpu),
        sm_mhz=asked(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
        memory_mhz=asked(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
        max_sm_mhz=asked(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM),
        temperature=asked(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        watts=None if milliwatts is None else milliwatts / 1e3,
        throttled=tuple(reason for reason, name in _REASONS.items() if bits & getattr(nvml, name)),
        processes=None if running is None else len(running),
    )
