"""From a package to a model that can be called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, cast

from trtpipe.config.paths import path_of, paths_of
from trtpipe.delivery.reader import Package
from trtpipe.digest import sha256_file
from trtpipe.errors import InputError
from trtpipe.runtime.feeds import Feeder
from trtpipe.runtime.model import LoadedModel

if TYPE_CHECKING:
    from typing import Literal

    from trtpipe.config.paths import PathLike
    from trtpipe.delivery.policy import TrustPolicy
    from trtpipe.delivery.record import Plan

_CUDA = re.compile(r"cuda(?::(\d{1,3}))?")


def load(
    package: PathLike,
    device: str = "cuda",
    *,
    model: str = "",
    cuda_graph: bool = True,
    plugins: Sequence[PathLike] = (),
    policy: TrustPolicy | PathLike | None = None,
    identity: PathLike | None = None,
) -> LoadedModel:
    """Open a package: the plan that fits the GPU, or the lowered graph on the CPU.

    Nothing may be in the package that ``model.json`` does not list, and every file is checked against the package's
    digests before anything native reads a byte of it. ``load`` never changes the device by itself: an application that
    is to run on a GPU fails where there is none.

    Args:
        package: a folder or a ``.tar`` that ``trtpipe package make`` wrote.
        device: ``cuda``, ``cuda:1``, or ``cpu``.
        model: which one, where the package holds several.
        cuda_graph: launch the kernels of equal shapes as one CUDA graph, from the second call on.
        plugins: libraries with the plug-ins of the plan; each is checked against the digest of the build's.
        policy: whom to trust, and what to ask of the package: a ``TrustPolicy``, or a TOML file. Without one, a
            signature is not looked at.
        identity: a file with the age identities (or an SSH key) that decrypt the package, in memory.

    Raises:
        InputError: there is no package, it is cut short, changed, of a newer schema, not trusted, or encrypted to
            somebody else; it has several models and none is named; or an argument is wrong.
        HostError: no plan runs on this machine's GPU (the message says of each why), or a package is missing.

    Example:
        >>> model = trtpipe.runtime.load("package", device="cpu")
        >>> model(np.zeros((1, 1, 8, 8), np.float32))["logits"].shape
        (1, 10)
    """
    found = Package.opened(path_of(package, "package"))
    found.check_complete()
    found = _chosen(_trusted(found, policy, identity), model)
    libraries = paths_of(plugins, "plugins")
    if missing := [path for path in libraries if not path.is_file()]:
        raise InputError(f"plugins: {missing[0]}: no such file", "give an existing library")
    if device == "cpu":
        return _on_cpu(found)
    match = _CUDA.fullmatch(device) if isinstance(device, str) else None
    if match is None:
        raise InputError(f"device: {device!r} is no device", 'give "cuda", "cuda:1" or "cpu"')
    return _on_gpu(found, int(match[1] or 0), libraries, cuda_graph=cuda_graph)


def _trusted(package: Package, policy: TrustPolicy | PathLike | None, identity: PathLike | None) -> Package:
    """The package, which someone trusted signed, and whose files can be read."""
    if policy is not None:
        from trtpipe.delivery.policy import TrustPolicy
        from trtpipe.delivery.signing import verify

        verify(package, policy if isinstance(policy, TrustPolicy) else TrustPolicy.load(path_of(policy, "policy")))
    if identity is None:
        return package
    from trtpipe.delivery.encryption import Identities

    return package.with_identities(Identities.load(path_of(identity, "identity")))


def _chosen(package: Package, model: str) -> Package:
    """The package of the model that is asked for."""
    if not model and package.model.members:
        names = ", ".join(member.name for member in package.model.members)
        raise InputError(f"{package.path}: holds several models", f"name one with model=...: {names}")
    if not model:
        return package
    found = package.member(model)
    found.check_complete()
    return found


def _on_cpu(package: Package) -> LoadedModel:
    from trtpipe.runtime.cpu import open_graph

    with ExitStack() as stack:
        session, words = stack.enter_context(open_graph(package))
        # the shapes that no plan takes are refused here, too
        profiles = [profile for plan in package.model.plans for profile in plan.profiles]
        static = any(not plan.profiles for plan in package.model.plans)
        feeder = Feeder(package.model, [] if static else profiles)
        return LoadedModel(package, session, feeder, words, None, stack.pop_all())


def _on_gpu(package: Package, device: int, plugins: Sequence[Path], *, cuda_graph: bool) -> LoadedModel:
    from trtpipe.backends.inference import EngineBytes, device_capabilities, open_on_gpu
    from trtpipe.runtime.plans import Machine, choose_plan

    capabilities = device_capabilities()
    if device >= len(capabilities):
        raise InputError(f"device: there is no GPU {device}", f"there are {len(capabilities)}, from cuda:0 on")
    plan = choose_plan(package.model, Machine.here(capabilities[device]), str(package.path))
    flavor = cast("Literal['tensorrt', 'tensorrt-rtx']", plan.flavor)
    engine = EngineBytes(plan.file, flavor, package.read(plan.file), _checked_plugins(plan, plugins))
    with ExitStack() as stack:
        session = stack.enter_context(open_on_gpu(engine, device, cuda_graph=cuda_graph))
        feeder = Feeder(package.model, plan.profiles, device, session.stream)
        words = f"{plan.flavor} {plan.version} on cuda:{device}"
        return LoadedModel(package, session, feeder, words, plan, stack.pop_all())


def _checked_plugins(plan: Plan, given: Sequence[Path]) -> Sequence[Path]:
    """The libraries of a plan's plug-ins: the very files that the build had."""
    found = {path.name: path for path in given}
    for name, digest in plan.plugins.items():
        if name not in found:
            raise InputError(f"{plan.file}: needs the plug-in library {name}", "give its path in plugins=[...]")
        if not found[name].is_file() or sha256_file(found[name]) != digest:
            raise InputError(f"{found[name]}: not the library that {plan.file} was built with", "give that one")
    return [found[name] for name in plan.plugins]
