"""Ways to change a signed package in a folder."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trtpipe.delivery.policy import TrustPolicy


def check(package: Path, policy: TrustPolicy) -> None:
    """As ``trtpipe package verify`` does."""
    from trtpipe.delivery.reader import Package
    from trtpipe.delivery.signing import verify

    found = Package.opened(package)
    verify(found, policy)
    found.verify()


def accepted(package: Path, policy: TrustPolicy) -> bool:
    from trtpipe.errors import InputError

    try:
        check(package, policy)
    except InputError:
        return False
    return True


def _truncate(package: Path) -> None:
    (package / "sm89.plan").write_bytes(b"pla")


def _extend(package: Path) -> None:
    with (package / "sm89.plan").open("ab") as file:
        file.write(b"x")


def _swap(package: Path) -> None:
    (package / "sm89.plan").rename(package / "x")
    (package / "lowered.onnx").rename(package / "sm89.plan")
    (package / "x").rename(package / "lowered.onnx")


def _link(package: Path) -> None:
    (package / "sm89.plan").rename(package.parent / "elsewhere")
    (package / "sm89.plan").symlink_to(package.parent / "elsewhere")


def _add_and_list(package: Path) -> None:
    (package / "extra").write_bytes(b"plan")
    model = json.loads((package / "model.json").read_text())
    model["files"].append({**model["files"][-1], "name": "extra"})
    _replace(package / "model.json", json.dumps(model))


def _drop_and_unlist(package: Path) -> None:
    (package / "reference.npz").unlink()
    model = json.loads((package / "model.json").read_text())
    model["files"] = [file for file in model["files"] if file["name"] != "reference.npz"]
    _replace(package / "model.json", json.dumps(model | {"reference": None}))


def _promise_more(package: Path) -> None:
    _replace(package / "model.json", (package / "model.json").read_text().replace('"samples": 16', '"samples": 99'))


def _edit_payload(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(package: Path) -> None:
        bundle = json.loads((package / "model.sig").read_text())
        payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        change(payload)
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
        _replace(package / "model.sig", json.dumps(bundle))

    return edit


def _edit_bundle(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(package: Path) -> None:
        bundle = json.loads((package / "model.sig").read_text())
        change(bundle)
        _replace(package / "model.sig", json.dumps(bundle))

    return edit


def _replace(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file cut short": _truncate,
    "a file made longer": _extend,
    "two files swapped": _swap,
    "a file behind a link": _link,
    "a file removed": lambda package: (package / "lowered.onnx").unlink(),
    "a file removed from the index, too": _drop_and_unlist,
    "a file renamed": lambda package: (package / "sm89.plan").rename(package / "sm90.plan"),
    "a file added": lambda package: (package / "extra").write_bytes(b""),
    "a file added to the index, too": _add_and_list,
    "a hidden file added": lambda package: (package / ".gitignore").write_bytes(b""),
    "a folder added": lambda package: (package / "folder").mkdir(),
    "a better verdict": _promise_more,
    "the index in another form": lambda package: _replace(
        package / "model.json", json.dumps(json.loads((package / "model.json").read_text()))
    ),
    "the signature removed": lambda package: (package / "model.sig").unlink(),
    "the signature empty": lambda package: _replace(package / "model.sig", ""),
    "the signature behind a link": lambda package: (
        (package / "model.sig").rename(package.parent / "s"), (package / "model.sig").symlink_to(package.parent / "s")
    ),
    "resources in another order": _edit_payload(lambda payload: payload["predicate"]["resources"].reverse()),
    "another predicate": _edit_payload(lambda payload: payload.update(predicateType="x")),
    "no files listed": _edit_payload(lambda payload: payload["predicate"].update(resources=[])),
    "no signatures": _edit_bundle(lambda bundle: bundle["dsseEnvelope"].update(signatures=[])),
    "a signature more": _edit_bundle(
        lambda bundle: bundle["dsseEnvelope"]["signatures"].append(bundle["dsseEnvelope"]["signatures"][0])
    ),
    "a log entry": _edit_bundle(lambda bundle: bundle["verificationMaterial"].update(tlogEntries=[{}])),
    "another media type": _edit_bundle(lambda bundle: bundle.update(mediaType="x")),
    "another payload type": _edit_bundle(lambda bundle: bundle["dsseEnvelope"].update(payloadType="x")),
    "no key": _edit_bundle(lambda bundle: bundle.update(verificationMaterial={"tlogEntries": []})),
    "an unknown field": _edit_bundle(lambda bundle: bundle.update(extra=1)),
    "a field of another type": _edit_bundle(lambda bundle: bundle.update(dsseEnvelope=[])),
}  # fmt: skip
