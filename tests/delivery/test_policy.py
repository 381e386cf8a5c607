"""Trust policies: what a file can say, and what a package has to be for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="needs the extra trust: cryptography")

from packages import record
from trust import authority, key_pair, pem, write

from trtpipe.delivery.policy import Requirements, TrustPolicy
from trtpipe.delivery.record import Encryption, Model
from trtpipe.errors import InputError

SIGNER = '[[signers]]\nkey = "signing.pub"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    key_pair(tmp_path)
    pem(tmp_path / "ca.pem", authority("root").certificate)
    return tmp_path


def load(folder: Path, text: str) -> TrustPolicy:
    return TrustPolicy.load(write(folder / "policy.toml", text.encode(), 0o644))


def test_says_whom_to_trust_and_what_to_ask_for(folder: Path) -> None:
    policy = load(
        folder,
        'unexpired = true\n[[signers]]\nname = "release"\nkey = "signing.pub"\n'
        '[[signers]]\nca = "ca.pem"\nsubject = "CN=x"\n'
        '[require]\nprecision = ["int8"]\nverdict = ["passed"]\nmin_samples = 500\n',
    )
    assert [(each.name, each.subject) for each in policy.signers] == [("release", ""), ("ca.pem", "CN=x")]
    assert policy.signers[0].key is not None
    assert len(policy.signers[1].authorities) == 1
    assert policy.unexpired
    assert policy.require == Requirements(precision=("int8",), verdict=("passed",), min_samples=500)


@pytest.mark.parametrize(("text", "words"), [
    ("", "signers: is missing"),
    ("signers = []", "no signer is trusted"),
    ("[[signers]]", "needs key or ca"),
    ('[[signers]]\nkey = "signing.pub"\nca = "ca.pem"', "needs key or ca"),
    ('[[signers]]\nkey = "signing.pub"\nsubject = "CN=x"', "goes with ca"),
    ('[[signers]]\nkey = "none.pub"', r"none\.pub: cannot be read"),
    ('[[signers]]\nkey = "ca.pem"', r"ca\.pem: no public key"),
    ('[[signers]]\nca = "signing.pub"', r"signing\.pub: no certificates"),
    ('[[signers]]\nkeys = "signing.pub"', r"signers\[0\]\.keys: no such field"),
    ('[signers]\nkey = "signing.pub"', "signers: not a list"),
    (SIGNER + "[require]\nprecisions = []", r"require\.precisions: no such field"),
    (SIGNER + '[require]\nprecision = ["int9"]', "unknown: 'int9'"),
    (SIGNER + '[require]\nprecision = "int8"', r"require\.precision: not a list"),
    (SIGNER + '[require]\nverdict = ["good"]', "'good' is none of"),
    (SIGNER + "[require]\nprecision = []", r"require\.precision: empty"),
    (SIGNER + '[require]\nmin_version = ""', r"require\.min_version: empty"),
    (SIGNER + '[require]\nverdict = []', r"require\.verdict: empty"),
    ('[[signers]]\nca = "ca.pem"\nsubject = ""', r"signers\[0\]\.subject: empty"),
    (SIGNER + "[require]\nmin_samples = -1", "min_samples: below 0"),
    (SIGNER + '[require]\nmin_samples = "1"', "not a whole number"),
    (SIGNER + '[require]\nmin_version = "new"', "no version of dotted numbers"),
    (SIGNER + "[require]\nencrypted = 1", "not true or false"),
    ("signers = [", "not valid TOML"),
])  # fmt: skip
def test_mistakes_are_named(folder: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        load(folder, text)
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["policy.toml", "signing.pub"])
def test_a_file_that_others_can_write_is_refused(folder: Path, name: str) -> None:
    load(folder, SIGNER)
    (folder / name).chmod(0o666)
    with pytest.raises(InputError, match=rf"{name}: others can write it") as caught:
        TrustPolicy.load(folder / "policy.toml")
    assert caught.value.remedy == f"chmod go-w {folder / name}"


def test_nobody_to_trust() -> None:
    with pytest.raises(InputError, match="no signer"):
        TrustPolicy.of()


@pytest.mark.parametrize(("require", "changes", "words"), [
    (Requirements(name="other"), {}, "it is 'net', not 'other'"),
    (Requirements(min_version="1.10"), {"version": "1.9"}, "version 1.9 is older than 1.10"),
    (Requirements(min_version="1"), {"version": ""}, r"\(none\) is older"),
    (Requirements(min_version="1"), {"version": "v2"}, "v2 is older"),
    (Requirements(precision=("fp16", "fp32")), {}, "precision: int8, not fp16 or fp32"),
    (Requirements(verdict=("passed",)), {"outcome": "not judged"}, "verdict: not judged, not passed"),
    (Requirements(latency=("passed",)), {}, "latency gate: not judged, not passed"),
    (Requirements(data=("real",)), {"data": "random"}, "random, not real"),
    (Requirements(min_samples=17), {}, "verified on 16 samples, not 17"),
    (Requirements(encrypted=True), {}, "not encrypted"),
    (Requirements(reference=True), {"reference": None}, "no reference inputs"),
])  # fmt: skip
def test_what_a_package_lacks_is_said(require: Requirements, changes: dict[str, object], words: str) -> None:
    import re

    (unmet,) = require.unmet(model(changes))
    assert re.search(words, unmet)


@pytest.mark.parametrize(("require", "changes"), [
    (Requirements(), {}),
    (Requirements(name="net", precision=("int8", "fp16"), verdict=("passed",), data=("real",), min_samples=16), {}),
    (Requirements(min_version="1.9"), {"version": "1.10"}),
    (Requirements(min_version="2.0"), {"version": "2"}),
    (Requirements(reference=True), {}),
])  # fmt: skip
def test_what_is_asked_for_is_enough(require: Requirements, changes: dict[str, object]) -> None:
    assert list(require.unmet(model(changes))) == []


def test_all_of_the_weights_have_to_be_encrypted() -> None:
    plain = record()
    for names, lacks in ((("sm89.plan",), 1), (("sm89.plan", "lowered.onnx"), 0)):
        encryption = Encryption(("age1x",), tuple(plain.file(name) for name in names))
        assert len(list(Requirements(encrypted=True).unmet(replace(plain, encryption=encryption)))) == lacks


def model(changes: dict[str, object]) -> Model:
    found = record()
    words = {name: value for name, value in changes.items() if name in ("outcome", "data")}
    others = {name: value for name, value in changes.items() if name not in words}
    return replace(found, verdict=replace(found.verdict, **words), **others)  # type: ignore[arg-type]


def test_the_policy_of_the_documentation_is_read(folder: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "signing.md"
    (text,) = [block for block in page.read_text(encoding="utf-8").split("```") if "[[signers]]" in block]
    (folder / "signing.pub").rename(folder / "release.pub")
    (folder / "ca.pem").rename(folder / "company-ca.pem")
    policy = load(folder, text)
    assert [signer.name for signer in policy.signers] == ["release", "company-ca.pem"]
    assert policy.require.min_version == "2.1"
    assert all(vars(policy.require).values())  # every key is in it
