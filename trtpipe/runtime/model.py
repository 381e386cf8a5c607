"""A package that is ready to run."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from trtpipe.errors import InputError
from trtpipe.runtime.classes import Classified, best_classes
from trtpipe.runtime.selftest import SelfTest, self_test

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    import numpy as np

    from trtpipe.backends.device_array import DeviceArray
    from trtpipe.backends.inference import Session
    from trtpipe.delivery.reader import Package
    from trtpipe.delivery.record import Model, Plan, Tensor
    from trtpipe.runtime.feeds import Feeder, Given


class LoadedModel:
    """A model that can be called; see ``trtpipe.runtime.load``.

    Attributes:
        package: its files.
        device: what runs it, for people.
        plan: the engine; ``None`` for the lowered graph on the CPU.
    """

    def __init__(
        self, package: Package, session: Session, feeder: Feeder, device: str, plan: Plan | None, stack: ExitStack
    ) -> None:
        self.package = package
        self.device = device
        self.plan = plan
        self._session: Session | None = session
        self._feeder = feeder
        self._stack = stack

    @property
    def model(self) -> Model:
        """All that ``model.json`` says: meanings and units, tolerances, the verdict."""
        return self.package.model

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Names, types and shapes, in the graph's order."""
        return self.model.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """Names, types and shapes, in the graph's order."""
        return self.model.outputs

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers; empty where only the numbers are known."""
        return self.model.classes

    def __call__(self, given: Given) -> dict[str, np.ndarray]:
        """Run once.

        Args:
            given: for a model with one input, an array with the batch axis, an image file (a path, or its content in
                bytes) or a list of these; else input name -> such a thing. Arrays may be in host memory or
                (``__dlpack__``) on the GPU, contiguous and of the input's own type. Image files become one batch,
                prepared as in calibration.

        Returns:
            Output name -> array in host memory, its own.

        Raises:
            InputError: what is given does not fit the model; the message names the input. Or the model was closed.
            StageError: TensorRT fails.

        Example:
            >>> model(np.zeros((2, 1, 8, 8), np.float32))["logits"].shape
            (2, 10)
        """
        return self._opened().run(self._feeder.feed(given))  # type: ignore[return-value]

    def on_device(self, given: Given) -> dict[str, DeviceArray]:
        """As a call, with outputs that stay on the GPU, for any library that takes DLPack.

        Example:
            >>> torch.from_dlpack(model.on_device(x)["logits"])  # doctest: +SKIP
        """
        return self._opened().run(self._feeder.feed(given), on_device=True)  # type: ignore[return-value]

    def best_classes(self, outputs: Mapping[str, np.ndarray], output: str = "") -> list[Classified]:
        """The best class of every sample, from what a call gave, as ``model.json`` says that its output is read.

        Args:
            output: which output to read; empty where one alone holds scores of classes.

        Raises:
            InputError: the package does not say which output holds scores of classes, several do and none is named, or
                scores are not numbers.

        Example:
            >>> model.best_classes(model(["seven.png"]))  # doctest: +SKIP
            [Classified(name='seven', score=0.97)]
        """
        return best_classes(self.model, outputs, output)

    def selftest(self) -> SelfTest:
        """Run the package's reference inputs, and compare with its reference outputs within its tolerances.

        Raises:
            InputError: the package has no reference inputs.
        """
        return self_test(self.package, self, self.device, self.plan.file if self.plan else "")

    def close(self) -> None:
        """Give back all memory; the model can no longer be called."""
        self._session = None
        self._stack.close()

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> Session:
        if self._session is None:
            raise InputError(f"{self.package.path}: the model was closed", "load it again")
        return self._session
