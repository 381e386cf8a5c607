"""``trtpipe package``: from a build to the machine that runs it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtpipe.cli import options
from trtpipe.cli.options import PATH, command, common_options
from trtpipe.cli.results import ACCURACY_FAILED, print_document, print_paths
from trtpipe.cli.tables import line, table
from trtpipe.cli.text import emit
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe import SelfTest, SigningKey, VerifiedPackage
    from trtpipe.cli.session import Session
    from trtpipe.delivery.attestation import AttestedProvenance


@click.group(invoke_without_command=True)
@common_options
@click.pass_context
def package(context: click.Context) -> None:
    """Package a build for the machine that runs it."""
    if context.invoked_subcommand is None:
        emit(context.get_help())


@command(
    click.argument("build", type=PATH),
    options.out_option,
    click.option("--describe", type=PATH, metavar="D.toml", help="Name, version, meanings and units of the model."),
    click.option("--samples", metavar="DATA", help="Reference inputs for the self-test: a folder, file or function."),
    click.option("--license", "licenses", type=PATH, multiple=True, metavar="FILE", help="A license of the model."),
    click.option("--model-card", type=PATH, metavar="FILE", help="A description of the model, its data and limits."),
    click.option("--allow-failed", is_flag=True, help="Package a build that failed a gate; the package records that."),
    click.option("--sign", metavar="KEY", help="Sign with an EC private key: a PEM file, or pkcs11:... of a token."),
    click.option("--sign-cert", type=PATH, metavar="PEM", help="Certificate of that key, and those up to its CA."),
    click.option("--sign-password-env", metavar="NAME", help="Environment variable with the key's password or PIN."),
    click.option(
        "--encrypt-to",
        multiple=True,
        metavar="RECIPIENT",
        help="Encrypt engines, graph and reference inputs to a public key of age (age1...) or SSH, or a file of them.",
    ),
    group=package,
)
def make(
    session: Session,
    build: Path,
    describe: Path | None,
    samples: str | None,
    licenses: tuple[Path, ...],
    model_card: Path | None,
    allow_failed: bool,
    sign: str | None,
    sign_cert: Path | None,
    sign_password_env: str | None,
    encrypt_to: tuple[str, ...],
) -> int:
    """Put all that a machine needs to run a build into one folder, or one .tar.

    BUILD is a folder that trtpipe build wrote. OUT is a folder, or a file that ends in .tar.
    """
    import trtpipe

    with session.listening() as progress:
        made = trtpipe.make_package(
            build,
            session.out or Path(),
            description=describe,
            samples=samples,
            licenses=licenses,
            model_card=model_card,
            allow_failed=allow_failed,
            sign=_signing_key(sign, sign_cert, sign_password_env),
            encrypt_to=encrypt_to,
            settings=session.settings,
            progress=progress,
        )
    session.out = None
    model = made.model
    if session.json:
        return print_document("package make", {"out": str(made.out), "model": model.to_dict()})
    plans = ", ".join(plan.file for plan in model.plans) or "no plan"
    emit(line(f"packaged {model.name} | {model.precision} | {plans} | {model.verdict.headline}"))
    print_paths([made.out], ["package", "selftest", str(made.out), "--device", "cpu"])
    return 0


@command(
    click.argument("package_", metavar="PACKAGE", type=PATH),
    click.option("--device", default="cuda", show_default=True, help="cuda, cuda:1, or cpu."),
    click.option("--policy", type=PATH, metavar="P.toml", help="Trust policy that the package has to meet."),
    click.option("--identity", type=PATH, metavar="FILE", help="Identities that decrypt the package."),
    group=package,
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
    plans = ", ".join(plan.file for plan in model.plans) or "no plan"
    emit(line(f"whole: {len(model.files) + 1} files | {model.name} {model.version}".rstrip()))
    emit(line(f"inside: {model.precision} | {plans} | {model.verdict.headline}"))
    if model.encryption is not None:
        state = "decrypted with the given identity" if found.decrypted else "not decrypted"
        emit(line(f"encrypted to: {', '.join(model.encryption.recipients)} | {state}"))
    if found.provenance is not None:
        emit(line(f"built from: {_origin(found.provenance)}"))
    emit(line(f"signed by: {_signer(found)}"))
    return 0


def _signing_key(key: str | None, certificate: Path | None, variable: str | None) -> SigningKey | None:
    import trtpipe
    from trtpipe.config.settings import secret

    if key is None:
        if certificate is not None or variable is not None:
            raise InputError("--sign-cert and --sign-password-env go with --sign", "name the key with --sign KEY")
        return None
    password = None
    if variable is not None:
        password = partial(secret, variable)
    elif sys.stdin.isatty():
        password = partial(click.prompt, "Password of the key, or PIN of the token", hide_input=True, err=True)
    return trtpipe.SigningKey(key, certificate=certificate, password=password)


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
