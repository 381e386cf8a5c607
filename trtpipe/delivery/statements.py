"""What a package states of its making, provenance and bill of materials, on its way through a hand-over.

A hand-over carries the statements of its build, about the lowered graph alone; the package of the engine that was built
there states that engine as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trtpipe.delivery.attestation import package_url, predicate_of, read_predicate, with_predicate
from trtpipe.delivery.bill_of_materials import Parts, with_bill_of_materials

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.delivery.assembly import Assembly
    from trtpipe.delivery.handover import TakenBack
    from trtpipe.delivery.keys import Signer
    from trtpipe.delivery.reader import Package
    from trtpipe.regression.bundle import Build
    from trtpipe.report.provenance import Provenance


@dataclass(frozen=True)
class Statements:
    """What is stated, before it is known of which files.

    Attributes:
        predicate: of the provenance; ``None``: the package it came from had none.
        parts: of the bill of materials; ``None``: the package it came from had none.
    """

    predicate: dict[str, Any] | None
    parts: Parts | None

    @classmethod
    def of_build(cls, build: Build, origin: Provenance | None) -> Statements:
        """Those of a build; ``origin`` is what it recorded, ``None`` where there is no such record."""
        return cls(predicate_of(build, origin), Parts.of_build(build))

    @classmethod
    def of_package(cls, package: Package) -> Statements:
        """Those that a package holds; who signed them is left out.

        Raises:
            InputError: one cannot be read, or is about other files.
        """
        return cls(read_predicate(package), Parts.of_package(package))

    def with_engine(self, back: TakenBack) -> Statements:
        """Of the build and of the engine that another machine built: finished there, with TensorRT as one more tool."""
        flavor, version = back.engine.flavor, back.engine.version
        predicate, parts = self.predicate, self.parts
        if predicate is not None:
            definition, details = predicate["buildDefinition"], predicate["runDetails"]
            parameters = {**definition["externalParameters"], "targets": [back.engine.target]}
            parameters["handover"] = back.job
            machines = {**definition["internalParameters"], "engineMachine": back.machine}
            tool = {"uri": package_url(flavor, version)}
            known = [each for each in definition["resolvedDependencies"] if each != tool]
            definition = {
                **definition, "externalParameters": parameters, "internalParameters": machines,
                "resolvedDependencies": [*known, tool],
            }  # fmt: skip
            lowered = details["metadata"].get("finishedOn")
            metadata = {**({"startedOn": lowered} if lowered else {}), "finishedOn": back.created}
            predicate = {"buildDefinition": definition, "runDetails": {**details, "metadata": metadata}}
        return Statements(predicate, None if parts is None else parts.with_tool(flavor, version))

    def added(self, assembly: Assembly, signer: Signer | None, folder: Path) -> Assembly:
        """The package with its statements, written into ``folder``.

        Args:
            signer: signs the provenance; ``None`` for a bare statement.
        """
        if self.predicate is not None:
            assembly = with_predicate(assembly, self.predicate, signer, folder)
        return assembly if self.parts is None else with_bill_of_materials(assembly, self.parts, folder)


def without_statements(assembly: Assembly) -> Assembly:
    """Without provenance and bill of materials, and without digests: what comes next has other files."""
    model = assembly.model
    own = (model.provenance, model.bill_of_materials)
    files = {name: path for name, path in assembly.files.items() if name not in own}
    return replace(assembly, model=replace(model, provenance="", bill_of_materials="", files=()), files=files)
