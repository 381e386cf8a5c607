"""A package from a build. ``package_trust`` has what it proves, ``package_joins`` packages of several models."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from trtpipe.api.arguments import PackageArguments, takes
from trtpipe.api.deliveries import Conversion, from_package, is_package
from trtpipe.api.results import reported
from trtpipe.config.description import ModelDescription
from trtpipe.config.paths import folder_of, is_file_name, path_of, path_or_none, paths_of
from trtpipe.config.profile import DeploymentProfile
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
from trtpipe.runtime.example import EXAMPLE, write_example
from trtpipe.summary import Summarized, Summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Unpack

    from trtpipe.api.arguments import DataLike, DescriptionLike
    from trtpipe.artifact import Feed
    from trtpipe.config.paths import PathLike
    from trtpipe.regression.bundle import Build


def _of_model(path: Path) -> list[str]:
    listed = [file.name for file in Model.parse(path.read_bytes(), path).files]
    return [*listed, *sorted(UNLISTED - {MODEL, RECORD})]


#: Of a package.
PACKAGE = Index(MODEL, _of_model, alone=True)


@dataclass(frozen=True, repr=False)
class PackageResult(Summarized):
    """A package that was made.

    Attributes:
        out: its folder, or its ``.tar``.
        model: what its ``model.json`` says; of a model repository, that of the package it came from.
        notes: what the machine that gets it needs, and what was not tried.
    """

    out: Path
    model: Model
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> Summary:
        """The model, where it is, and what is to be known."""
        model = " ".join(filter(None, (self.model.name, self.model.version)))
        said = f"{model} in {self.out}: {self.model.verdict.headline}"
        return Summary(said, ("to be known",), tuple((note,) for note in self.notes))


@dataclass(frozen=True)
class Delivery:
    """What is asked of ``make_package``, checked as far as that goes without the build.

    Attributes:
        description, samples, allow_failed, python: as the arguments of those names.
        licenses, card: the model's papers.
        conversion: what is made in place of a package; ``None``: the package itself.
        key: signs it; ``None``: it is not signed.
        recipients: who alone can read it; none: it is not encrypted.
        settings: limits of child processes.
        given: names of the arguments that say something of the model.
    """

    description: ModelDescription
    samples: DataLike | None
    licenses: tuple[Path, ...]
    card: Path | None
    allow_failed: bool
    python: bool
    conversion: Conversion | None
    key: SigningKey | None
    recipients: tuple[str, ...]
    settings: Settings
    given: tuple[str, ...]

    @classmethod
    def asked(cls, words: PackageArguments) -> Delivery:
        """As the arguments of ``make_package`` say.

        Raises:
            InputError: one of them is wrong, or two contradict each other.
            RecipeError: a file of settings has a mistake.
        """
        conversion = Conversion.asked(
            words.get("triton", False), words.get("handover", ""), words.get("handover_options")
        )
        recipients, key = _recipients(words.get("encrypt_to", ())), signing_key(words.get("sign"))
        python = words.get("python", False)
        if conversion is not None and (recipients or key is not None):
            raise InputError(
                "sign, encrypt_to: neither goes with triton or handover, whose files others read and write",
                "sign and encrypt a package; make the repository or the hand-over from that build by itself",
            )
        if conversion is not None and python:
            raise InputError("python: goes with neither triton nor handover", "leave one of them out")
        of_model = ("description", "samples", "licenses", "model_card")
        return cls(
            _described(words.get("description")),
            words.get("samples"),
            paths_of(words.get("licenses", ()), "licenses"),
            path_or_none(words.get("model_card"), "model_card"),
            words.get("allow_failed", False),
            python,
            conversion,
            key,
            recipients,
            words.get("settings") or Settings.from_environment(),
            tuple(name for name in of_model if words.get(name)),
        )


@takes(PackageArguments)
def make_package(build: PathLike, out: PathLike, **delivery: Unpack[PackageArguments]) -> PackageResult:
    """Put all that a machine needs to run a build into one folder, or one ``.tar``.

    Args:
        build: the folder that ``build`` wrote. For ``triton`` and ``handover`` a package will do, too; and a hand-over
            that was finished becomes a package of its engine.
        out: a folder, or a file that ends in ``.tar``; written whole or not at all.

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
    source, target = path_of(build, "build"), path_of(out, "out")
    asked = Delivery.asked(delivery)
    check_place(target)
    with (
        nullcontext() if asked.key is None else signing.opened(asked.key) as signer,
        reported("package", delivery.get("progress")),
        TemporaryDirectory(prefix="trtpipe-") as temporary,
    ):
        work = Path(temporary)
        assembly, statements, profile = _assembled(source, asked, work)
        if asked.conversion is not None:
            return PackageResult(target, *asked.conversion.publish(assembly, statements, profile, target, work))
        if asked.python:
            assembly = _with_example(assembly, work)
        if asked.recipients:
            assembly = encrypted(assembly, asked.recipients, work)
        sealed = statements.added(assembly, signer, work).sealed(work)
        publish_package(sealed if signer is None else signing.signed(sealed, signer, work), target, work)
    return PackageResult(target, sealed.model)


def check_place(out: Path) -> None:
    """Find out before any work whether a package can be written.

    Raises:
        InputError: a build lies there, or a file where a folder is needed.
        HostError: there is no permission to write.
    """
    check_writable(folder_of(out, (TAR,)))
    if os.path.lexists(out / BUNDLE.name):
        raise InputError(f"{out}: a build lies there", "give the package a folder of its own")


def _assembled(source: Path, asked: Delivery, work: Path) -> tuple[Assembly, Statements, DeploymentProfile]:
    """A package that is not sealed yet, what is stated of its making, and the profile that it was built with."""
    if is_package(source):
        for name in asked.given:
            raise InputError(f"{name}: {source} is a package, and says this itself", "give it when making the package")
        deliver = asked.conversion is not None
        return (*from_package(source, work, allow_failed=asked.allow_failed, deliver=deliver), DeploymentProfile())
    found = read_build(source)
    elsewhere = asked.conversion.target if asked.conversion is not None else ""
    assembly = assemble(found, asked.description, allow_failed=asked.allow_failed, handed_over=elsewhere)
    assembly = with_papers(assembly, asked.licenses, asked.card)
    profile = DeploymentProfile.model_validate(found.manifest.settings.get("profile", {}))
    return _tested(assembly, found, asked, work), _stated(found), profile


def _with_example(assembly: Assembly, work: Path) -> Assembly:
    if EXAMPLE in assembly.files:
        raise InputError(f"python: adds {EXAMPLE}, and another file is called so", "give the other one another name")
    return assembly.with_file(write_example(work))


def _stated(build: Build) -> Statements:
    return Statements.of_build(build, Provenance.beside(build.folder / MANIFEST))


def signing_key(given: SigningKey | PathLike | None) -> SigningKey | None:
    """The key that an argument ``sign`` names; ``None`` for none."""
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


def _tested(assembly: Assembly, build: Build, asked: Delivery, work: Path) -> Assembly:
    """With reference inputs and outputs, where the lowered graph runs on a CPU."""
    from trtpipe.delivery.samples import REFERENCE, known_feeds, write_reference

    samples = asked.samples
    feeds, real = known_feeds(build) if samples is None else (_sampled(build, assembly.model, samples), True)
    if samples is not None:
        _require_profiles(assembly.model, feeds)
    reference = write_reference(build, feeds, real=real, folder=work, settings=asked.settings)
    if reference is None:
        return with_note(assembly, "no reference inputs: the graph has plug-ins, which only TensorRT runs")
    return with_reference(assembly, reference, work / REFERENCE)


def _require_profiles(model: Model, feeds: Sequence[Feed]) -> None:
    """Raise InputError unless every plan takes the feeds: else the self-test could never pass."""
    from trtpipe.runtime.feeds import Feeder

    for plan in model.plans:
        feeder = Feeder(model, plan.profiles)
        for index, feed in enumerate(feeds):
            try:
                feeder.feed(feed)
            except InputError as error:
                raise InputError(f"samples: sample {index}: {plan.file}: {error.message}", error.remedy) from error


def _sampled(build: Build, model: Model, samples: DataLike) -> list[Feed]:
    """The first of the samples that the caller gives; files are prepared as the package says."""
    from trtpipe.config.recipe import AudioSettings, DataSettings, ImageSettings
    from trtpipe.data.dataset import SOURCES, open_dataset
    from trtpipe.delivery.samples import FEEDS, given_feeds

    if isinstance(samples, (str, os.PathLike)):
        source = os.fspath(path_of(samples, "samples"))
        known = model.preprocessing
        heard = [AudioSettings(**asdict(each.audio)) for each in known if each.audio and Path(source).is_dir()]
        pictured = not heard and any(each.takes_images and each.recognizes(source) for each in SOURCES)
        seen = [ImageSettings(**asdict(each.image)) for each in known if each.image and pictured]
        image, audio = next(iter(seen), None), next(iter(heard), None)
        dataset = open_dataset(DataSettings(source=source, samples=FEEDS, image=image, audio=audio), build.contract)
        with closing(iter(dataset)) as found:
            return given_feeds(build, (sample.feed for sample in found), source)
    feeds = samples() if callable(samples) else samples
    if isinstance(feeds, Mapping) or not isinstance(feeds, Iterable):
        raise InputError("samples: not a set of feeds", "give a list of dicts of input name -> array, or a path")
    return given_feeds(build, feeds, "samples")  # type: ignore[arg-type]


def publish_package(sealed: Assembly, out: Path, work: Path) -> None:
    """Write what is in a package to its folder, or its ``.tar``, whole or not at all."""
    if not is_file_name(out, (TAR,)):
        publish_files(sealed.files, out, PACKAGE)
        return
    archive = work / f"package{TAR}"
    sealed.write_tar(archive)
    publish_own(archive, out)
