"""The public functions on packages of several models: to make one, and the self-test of any package."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from trtpipe.api.packages import PackageResult, check_place, publish_package, signing_key
from trtpipe.api.remedies import explained
from trtpipe.config.paths import path_of, paths_of
from trtpipe.delivery import signing
from trtpipe.delivery.joining import joined, names_of
from trtpipe.delivery.reader import Package
from trtpipe.errors import InputError
from trtpipe.runtime import load
from trtpipe.runtime.selftest import together

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtpipe.config.paths import PathLike
    from trtpipe.delivery.policy import TrustPolicy
    from trtpipe.delivery.signing import SigningKey
    from trtpipe.runtime import SelfTest


@explained
def join_packages(
    packages: Iterable[PathLike],
    out: PathLike,
    *,
    name: str = "",
    version: str = "",
    sign: SigningKey | PathLike | None = None,
) -> PackageResult:
    """Put several models, such as those that share a GPU, into one package.

    It is verified, signed and tested as one. Each model is called as its package: ``trtpipe.runtime.load(out,
    model=...)``.

    Args:
        packages: two or more that ``make_package`` wrote; they go in as they are, with their own signatures.
        out: a folder, or a file that ends in ``.tar``; written whole or not at all.
        name: of all together (default: the models' names).
        version: of all together.
        sign: signs all together: a ``SigningKey``, the path of a PEM file, or the ``pkcs11:`` URI of one in a token.

    Raises:
        InputError: one is no package, was changed, or holds several models itself; two have one name; or the key cannot
            be used. Nothing was written.
        HostError: no space, no permission, or a package that signing needs is not installed.

    Example:
        >>> _ = trtpipe.make_package("out", "detector"), trtpipe.make_package("out", "reader")
        >>> [member.name for member in trtpipe.join_packages(["detector", "reader"], "both").model.members]
        ['detector', 'reader']
    """
    paths, target, key = paths_of(packages, "packages"), path_of(out, "out"), signing_key(sign)
    if target.resolve() in {path.resolve() for path in paths}:
        raise InputError(f"{target}: is one of the packages to join", "write to another place")
    check_place(target)
    given = {called: Package.opened(path) for called, path in zip(names_of(paths), paths, strict=True)}
    with (
        nullcontext() if key is None else signing.opened(key) as signer,
        TemporaryDirectory(prefix="trtpipe-") as temporary,
    ):
        work = Path(temporary)
        sealed = joined(given, name, version, work).sealed(work)
        publish_package(sealed if signer is None else signing.signed(sealed, signer, work), target, work)
    return PackageResult(target, sealed.model)


@explained
def selftest_package(
    package: PathLike,
    device: str = "cuda",
    *,
    policy: TrustPolicy | PathLike | None = None,
    identity: PathLike | None = None,
) -> SelfTest:
    """Run a package's reference inputs on this machine, and compare with its reference outputs within its tolerances.

    Where the package holds several models, all are loaded before the first is run, as an application has them.

    Args:
        package: a folder or a ``.tar`` that ``make_package`` or ``join_packages`` wrote.
        device: ``cuda``, ``cuda:1``, or ``cpu``; see ``trtpipe.runtime.load``, also for the other arguments.

    Raises:
        InputError: there is no package, it is not whole or trusted, or it has no reference inputs.
        HostError: it does not run here.

    Example:
        >>> _ = trtpipe.make_package("out", "package")
        >>> trtpipe.selftest_package("package", device="cpu").passed
        True
    """
    names = [member.name for member in Package.opened(path_of(package, "package")).model.members]
    with ExitStack() as stack:
        models = {
            name: stack.enter_context(load(package, device, model=name, policy=policy, identity=identity))
            for name in names or [""]
        }
        return together({name: model.selftest() for name, model in models.items()})
