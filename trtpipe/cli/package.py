"""``trtpipe package``: from a build to the machine that runs it."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtpipe.cli import options
from trtpipe.cli.groups import ExampleGroup
from trtpipe.cli.options import PATH, command, common_options, package_option, stacked
from trtpipe.cli.results import ACCURACY_FAILED, print_document, print_paths
from trtpipe.cli.tables import line, table
from trtpipe.cli.text import emit

if TYPE_CHECKING:
    from trtpipe import PackageResult, SelfTest, VerifiedPackage
    from trtpipe.cli.session import Session
    from trtpipe.delivery.attestation import AttestedProvenance
    from trtpipe.delivery.record import Model


@click.group(
    cls=ExampleGroup,
    examples=("trtpipe package make build/model -o package", "trtpipe package selftest package --device cpu"),
    invoke_without_command=True,
)
@common_options
@click.pass_context
def package(context: click.Context) -> None:
    """Package a build for the machine that runs it."""
    if context.invoked_subcommand is None:
        emit(context.get_help())


# An argument a line would make a page of every three options.
# fmt: off
_contents, _form, _trust = (partial(package_option, topic=topic) for topic in ("Contents", "Form", "Trust"))
signing_options = stacked(
    _trust("--sign", "key", "Sign with an EC private key: a PEM file, or pkcs11:... of a token.", metavar="KEY"),
    _trust("--sign-cert", "certificate", "Certificate of that key, and those up to its CA.", type=PATH, metavar="PEM"),
    _trust("--sign-password-env", "password_variable", "Environment variable with the key's password or PIN.",
           metavar="NAME"),
)
package_options = stacked(
    _contents("--describe", "description", "Name, version, meanings and units of the model.",
              type=PATH, metavar="D.toml"),
    _contents("--samples", "samples", "Reference inputs for the self-test: a folder, file or function.",
              metavar="DATA"),
    _contents("--license", "licenses", "A license of the model.", type=PATH, multiple=True, metavar="FILE"),
    _contents("--model-card", "model_card", "A description of the model, its data and limits.",
              type=PATH, metavar="FILE"),
    _contents("--allow-failed", "allow_failed", "Package a build that failed a gate; the package records that.",
              is_flag=True),
    _form("--python", "python", "Add predict.py to the package, an example that runs it.", is_flag=True),
    _form("--triton", "triton", "Write a model repository of Triton Inference Server instead.", is_flag=True),
    _form("--triton-settings", "triton_settings", "Name, batches, instances; implies --triton.",
          type=PATH, metavar="T.toml"),
    _form("--triton-backend", "triton_backend", "What Triton serves with; implies --triton.",
          type=click.Choice(["tensorrt", "onnxruntime"])),
    _form("--handover", "handover", "Write a folder to build in on a TARGET.", metavar="TARGET"),
    _form("--handover-options", "handover_options", "Keys of [build] for the builder there.",
          type=PATH, metavar="B.toml"),
    signing_options,
    _trust("--encrypt-to", "recipients",
           "Encrypt engines, graph and reference inputs to a public key of age (age1...) or SSH, or a file of them.",
           multiple=True, metavar="RECIPIENT"),
)
# fmt: on


@command(
    click.argument("build", type=PATH),
    options.out_option,
    package_options,
    group=package,
    examples=(
        "trtpipe package make build/model --samples photos/ --license LICENSE -o model.tar",
        "trtpipe package make build/model --triton --triton-backend onnxruntime -o repository",
        "trtpipe package make build/model --handover orin -o orin",
    ),
)
def make(session: Session, build: Path) -> int:
    """Put all that a machine needs to run a build into one folder, or one .tar.

    BUILD is a folder that trtpipe build wrote; with --triton and --handover a package will do. OUT is a folder, or a
    file that ends in .tar.
    """
    import trtpipe

    with session.listening() as progress:
        made = trtpipe.make_package(build, session.output, **session.package_request(progress))
    return _made(session, "package make", made)


@command(
    click.argument("packages", type=PATH, nargs=-1, required=True, metavar="PACKAGE..."),
    options.out_option,
    click.option("--name", default="", metavar="NAME", help="Name of all together (default: the models' names)."),
    click.option("--version", default="", metavar="VERSION", help="Version of all together."),
    signing_options,
    group=package,
    examples=("trtpipe package join detector.tar reader.tar -o both.tar",),
)
def join(session: Session, packages: tuple[Path, ...], name: str, version: str) -> int:
    """Put several models, such as those that share a GPU, into one package.

    Each PACKAGE is a folder or .tar that trtpipe package make wrote; the models are called as these. OUT is a folder,
    or a file that ends in .tar.
    """
    import trtpipe

    key = session.package.signing_key()
    made = trtpipe.join_packages(packages, session.output, name=name, version=version, sign=key)
    return _made(session, "package join", made)


def _made(session: Session, words: str, made: PackageResult) -> int:
    session.out = None
    model = made.model
    if session.json:
        return print_document(words, {"out": str(made.out), "model": model.to_dict(), "notes": made.notes})
    emit(line(f"packaged {model.name} | {model.precision} | {_inside(model)} | {model.verdict.headline}"))
    for note in made.notes:
        emit(line(note))
    print_paths([made.out], _following(made) if session.package.is_package else ())
    return 0


def _inside(model: Model) -> str:
    """What runs: plans, or the models of a package of several."""
    names = [member.name for member in model.members] or [plan.file for plan in model.plans]
    return ", ".join(names) or "no plan"


def _following(made: PackageResult) -> tuple[str, ...]:
    """The command that comes next: the self-test, of a package that can be tested."""
    model = made.model
    if model.reference is None and not model.members:
        return ("package", "verify", str(made.out))
    identity = () if model.encryption is None else ("--identity", "FILE")
    return ("package", "selftest", str(made.out), "--device", "cpu", *identity)


@command(
    click.argument("package_", metavar="PACKAGE", type=PATH),
    click.option("--device", default="cuda", show_default=True, help="cuda, cuda:1, or cpu."),
    click.option("--policy", type=PATH, metavar="P.toml", help="Trust policy that the package has to meet."),
    click.option("--identity", type=PATH, metavar="FILE", help="Identities that decrypt the package."),
    group=package,
    examples=("trtpipe package selftest model.tar --device cpu",),
)
def selftest(session: Session, package_: Path, device: str, policy: Path | None, identity: Path | None) -> int:
    """Run a package's reference inputs on this machine, and compare with its reference outputs.

    PACKAGE is a folder or a .tar that trtpipe package make wrote. Exit code 3 if an output is not within tolerance.
    """
    import trtpipe

    found = trtpipe.selftest_package(package_, device, policy=policy, identity=identity)
    code = 0 if found.passed else ACCURACY_FAILED
    if session.json:
        return print_document("package selftest", {"passed": found.passed, "selftest": _document(found)}, code)
    rows = [
        (each.name, f"{each.max_abs:.3g}", f"{each.cosine:.6f}", f"{each.snr_db:.1f}", ", ".join(each.broken) or "ok")
        for each in found.outputs
    ]
    emit(table(("output", "largest difference", "cosine", "SNR dB", "verdict"), rows))
    word = "PASSED" if found.passed else "FAILED"
    what = f"{found.plan or 'the lowered graph'} ({found.device})"
    emit(line(f"{word} {what} against {found.runner} on {found.feeds} {found.data} feeds"))
    return code


def _document(found: SelfTest) -> dict[str, object]:
    """As JSON values; an infinite figure is a text."""
    document = asdict(found)
    for each in document["outputs"]:
        each["snr_db"] = each["snr_db"] if abs(each["snr_db"]) != float("inf") else str(each["snr_db"])
    return document


@command(
    click.argument("file", type=PATH, metavar="PACKAGE"),
    click.option("--policy", type=PATH, metavar="P.toml", help="Trust policy: who may sign, and what is required."),
    click.option("--key", type=PATH, metavar="PEM", help="Trust the owner of this public key."),
    click.option("--ca", type=PATH, metavar="PEM", help="Trust those to whom this CA gave a certificate for signing."),
    click.option("--identity", type=PATH, metavar="FILE", help="Also decrypt, in memory, with the identities in FILE."),
    group=package,
    examples=("trtpipe package verify model.tar --key release.pub",),
)
def verify(
    session: Session, file: Path, policy: Path | None, key: Path | None, ca: Path | None, identity: Path | None
) -> int:
    """Check that a package is whole, who signed it, and that it is what a policy asks for.

    PACKAGE is a folder or .tar that trtpipe package make wrote.
    """
    import trtpipe

    found = trtpipe.verify_package(file, policy=policy, key=key, ca=ca, identity=identity)
    if session.json:
        return print_document("package verify", _verified(found))
    model = found.model
    emit(line(f"whole: {len(model.files) + 1} files | {model.name} {model.version}".rstrip()))
    emit(line(f"inside: {model.precision} | {_inside(model)} | {model.verdict.headline}"))
    if model.encryption is not None:
        state = "decrypted with the given identity" if found.decrypted else "not decrypted"
        emit(line(f"encrypted to: {', '.join(model.encryption.recipients)} | {state}"))
    if found.provenance is not None:
        emit(line(f"built from: {_origin(found.provenance)}"))
    emit(line(f"signed by: {_signer(found)}"))
    return 0


def _verified(found: VerifiedPackage) -> dict[str, Any]:
    signatory, provenance = found.signatory, found.provenance
    who = None
    if signatory is not None:
        who = {
            "name": signatory.name, "key": signatory.key, "subject": signatory.subject, "issuer": signatory.issuer,
            "expires": signatory.expires,
        }  # fmt: skip
    return {
        "package": str(found.path),
        "signed": found.signed,
        "signatory": who,
        "provenance": None if provenance is None else asdict(provenance),
        "decrypted": found.decrypted,
        "model": found.model.to_dict(),
    }


def _origin(provenance: AttestedProvenance) -> str:
    state = {True: ", with uncommitted changes", False: "", None: ""}[provenance.dirty]
    commit = f"commit {provenance.commit[:12]}{state}" if provenance.commit else "no commit known"
    return " | ".join(word for word in (provenance.source, commit, provenance.created) if word)


def _signer(found: VerifiedPackage) -> str:
    signatory = found.signatory
    if signatory is None:
        unknown = "NOT CHECKED: give --key, --ca or --policy" if found.signed else "no one"
        return f"{unknown}; whoever had the package may have changed it"
    certificate = f" | {signatory.subject}, issued by {signatory.issuer}" if signatory.subject else ""
    return f"{signatory.name} | key {signatory.key[:16]}{certificate}"
