"""Which plan of a package runs on a GPU, and why none does."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtpipe.backends.compatibility import accepts
from trtpipe.config.toolchain import version
from trtpipe.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.delivery.record import Model, Plan

#: Flavor -> the module that loads its plans.
_MODULES: Mapping[str, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@dataclass(frozen=True)
class Machine:
    """What decides which plans run.

    Attributes:
        capability: of the GPU, (major, minor).
        flavors: installed flavor -> its version.
    """

    capability: tuple[int, int]
    flavors: Mapping[str, str]

    @classmethod
    def here(cls, capability: tuple[int, int]) -> Machine:
        """This machine, with a GPU of that compute capability. Imports no flavor."""
        installed = {name: version(name) for name, module in _MODULES.items() if importlib.util.find_spec(module)}
        return cls(capability, {name: found or "" for name, found in installed.items()})


def choose_plan(model: Model, machine: Machine, where: str) -> Plan:
    """The plan for the GPU; of several the one made for it, and of these the newest.

    Args:
        where: the package, for the error.

    Raises:
        HostError: none fits; the message says of each why.
    """
    reasons = {plan.file: why_not(plan, machine) for plan in model.plans}
    fitting = [plan for plan in model.plans if not reasons[plan.file]]
    if fitting:
        return max(fitting, key=lambda plan: (_capability(plan) == machine.capability, _numbers(plan.version)))
    wanted = f"sm{machine.capability[0]}{machine.capability[1]}"
    said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "it has no plan"
    raise HostError(
        f"{where}: no plan runs on this GPU ({wanted}): {said}",
        f'build with --target {wanted} and the TensorRT that is installed here, or use the device "cpu"',
    )


def why_not(plan: Plan, machine: Machine) -> str:
    """Why a plan does not run on a machine; empty if it does."""
    if plan.flavor not in _MODULES:
        return f"a placeholder of the back-end {plan.flavor!r}, which no GPU runs"
    made, here = _capability(plan), machine.capability
    if made != here and not (plan.and_later and made < here):
        return f"it is for {plan.target}"
    if (installed := machine.flavors.get(plan.flavor)) is None:
        return f"it needs {plan.flavor} {plan.version}, which is not installed"
    if installed and not accepts(installed, plan.version, compatible=plan.version_compatible):
        return f"{plan.flavor} {plan.version} built it, {installed} is installed"
    return ""


def _capability(plan: Plan) -> tuple[int, int]:
    digits = plan.target.removeprefix("sm")
    return (int(digits[:-1]), int(digits[-1])) if digits.isdigit() and len(digits) > 1 else (0, 0)


def _numbers(version_: str) -> Sequence[int]:
    return tuple(int(part) for part in version_.split(".") if part.isdigit())
