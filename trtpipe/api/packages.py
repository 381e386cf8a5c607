"""The public functions of delivery: a package from a build, and its self-test. ``package_trust`` has what it proves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from trtpipe.api.arguments import check_arguments
from trtpipe.api.deliveries import Delivery, from_package, is_package, options_of
from trtpipe.api.results import reported
from trtpipe.config.description import ModelDescription
from trtpipe.config.paths import folder_of, is_file_name, path_of, path_or_none, paths_of
from trtpipe.config.profile import BuildSettings
from trtpipe.config.settings import Settings
from trtpipe.delivery import signing
from trtpipe.delivery.assembly import Assembly, assemble, with_note, with_papers, with_reference
from trtpipe.delivery.encryption import encrypted, parse_recipients
from trtpipe.delivery.reader import TAR
from trtpipe.delivery.record import MODEL, UNLISTED, Model
from trtpipe.delivery.signing import SigningKey
from trtpipe.delivery.statements import Statements
from trtpipe.errors import InputError
from trtpipe.pipeline.ownership import RECORD
from trtpipe.pipeline.publish import BUNDLE, Index, check_writable, publish_files, publish_own
from trtpipe.regression.bundle import MANIFEST, read_build
from trtpipe.report.provenance import Provenance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.api.arguments import DataLike
    from trtpipe.api.deliveries import OptionsLike, TritonLike
    from trtpipe.artifact import Feed
    from trtpipe.config.paths import PathLike
    from trtpipe.delivery.policy import TrustPolicy
    from trtpipe.progress import Progress
    from trtpipe.regression.bundle import Build
    from trtpipe.runtime import SelfTest

DescriptionLike = ModelDescription | str | os.PathLike[str]


def _of_model(path: Path) -> list[str]:
    listed = [file.name for file in Model.parse(path.read_bytes(), path).files]
    return [*listed, *sorted(UNLISTED - {MODEL, RECORD})]


#: Of a package.
PACKAGE = Index(MODEL, _of_model, alone=True)


@dataclass(frozen=True)
class PackageResult:
    """A package that was made.

    Attributes:
        out: its folder, or its ``.tar``.
        model: what its ``model.json`` says; of a model repository, that of the package it came from.
        notes: what the machine that gets it needs, and what was not tried.
    """

    out: Path
    model: Model
    notes: tuple[str, ...] = ()


def make_package(
    build: PathLike,
    out: PathLike,
    *,
    description: DescriptionLike | None = None,
    samples: DataLike | None = None,
    licenses: Sequence[PathLike] = (),
    model_card: PathLike | None = None,
    allow_failed: bool = False,
    triton: TritonLike = False,
    handover: str = "",
    handover_options: OptionsLike | None = None,
    sign: SigningKey | PathLike | None = None,
    encrypt_to: Sequence[str] = (),
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> PackageResult:
    """Put all that a machine needs to run a build into one folder, or one ``.tar``.

    Args:
        build: the folder that ``build`` wrote. For ``triton`` and ``handover`` a package will do, too; and a hand-over
            that was finished becomes a package of its engine.
        out: a folder, or a file that ends in ``.tar``; written whole or not at all.
        description: what only the author knows: name, version, meanings and units; a ``ModelDescription`` or a TOML
            file.
        samples: reference inputs for the self-test: a path, ``file.py:function``, or feeds (input name -> array with
            the batch axis). By default those that PyTorch ran on, else seeded random ones.
        licenses: files with the model's licenses.
        model_card: a file that describes the model, its data and its limits.
        allow_failed: take a build that failed a gate; the package records that.
        triton: write a model repository of Triton Inference Server instead: true, ``TritonSettings``, or a TOML file.
            Models of others that are in ``out`` stay.
        handover: write a folder for a machine with this GPU (``orin``, ``sm87``) instead, whose ``finish.py`` builds
            the engine there; with ``triton`` both, as ``out/handover`` and ``out/repository``.
        handover_options: of the builder there, ``BuildSettings`` or a TOML file with its keys; by default those of the
            build.
        sign: the key that signs the package: a ``SigningKey``, the path of a PEM file, or a ``pkcs11:`` URI.
        encrypt_to: recipients (``age1...``, ``ssh-ed25519 ...``, or files of them) who alone can read engines, graph
            and reference inputs.
        settings: limits of child processes (default: from the environment).
        progress: listens.

    Raises:
        InputError: there is no build, it was rejected, an argument does not fit it, or the key cannot be used; nothing
            was written.
        RecipeError: the description has a mistake.
        StageError: the reference outputs cannot be computed.
        HostError: no space, no permission, or a package that signing or encrypting needs is not installed.

    Example:
        >>> trtpipe.make_package("out", "model.tar").model.precision
        'int8'
    """
    check_arguments({"settings": settings, "progress": progress})
    source, target = path_of(build, "build"), path_of(out, "out")
    delivery = Delivery.asked(triton, handover, handover_options)
    check_writable(folder_of(target, (TAR,)))
    if os.path.lexists(target / BUNDLE.name):
        raise InputError(f"{target}: a build lies there", "give the package a folder of its own")
    recipients, key = _recipients(encrypt_to), _signing_key(sign)
    if delivery is not None and (recipients or key is not None):
        raise InputError(
            "sign, encrypt_to: neither goes with triton or handover, whose files others read and write",
            "sign and encrypt a package; make the repository or the hand-over from that build by itself",
        )
    with (
        nullcontext() if key is None else signing.opened(key) as signer,
        reported("package", progress),
        TemporaryDirectory(prefix="trtpipe-") as temporary,
    ):
        work, options = Path(temporary), BuildSettings()
        if is_package(source):
            given = {"description": description, "samples": samples, "licenses": licenses, "model_card": model_card}
            _refuse_for_package(source, [name for name, value in given.items() if value])
            assembly, statements = from_package(source, work, allow_failed=allow_failed, deliver=delivery is not None)
        else:
            words, found = _described(description), read_build(source)
            options, statements = options_of(found), _stated(found)
            elsewhere = delivery.target if delivery is not None else ""
            assembly = assemble(found, words, allow_failed=allow_failed, handed_over=elsewhere)
            assembly = with_papers(assembly, paths_of(licenses, "licenses"), path_or_none(model_card, "model_card"))
            assembly = _tested(assembly, found, samples, work, settings or Settings.from_environment())
        if delivery is not None:
            return PackageResult(target, *delivery.publish(assembly, statements, options, target, work))
        if recipients:
            assembly = encrypted(assembly, recipients, work)
        sealed = statements.added(assembly, signer, work).sealed(work)
        _publish(sealed if signer is None else signing.signed(sealed, signer, work), target, work)
    return PackageResult(target, sealed.model)


def _stated(build: Build) -> Statements:
    return Statements.of_build(build, Provenance.beside(build.folder / MANIFEST))


def _refuse_for_package(source: Path, given: Sequence[str]) -> None:
    """Raise InputError where arguments are given for what a package says itself."""
    for name in given:
        raise InputError(f"{name}: {source} is a package, and says this itself", "give it when making the package")


def selftest_package(
    package: PathLike,
    device: str = "cuda",
    *,
    policy: TrustPolicy | PathLike | None = None,
    identity: PathLike | None = None,
) -> SelfTest:
    """Run a package's reference inputs on this machine, and compare with its reference outputs within its tolerances.

    Args:
        package: a folder or a ``.tar`` that ``make_package`` wrote.
        device: ``cuda``, ``cuda:1``, or ``cpu``; see ``trtpipe.runtime.load``, also for the other arguments.

    Raises:
        InputError: there is no package, it is not whole or trusted, or it has no reference inputs.
        HostError: it does not run here.

    Example:
        >>> _ = trtpipe.make_package("out", "package")
        >>> trtpipe.selftest_package("package", device="cpu").passed
        True
    """
    from trtpipe.runtime import load

    with load(package, device, policy=policy, identity=identity) as model:
        return model.selftest()


def _signing_key(given: SigningKey | PathLike | None) -> SigningKey | None:
    if given is None or isinstance(given, SigningKey):
        return given
    remedy = "give a trtpipe.SigningKey, the path of a PEM file, or a pkcs11: URI"
    return SigningKey(given if isinstance(given, str) else path_of(given, "sign", remedy))


def _recipients(given: Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable) or not all(isinstance(each, str) for each in given):
        raise InputError("encrypt_to: not a list of recipients", 'give encrypt_to=["age1...", ...]')
    return parse_recipients(given) if given else ()


def _described(given: DescriptionLike | None) -> ModelDescription:
    if given is None or isinstance(given, ModelDescription):
        return given or ModelDescription()
    return ModelDescription.load(
        path_of(given, "description", "give a trtpipe.ModelDescription, or the path of a TOML file")
    )


def _tested(assembly: Assembly, build: Build, samples: DataLike | None, work: Path, settings: Settings) -> Assembly:
    """With reference inputs and outputs, where the lowered graph runs on a CPU."""
    from trtpipe.delivery.samples import REFERENCE, known_feeds, write_reference

    feeds, real = known_feeds(build) if samples is None else (_sampled(build, assembly.model, samples), True)
    reference = write_reference(build, feeds, real=real, folder=work, settings=settings)
    if reference is None:
        return with_note(assembly, "no reference inputs: the graph has plug-ins, which only TensorRT runs")
    return with_reference(assembly, reference, work / REFERENCE)


def _sampled(build: Build, model: Model, samples: DataLike) -> list[Feed]:
    """The first of the samples that the caller gives; images as the package says that they are prepared."""
    from trtpipe.config.recipe import DataSettings, ImageSettings
    from trtpipe.data.dataset import SOURCES, open_dataset
    from trtpipe.delivery.samples import FEEDS, given_feeds

    if isinstance(samples, (str, os.PathLike)):
        source = os.fspath(path_of(samples, "samples"))
        pictured = any(each.takes_images and each.recognizes(source) for each in SOURCES)
        prepared = [ImageSettings(**asdict(each.image)) for each in model.preprocessing if pictured]
        image = prepared[0] if prepared else None
        dataset = open_dataset(DataSettings(source=source, samples=FEEDS, image=image), build.contract)
        with closing(iter(dataset)) as found:
            return given_feeds(build, (sample.feed for sample in found), source)
    feeds = samples() if callable(samples) else samples
    if isinstance(feeds, Mapping) or not isinstance(feeds, Iterable):
        raise InputError("samples: not a set of feeds", "give a list of dicts of input name -> array, or a path")
    return given_feeds(build, feeds, "samples")  # type: ignore[arg-type]


def _publish(sealed: Assembly, out: Path, work: Path) -> None:
    if not is_file_name(out, (TAR,)):
        publish_files(sealed.files, out, PACKAGE)
        return
    archive = work / f"package{TAR}"
    sealed.write_tar(archive)
    publish_own(archive, out)
