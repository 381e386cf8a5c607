"""What a package is turned into: a folder for a machine that builds, a model repository of Triton, or both."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.config.paths import path_of
from trtpipe.config.profile import BuildSettings, DeploymentProfile
from trtpipe.config.target import find_target
from trtpipe.config.tomlfile import load_toml
from trtpipe.config.triton import TritonSettings
from trtpipe.delivery.assembly import opened
from trtpipe.delivery.handover import hand_over, is_handover, profiles_of, taken_back
from trtpipe.delivery.reader import TAR, Package
from trtpipe.delivery.record import FINISHED, MODEL
from trtpipe.delivery.statements import Statements, without_statements
from trtpipe.delivery.triton import repository
from trtpipe.delivery.triton_config import CONFIG
from trtpipe.delivery.triton_existing import check_existing
from trtpipe.errors import InputError
from trtpipe.pipeline.publish import BUNDLE, publish_tree

if TYPE_CHECKING:
    from trtpipe.api.arguments import OptionsLike, TritonLike
    from trtpipe.delivery.assembly import Assembly
    from trtpipe.delivery.record import Model

#: Folders of a hand-over with a model repository.
HANDOVER, REPOSITORY = "handover", "repository"


@dataclass(frozen=True)
class Conversion:
    """What a package becomes.

    Attributes:
        triton: settings of a model repository; ``None``: none is made.
        target: whose machine builds; empty: the plans that are there are served.
        options: of the builder there; ``None``: those of the build.
    """

    triton: TritonSettings | None
    target: str
    options: BuildSettings | None

    @classmethod
    def asked(cls, triton: TritonLike, handover: str, options: OptionsLike | None) -> Conversion | None:
        """As the arguments of ``make_package`` say; ``None``: the package itself is wanted.

        Raises:
            InputError: an argument is of another type, or there is no such target.
            RecipeError: a file of settings has a mistake.
        """
        if not isinstance(handover, str):
            raise InputError(f"handover: {handover!r} is no name of a GPU", 'give a str such as "orin"')
        target = find_target(handover).name if handover else ""
        wanted = None
        if isinstance(triton, bool):
            wanted = TritonSettings() if triton else None
        elif isinstance(triton, TritonSettings):
            wanted = triton
        else:
            wanted = TritonSettings.load(path_of(triton, "triton", "give True, a trtpipe.TritonSettings, or its file"))
        if options is not None and not isinstance(options, BuildSettings):
            remedy = "give a trtpipe.BuildSettings, or the path of a TOML file"
            options = load_toml(path_of(options, "handover_options", remedy), BuildSettings)
        if options is not None and not target:
            raise InputError("handover_options: nothing is handed over", "add --handover TARGET")
        if wanted is not None and target and wanted.backend == "onnxruntime":
            raise InputError(
                "the onnxruntime back-end needs no plan, so nothing is handed over", "leave one of both out"
            )
        return cls(wanted, target, options) if wanted is not None or target else None

    def publish(
        self, assembly: Assembly, statements: Statements, profile: DeploymentProfile, out: Path, work: Path
    ) -> tuple[Model, tuple[str, ...]]:
        """Write it into ``out``.

        Args:
            assembly: a package that is not sealed yet.
            statements: of its making, which a hand-over carries on.
            profile: the build's own.
            work: private.

        Returns:
            What is said of the model, and notes for the user.

        Raises:
            InputError: the package does not fit, or ``out`` holds what is another's; nothing was written.
        """
        if out.suffix == TAR:
            raise InputError(f"{out}: a {TAR} holds a package, and this is a folder", "choose a folder with -o")
        for name in (BUNDLE.name, MODEL):
            if os.path.lexists(out / name) and (name != MODEL or self.triton is not None):
                raise InputError(f"{out}: a build or a package lies there", "choose another output folder with -o")
        files: dict[str, Path] = {}
        notes: tuple[str, ...] = ()
        model = assembly.model
        awaited, beside = "", self.triton is not None and bool(self.target)
        if self.triton is not None:
            profiles = profiles_of(assembly.model, profile) if self.target else None
            made = repository(assembly, self.triton, work, profiles=profiles)
            within = f"{REPOSITORY}/" if beside else ""
            check_existing(made, out / within)
            files |= {f"{within}{name}": path for name, path in made.files.items()}
            awaited = f"../{within}{made.plan}" if made.plan else ""
            notes = made.notes
        if self.target:
            own = work / HANDOVER
            own.mkdir()
            target = find_target(self.target)
            asked = profile if self.options is None else profile.model_copy(update={"build": self.options})
            handed = hand_over(assembly, target, asked, own, awaited)
            sealed = statements.added(handed, None, own).sealed(own)
            model, within = sealed.model, f"{HANDOVER}/" if beside else ""
            files |= {f"{within}{name}": path for name, path in sealed.files.items()}
            notes = (*notes, f"not built: run python3 finish.py in {out / within} on {target} ({target.family})")
            missing = [] if sealed.model.reference else ["no reference outputs: plug-in nodes do not run on a CPU"]
            notes = (*notes, *missing)
        publish_tree(files, out, (CONFIG, MODEL))
        return model, notes


def is_package(path: Path) -> bool:
    """Whether a path is a package, or a hand-over, and no build."""
    return path.suffix == TAR or (os.path.lexists(path / MODEL) and not os.path.lexists(path / BUNDLE.name))


def from_package(path: Path, work: Path, *, allow_failed: bool, deliver: bool) -> tuple[Assembly, Statements]:
    """The files of a package, and what it states of its making; of a hand-over that was finished, with the engine.

    Args:
        deliver: whether it is to become something else than a package.

    Raises:
        InputError: it is not whole, rejected, or a package from which a package is to be made.
    """
    package = Package.opened(path)
    if package.model.members:
        raise InputError(f"{path}: holds several models", "give the packages that it was made of, one by one")
    if package.model.encryption is not None:
        raise InputError(
            f"{path}: encrypted, and what is made of it would not be", "package the build without --encrypt-to for that"
        )
    if not is_handover(package.names):
        package.check_complete()
    copies = work / "package"
    copies.mkdir()
    statements = Statements.of_package(package)
    assembly = without_statements(opened(package, copies))
    finished = is_handover(package.names) and (FINISHED in package.names or not deliver)
    if finished:
        back = taken_back(package, assembly)
        assembly, statements = back.assembly, statements.with_engine(back)
    elif not deliver:
        raise InputError(f"{path}: is a package already", "copy it; or add --triton or --handover TARGET")
    verdict = assembly.model.verdict
    if verdict.exit_code and not (allow_failed or verdict.allowed_failed):
        raise InputError(
            f"{path}: a rejected build: {verdict.headline}",
            "build one that passes its gates; or package it anyway with --allow-failed, which the package records",
        )
    allowed = replace(verdict, allowed_failed=bool(verdict.exit_code))
    return replace(assembly, model=replace(assembly.model, verdict=allowed)), statements
