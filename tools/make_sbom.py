"""Write the software bill of materials (CycloneDX 1.6) of a release; ``make dist`` calls it.

    python tools/make_sbom.py SITE_PACKAGES dist

runs in the environment of ``requirements/tools.txt`` and describes the one in SITE_PACKAGES, which ``make venv`` made
and the tests pass with: every package that trtpipe needs, by version, license and dependencies, with the sha256 of
all files that the locks admit for it. What an extra brings is optional; what only the tests need is left out. Equal
environments and files give equal bytes; the document is checked against the schema.
"""

from __future__ import annotations

import hashlib
import re
import sys
import uuid
from datetime import datetime, timezone
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import TYPE_CHECKING

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER = Path(__file__).resolve().parent.parent / "requirements"
LOCKS = ("lock.txt", "torch-cuda.txt")
#: Extras that change nothing for a user of the package.
_NOT_SHIPPED = {"dev", "examples", "farm-tests"}
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)")


def main(arguments: list[str]) -> None:
    """Write ``trtpipe-<version>.cdx.json`` into the folder, beside the wheel and the source archive."""
    site, out = Path(arguments[0]), Path(arguments[1])
    installed = {canonicalize_name(one.name): one for one in distributions(path=[str(site)])}
    own = installed["trtpipe"]
    document = make(own, installed, sorted(path for path in out.iterdir() if path.suffix in {".whl", ".gz"}))
    if problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(document):
        raise SystemExit(f"the document is not CycloneDX 1.6: {problem}")
    path = out / f"trtpipe-{own.version}.cdx.json"
    path.write_text(document, encoding="utf-8")
    sys.stdout.write(f"{path}\n")


def make(own: Distribution, installed: dict[str, Distribution], files: list[Path]) -> str:
    """The document: ``own`` with the release's ``files``, and all that it reaches among the installed packages."""
    extras = set(own.metadata.get_all("Provides-Extra") or ()) - _NOT_SHIPPED
    required = _reached(_needs(own, set()), installed)
    reached = _reached(_needs(own, extras), installed)
    bom, locked = Bom(), _locked()
    digests = {path.name: [hashlib.sha256(path.read_bytes()).hexdigest()] for path in files}
    root = bom.metadata.component = _component(own, ComponentType.APPLICATION, None, digests)
    made = {}
    for name in reached:
        package, scope = installed[name], ComponentScope.REQUIRED if name in required else ComponentScope.OPTIONAL
        files_of = locked.get((name, package.version.partition("+")[0]), [])
        made[name] = _component(package, ComponentType.LIBRARY, scope, {_purl(package).to_string(): files_of})
        bom.components.add(made[name])
    bom.register_dependency(root, [made[name] for name in _needs(own, extras) if name in made])
    for name, component in made.items():
        bom.register_dependency(component, [made[need] for need in _needs(installed[name], set()) if need in made])
    bom.metadata.timestamp = datetime(1980, 1, 1, tzinfo=timezone.utc)  # the time of the files in the wheel
    content = f"{digests} {sorted(str(component.bom_ref) for component in made.values())}"
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_OID, content)
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def _needs(package: Distribution, extras: set[str]) -> set[str]:
    """What ``package`` asks for on this machine, with ``extras`` chosen."""
    environments = [{"extra": extra} for extra in ("", *extras)]
    requirements = map(Requirement, package.requires or ())
    return {
        canonicalize_name(one.name)
        for one in requirements
        if one.marker is None or any(one.marker.evaluate(environment) for environment in environments)
    }


def _reached(names: Iterable[str], installed: dict[str, Distribution]) -> list[str]:
    """``names`` and all that they need, as far as it is installed."""
    found: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        if name in installed and name not in found:
            found.add(name)
            waiting |= _needs(installed[name], set())
    return sorted(found)


def _locked() -> dict[tuple[str, str], list[str]]:
    """(name, version) -> the sha256 digests that the locks admit."""
    found: dict[tuple[str, str], list[str]] = {}
    for line in (line for lock in LOCKS for line in (FOLDER / lock).read_text(encoding="utf-8").splitlines()):
        if pin := _PIN.match(line):
            digests = found.setdefault((canonicalize_name(pin[1]), pin[2]), [])
        elif "--hash=sha256:" in line:
            digests.append(line.partition("sha256:")[2].rstrip(" \\"))
    return found


def _component(
    package: Distribution, kind: ComponentType, scope: ComponentScope | None, files: dict[str, list[str]]
) -> Component:
    purl = _purl(package)
    component = Component(
        name=purl.name, version=package.version, type=kind, scope=scope, purl=purl, bom_ref=purl.to_string(),
        external_references=[
            ExternalReference(
                type=ExternalReferenceType.DISTRIBUTION, url=XsUri(url),
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in digests],
            )
            for url, digests in files.items()
            if digests
        ],
    )  # fmt: skip
    if given := _license(package):
        component.licenses.add(
            LicenseFactory().make_from_string(given, license_acknowledgement=LicenseAcknowledgement.DECLARED)
        )
    return component


def _purl(package: Distribution) -> PackageURL:
    return PackageURL("pypi", None, canonicalize_name(package.name), package.version)


def _license(package: Distribution) -> str:
    """As the package declares it: an expression, a classifier, or the first line of a free text."""
    if expression := package.metadata["License-Expression"]:
        return expression
    classifiers = [line for line in package.metadata.get_all("Classifier") or () if line.startswith("License ::")]
    if len(classifiers) == 1:
        return classifiers[0].rpartition(" :: ")[2]
    return (package.metadata["License"] or "").strip().partition("\n")[0][:100]


if __name__ == "__main__":
    main(sys.argv[1:])
