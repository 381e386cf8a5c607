"""Encrypted packages, in the format of age (``age-encryption.org/v1``): ``age -d`` opens their files, too.

What holds the model's weights or samples is encrypted: engines, the lowered graph with its external data, the
reference inputs and outputs. What says what the package is stays readable: ``model.json``, licenses, the model card,
provenance. The content is decrypted in memory when it is read (``reader.Package.with_identities``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtpipe.config.requirements import require
from trtpipe.config.safe_files import read_secret
from trtpipe.delivery.record import Encryption, FileDigest
from trtpipe.digest import sha256_file
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from trtpipe.delivery.assembly import Assembly

_WHO = "give a public key, age1... or ssh-ed25519 ..., or a file of them, one a line"
_IDENTITY = "give the file that age-keygen wrote, or an SSH key without a password"
_SECRET, _SSH = "AGE-SECRET-KEY-", "-----BEGIN OPENSSH PRIVATE KEY-----"
_MOST_RECIPIENTS = 100


@dataclass(frozen=True)
class Identities:
    """Secret keys that decrypt.

    Attributes:
        path: the file they are from.
    """

    path: Path
    keys: tuple[Any, ...] = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> Identities:
        """Read a file of age identities, or an SSH private key, that only its owner can read.

        Raises:
            InputError: others can read it, or it holds no such key.
            HostError: pyrage is not installed.
        """
        require("pyrage", "decrypting a package", "trust")
        import pyrage

        data = read_secret(path, "a file of identities that only its owner can read")
        try:
            if data.startswith(_SSH.encode()):
                return cls(path, (pyrage.ssh.Identity.from_buffer(data),))
            lines = _lines(data.decode("ascii", "replace"))
            keys = tuple(pyrage.x25519.Identity.from_str(line) for line in lines)
        except (pyrage.IdentityError, ValueError):  # the message may hold the key
            raise InputError(f"{path}: not a file of age identities", _IDENTITY) from None
        if not keys:
            raise InputError(f"{path}: holds no identity", _IDENTITY)
        return cls(path, keys)

    def decrypt(self, data: bytes, where: str, wanted: str) -> bytes:
        """What is inside a file; see ``reader.Decrypts``.

        Raises:
            InputError: none of these keys opens it; the message names whose does.
        """
        import pyrage

        try:
            plain: bytes = pyrage.decrypt(data, list(self.keys))
        except pyrage.DecryptError as error:
            raise InputError(
                f"{where}: no identity in {self.path} opens it: it is encrypted to {wanted}",
                "give the file with that recipient's identity, or have the package made for yours",
            ) from error
        return plain


def parse_recipients(given: Iterable[str]) -> tuple[str, ...]:
    """Public keys from the words of a user: keys themselves, or files of them.

    Raises:
        InputError: one is none.
        HostError: pyrage is not installed.
    """
    require("pyrage", "encrypting a package", "trust")
    found = tuple(dict.fromkeys(key for word in given for key in _of_word(word)))
    if not found or len(found) > _MOST_RECIPIENTS:
        raise InputError(f"--encrypt-to: {len(found) or 'no'} recipients", _WHO)
    for key in found:
        _recipient(key)
    return found


def encrypted(assembly: Assembly, recipients: Sequence[str], folder: Path) -> Assembly:
    """The package with its engines, graph and reference encrypted; they keep their names.

    Args:
        recipients: as ``parse_recipients`` gives them.
        folder: where the encrypted files are written.
    """
    import pyrage

    model = assembly.model
    graph = () if model.graph is None else (model.graph.file, *model.graph.data)
    reference = () if model.reference is None else (model.reference.file,)
    names = sorted({*(plan.file for plan in model.plans), *graph, *reference})
    keys = [_recipient(each) for each in recipients]
    inside = []
    for name in names:
        path = assembly.files[name]
        inside.append(FileDigest(name, sha256_file(path), path.stat().st_size))
        with path.open("rb") as plain, (folder / f"{name}.age").open("xb") as secret:
            pyrage.encrypt_io(plain, secret, keys)
    files = {**assembly.files, **{name: folder / f"{name}.age" for name in names}}
    return replace(assembly, model=replace(model, encryption=Encryption(tuple(recipients), tuple(inside))), files=files)


def _of_word(word: str) -> Iterator[str]:
    if word.startswith(("age1", "ssh-")):
        yield word
    elif word.upper().startswith(_SECRET):
        raise InputError("--encrypt-to: that is a secret key", "give its public half, which age-keygen -y prints")
    else:
        try:
            text = Path(word).read_text(encoding="utf-8") if Path(word).is_file() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{word}: cannot be read", _WHO) from error
        if not text:
            raise InputError(f"--encrypt-to: {word[:80]!r} is no public key, and no file of them", _WHO)
        if _SECRET in text.upper() or _SSH in text:
            raise InputError(f"{word}: holds a secret key", "give its public half, which age-keygen -y prints")
        yield from _lines(text)


def _recipient(key: str) -> Any:
    import pyrage

    kind = pyrage.ssh if key.startswith("ssh-") else pyrage.x25519
    try:
        return kind.Recipient.from_str(key)
    except (pyrage.RecipientError, ValueError) as error:
        raise InputError(f"--encrypt-to: {key[:80]!r} is no public key: {error}", _WHO) from error


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
