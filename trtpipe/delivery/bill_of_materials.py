"""What a model was made of, as a CycloneDX 1.6 bill of materials (ML-BOM): the model and its card, the data that it was
calibrated and evaluated with, and the packages that built it. Source: the CycloneDX 1.6 specification (ECMA-424).
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trtpipe.delivery.attestation import package_url, tools
from trtpipe.delivery.schema import load_object
from trtpipe.digest import sha256_json
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trtpipe.delivery.assembly import Assembly
    from trtpipe.delivery.reader import Package
    from trtpipe.delivery.record import Model
    from trtpipe.regression.bundle import Build

#: Name of the file.
BOM = "bom.cdx.json"
_MODEL, _CALIBRATION, _EVALUATION = "model", "data:calibration", "data:evaluation"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:trtpipe:bom")


@dataclass(frozen=True)
class Parts:
    """What a bill of materials says besides what ``model.json`` does, in CycloneDX's own words.

    Attributes:
        data: what the model was calibrated and evaluated with.
        packages: that took part.
        metrics: of the evaluation.
    """

    data: tuple[dict[str, Any], ...]
    packages: tuple[dict[str, Any], ...]
    metrics: tuple[dict[str, Any], ...]

    @classmethod
    def of_build(cls, build: Build) -> Parts:
        """Those of a build."""
        metrics = (
            {"type": each.metric, "value": f"{each.value:.6g}", "slice": f"{each.artifact}, {each.samples} samples"}
            for each in (() if build.parity is None else build.parity.metrics)
        )
        packages = (_package(name, version) for name, version in tools(build.manifest.toolchain))
        return cls(tuple(_data(build)), tuple(packages), tuple(metrics))

    @classmethod
    def of_package(cls, package: Package) -> Parts | None:
        """Those of a package's bill of materials; ``None`` where it has none.

        Raises:
            InputError: it is not one as trtpipe writes it.
        """
        if not package.model.bill_of_materials:
            return None
        path = package.path / package.model.bill_of_materials
        document = load_object(package.read(path.name), path)
        try:
            card = document["metadata"]["component"]["modelCard"]
            metrics = card.get("quantitativeAnalysis", {}).get("performanceMetrics", [])
            data, packages = (
                tuple(each for each in document["components"] if each["type"] == kind and each["bom-ref"])
                for kind in ("data", "library")
            )
        except (KeyError, TypeError, AttributeError) as error:
            remedy = "get the package again from whoever made it"
            raise InputError(f"{path}: not a bill of materials as trtpipe writes it", remedy) from error
        return cls(data, packages, tuple(metrics))

    def with_tool(self, name: str, version: str) -> Parts:
        """With one more package that took part."""
        tool = _package(name, version)
        return replace(self, packages=(*(each for each in self.packages if each != tool), tool))


def with_bill_of_materials(assembly: Assembly, parts: Parts, folder: Path) -> Assembly:
    """The package with its bill of materials, written into ``folder``; equal packages give equal bytes."""
    assembly = assembly.listed()
    document = json.dumps(bill_of_materials(assembly.model, parts), indent=2, sort_keys=True, ensure_ascii=False)
    (folder / BOM).write_text(document + "\n", encoding="utf-8")
    added = assembly.with_file(folder / BOM)
    return replace(added, model=replace(added.model, bill_of_materials=BOM))


def bill_of_materials(model: Model, stated: Parts) -> dict[str, Any]:
    """The document."""
    parts = [*stated.data, *stated.packages]
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "trtpipe", "version": model.trtpipe}]},
            "component": _component(model, stated),
        },
        "components": parts,
        "dependencies": [
            {"ref": _MODEL, "dependsOn": [each["bom-ref"] for each in parts]},
            *({"ref": each["bom-ref"]} for each in parts),
        ],
    }
    return {**document, "serialNumber": uuid.uuid5(_NAMESPACE, sha256_json(document)).urn}


def _component(model: Model, stated: Parts) -> dict[str, Any]:
    verdict = model.verdict
    properties = {
        "precision": model.precision, "backend": model.backend, "source": model.source, "verdict": verdict.headline,
        "verdict scope": verdict.scope, "targets": ", ".join(plan.target for plan in model.plans),
    }  # fmt: skip
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": model.name,
        "modelCard": _card(model, stated),
        "components": list(_files(model)),
        "properties": [{"name": f"trtpipe:{name}", "value": value} for name, value in properties.items() if value],
    }
    if model.licenses:
        component["licenses"] = [{"license": {"name": name}} for name in model.licenses]
    for name, value in (("version", model.version), ("description", model.description)):
        if value:
            component[name] = value
    return component


def _card(model: Model, stated: Parts) -> dict[str, Any]:
    card: dict[str, Any] = {
        "modelParameters": {
            **({"task": "classification"} if model.classes else {}),
            "datasets": [{"ref": each["bom-ref"]} for each in stated.data],
            "inputs": [{"format": _format(tensor)} for tensor in model.inputs],
            "outputs": [{"format": _format(tensor)} for tensor in model.outputs],
        }
    }
    if stated.metrics:
        card["quantitativeAnalysis"] = {"performanceMetrics": list(stated.metrics)}
    if model.notes:
        card["considerations"] = {"technicalLimitations": list(model.notes)}
    return card


def _format(tensor: Any) -> str:
    words = ", ".join(word for word in (tensor.meaning, tensor.unit) if word)
    return f"{tensor} ({words})" if words else str(tensor)


def _files(model: Model) -> Iterator[dict[str, Any]]:
    """Engines and the graph: their content, decrypted where it is encrypted."""
    graph = () if model.graph is None else (model.graph.file, *model.graph.data)
    for name in (*(plan.file for plan in model.plans), *graph):
        yield {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": _sha256(model.content(name).sha256)}


def _data(build: Build) -> Iterator[dict[str, Any]]:
    """The digest is of the samples' values, whatever files and batches they come in."""
    calibration, parity = build.manifest.calibration, build.parity
    if calibration is not None:
        yield _dataset(_CALIBRATION, "calibration data", calibration.source, calibration.samples, calibration.digest)
    if parity is not None and parity.data_digest and not parity.synthetic:
        yield _dataset(_EVALUATION, "evaluation data", parity.data, parity.samples, parity.data_digest)


def _dataset(ref: str, name: str, source: str, samples: int, digest: str) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": ref,
        "name": name,
        "description": source,
        "hashes": _sha256(digest),
        "data": [{"type": "dataset", "name": name}],
        "properties": [
            {"name": "trtpipe:samples", "value": str(samples)},
            {"name": "trtpipe:digest of", "value": "the samples' values"},
        ],
    }


def _package(name: str, version: str) -> dict[str, Any]:
    place = package_url(name, version)
    return {"type": "library", "bom-ref": place, "name": name, "version": version, "purl": place}


def _sha256(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest}]
