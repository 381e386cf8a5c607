"""What the options of ``package make`` add up to."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import click

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe import SigningKey, TritonSettings
    from trtpipe.api.arguments import PackageArguments


@dataclass
class PackageWords:
    """Filled by the options while Click reads the command line; each attribute is that of one option."""

    description: Path | None = None
    samples: str | None = None
    licenses: tuple[Path, ...] = ()
    model_card: Path | None = None
    allow_failed: bool = False
    python: bool = False
    triton: bool = False
    triton_settings: Path | None = None
    triton_backend: str | None = None
    handover: str | None = None
    handover_options: Path | None = None
    key: str | None = None
    certificate: Path | None = None
    password_variable: str | None = None
    recipients: tuple[str, ...] = ()

    @property
    def is_package(self) -> bool:
        """Whether a package is made, and neither a model repository nor a hand-over."""
        return not (self.triton or self.triton_settings or self.triton_backend or self.handover is not None)

    def arguments(self) -> PackageArguments:
        """Those of ``trtpipe.make_package``.

        Raises:
            InputError: an option lacks the one that it belongs to, or its value.
        """
        if self.handover == "":
            raise InputError("--handover: no target is named", "name one, as in --handover orin")
        return {
            "description": self.description, "samples": self.samples, "licenses": self.licenses,
            "model_card": self.model_card, "allow_failed": self.allow_failed, "python": self.python,
            "triton": self._served(), "handover": self.handover or "", "handover_options": self.handover_options,
            "sign": self.signing_key(), "encrypt_to": self.recipients,
        }  # fmt: skip

    def _served(self) -> TritonSettings | bool:
        import trtpipe

        if not (self.triton or self.triton_settings or self.triton_backend):
            return False
        given = self.triton_settings
        served = trtpipe.TritonSettings() if given is None else trtpipe.TritonSettings.load(given)
        return served.model_copy(update={"backend": self.triton_backend}) if self.triton_backend else served

    def signing_key(self) -> SigningKey | None:
        """What to sign with; ``None`` for nothing.

        Raises:
            InputError: an option lacks the one that it belongs to.
        """
        import trtpipe
        from trtpipe.config.settings import secret

        if self.key is None:
            if self.certificate is not None or self.password_variable is not None:
                raise InputError("--sign-cert and --sign-password-env go with --sign", "name the key with --sign KEY")
            return None
        password = None
        if self.password_variable is not None:
            password = partial(secret, self.password_variable)
        elif sys.stdin.isatty():
            password = partial(click.prompt, "Password of the key, or PIN of the token", hide_input=True, err=True)
        return trtpipe.SigningKey(self.key, certificate=self.certificate, password=password)
