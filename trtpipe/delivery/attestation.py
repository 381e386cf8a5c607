"""Where a build comes from, as a SLSA provenance 1.0 statement: in a DSSE envelope where a key signs it, else bare.

The statement is about what the build made: engines and the lowered graph, by the digest of their content, which is that
of the decrypted content in an encrypted package. Sources: SLSA 1.0, Build: Provenance; in-toto Statement 1.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from trtpipe.config.redaction import without_secrets
from trtpipe.delivery.envelope import STATEMENT_TYPE, Envelope, statement
from trtpipe.delivery.schema import load_object
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

    from trtpipe.delivery.assembly import Assembly
    from trtpipe.delivery.keys import Signer
    from trtpipe.delivery.policy import Requirements
    from trtpipe.delivery.reader import Package
    from trtpipe.delivery.record import Model
    from trtpipe.regression.bundle import Build
    from trtpipe.report.provenance import Provenance

#: Names of the file: a bare statement, and one in an envelope.
BARE, SIGNED = "provenance.intoto.json", "provenance.dsse.json"
PREDICATE = "https://slsa.dev/provenance/v1"
#: What the parameters mean, and who built: URIs that docs/signing.md explains.
BUILD_TYPE, BUILDER = "urn:trtpipe:build:v1", "urn:trtpipe:builder:local"
_AGAIN = "get the package again from whoever signed it"

#: The version of a package, not of a format.
_VERSION = re.compile(r"\d+\.\d[\w.+-]*")


@dataclass(frozen=True)
class AttestedProvenance:
    """What the provenance of a package says.

    Attributes:
        source: what the model was built from.
        commit: git commit of the repository that it was built in; empty where none is known.
        dirty: whether there were uncommitted changes; ``None`` where no commit is known.
        created: when it was built, in UTC (ISO 8601); empty where that is not known.
        signed: whether it is in an envelope, signed by who signed the package.
    """

    source: str
    commit: str
    dirty: bool | None
    created: str
    signed: bool


def with_provenance(
    assembly: Assembly, build: Build, origin: Provenance | None, signer: Signer | None, folder: Path
) -> Assembly:
    """The package with its provenance, written into ``folder``; what looks like a secret in it is taken out.

    Args:
        origin: what the build recorded; ``None`` where there is no such record.
        signer: signs it; ``None`` for a bare statement.
    """
    return with_predicate(assembly, predicate_of(build, origin), signer, folder)


def with_predicate(assembly: Assembly, predicate: dict[str, Any], signer: Signer | None, folder: Path) -> Assembly:
    """The package with this provenance of its engines and graph; see ``with_provenance``."""
    assembly = assembly.listed()
    payload = statement(_subjects(assembly.model), PREDICATE, _without_secrets(predicate))
    path = folder / (BARE if signer is None else SIGNED)
    path.write_bytes(payload if signer is None else signer.sign(payload).to_dsse())
    added = assembly.with_file(path)
    return replace(added, model=replace(added.model, provenance=path.name))


def read_provenance(package: Package, key: ec.EllipticCurvePublicKey | None = None) -> AttestedProvenance | None:
    """The provenance of a package; ``None`` where there is none.

    Args:
        key: of who signed the package; an envelope has to be signed with it. ``None``: its signature is not checked.

    Raises:
        InputError: it is no such statement, is signed by another signer, or is about other files.
    """
    name = package.model.provenance
    if not name:
        return None
    path, data = package.path / name, package.read(name)
    signed = name == SIGNED
    if signed:
        envelope = Envelope.parse_dsse(data, path)
        data = envelope.payload
        if key is not None:
            from trtpipe.delivery import keys

            if envelope.key != keys.fingerprint(key) or not keys.is_signed(envelope.signed, envelope.signature, key):
                raise InputError(f"{path}: not signed by who signed the package", _AGAIN)
    content = load_object(data, path)
    try:
        if content["_type"] != STATEMENT_TYPE or content["predicateType"] != PREDICATE:
            raise InputError(f"{path}: not a SLSA provenance 1.0 statement", _AGAIN)
        stated = {subject["name"]: subject["digest"]["sha256"] for subject in content["subject"]}
        definition, details = content["predicate"]["buildDefinition"], content["predicate"]["runDetails"]
        sources = [each for each in definition["resolvedDependencies"] if "gitCommit" in each.get("digest", {})]
        code: dict[str, Any] = sources[0] if sources else {}
        found = AttestedProvenance(
            source=str(definition["externalParameters"]["source"]),
            commit=str(code.get("digest", {}).get("gitCommit", "")),
            dirty=code.get("annotations", {}).get("dirty"),
            created=str(details.get("metadata", {}).get("finishedOn", "")),
            signed=signed and key is not None,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a statement as trtpipe writes it", _AGAIN) from error
    if stated != {subject["name"]: subject["digest"]["sha256"] for subject in _subjects(package.model)}:
        raise InputError(f"{path}: about other files than those of this package", _AGAIN)
    return found


def read_predicate(package: Package) -> dict[str, Any] | None:
    """What the provenance of a package says, whoever signed it; ``None`` where there is none.

    Raises:
        InputError: it is no such statement, or is about other files.
    """
    if read_provenance(package) is None:
        return None
    name = package.model.provenance
    path, data = package.path / name, package.read(name)
    content = load_object(Envelope.parse_dsse(data, path).payload if name == SIGNED else data, path)
    predicate: dict[str, Any] = content["predicate"]
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    found = (definition["externalParameters"], definition.get("internalParameters"), details.get("metadata"))
    if not all(isinstance(each, dict) for each in found):
        raise InputError(f"{path}: not a statement as trtpipe writes it", _AGAIN)
    return predicate


def unmet(require: Requirements, provenance: AttestedProvenance | None) -> Iterator[str]:
    """What a policy asks of the provenance and is not so, a sentence each."""
    if require.provenance and (provenance is None or not provenance.signed):
        yield "it has no signed provenance"
    if require.clean_source and (provenance is None or not provenance.commit or provenance.dirty is not False):
        yield "it was not built from a commit of a repository without uncommitted changes"


def _subjects(model: Model) -> list[dict[str, Any]]:
    graph = () if model.graph is None else (model.graph.file, *model.graph.data)
    names = (*(plan.file for plan in model.plans), *graph)
    return [{"name": name, "digest": {"sha256": model.content(name).sha256}} for name in names]


def predicate_of(build: Build, origin: Provenance | None) -> dict[str, Any]:
    """What the provenance of a build says; ``origin`` is what it recorded, ``None`` where there is no such record."""
    manifest = build.manifest
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "source": manifest.source,
                "precision": str(manifest.precision),
                "backend": manifest.backend,
                "targets": list(manifest.targets),
                "settings": manifest.to_dict()["settings"],
                **({"command": list(origin.command)} if origin is not None and origin.command else {}),
            },
            "internalParameters": {} if origin is None else {"machine": origin.machine},
            "resolvedDependencies": list(_dependencies(build, origin)),
        },
        "runDetails": {
            "builder": {"id": BUILDER, "version": {"trtpipe": manifest.trtpipe}},
            "metadata": {} if origin is None else {"finishedOn": origin.created},
            "byproducts": [
                {"name": file.name, "digest": {"sha256": file.sha256}}
                for entry in manifest.artifacts
                for file in entry.files
                if entry.label in ("parity", "latency")
            ],
        },
    }


def _dependencies(build: Build, origin: Provenance | None) -> Iterator[dict[str, Any]]:
    """What the build read: code, model, data, tools."""
    manifest = build.manifest
    if origin is not None and origin.git is not None:
        annotations = {"dirty": origin.git.dirty}
        yield {"name": "repository", "digest": {"gitCommit": origin.git.commit}, "annotations": annotations}
    for entry in manifest.artifacts:
        if entry.label == "model":
            for file in entry.files:
                yield {"name": file.name, "digest": {"sha256": file.sha256}, "annotations": {"from": manifest.source}}
    values = {"digestOf": "the samples' values, whatever files and batches they come in"}
    if manifest.calibration is not None:
        data = manifest.calibration
        yield {
            "name": f"calibration data: {data.source}",
            "digest": {"sha256": data.digest},
            "annotations": {**values, "samples": data.samples},
        }
    parity = build.parity
    if parity is not None and parity.data_digest and not parity.synthetic:
        yield {
            "name": f"evaluation data: {parity.data}",
            "digest": {"sha256": parity.data_digest},
            "annotations": {**values, "samples": parity.samples},
        }
    for name, version in tools(manifest.toolchain):
        yield {"uri": package_url(name, version)}


def tools(toolchain: Mapping[str, str]) -> list[tuple[str, str]]:
    """Name and version of the packages that took part in a build; a toolchain says other things, too (``gpu``)."""
    found = set()
    for name, text in toolchain.items():
        package, _, version = text.rpartition(" ")  # "torch-tensorrt-rtx 2.13.0" says which package is meant
        if _VERSION.fullmatch(version):
            found.add((package or name, version))
    return sorted(found)


def package_url(name: str, version: str) -> str:
    """How bills of materials name a package of PyPI (purl)."""
    return f"pkg:pypi/{name.lower()}@{quote(version, safe='')}"


def _without_secrets(value: Any) -> Any:
    """The same values; what looks like a secret in a text is taken out."""
    if isinstance(value, dict):
        return {key: _without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return without_secrets(value) if isinstance(value, str) else value
