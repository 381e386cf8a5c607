"""Packages of a real build that are signed, encrypted and attested."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography", reason="needs the extra trust: cryptography")
pytest.importorskip("pyrage", reason="needs the extra trust: pyrage")

import pyrage
from trust import key_pair, signed_package, write
from world import content

import trtpipe
from trtpipe.backends.base import missing
from trtpipe.delivery.attestation import read_provenance, unmet, with_provenance
from trtpipe.delivery.encryption import Identities
from trtpipe.delivery.envelope import Envelope
from trtpipe.delivery.policy import Requirements
from trtpipe.delivery.reader import Package
from trtpipe.errors import InputError
from trtpipe.regression.bundle import read_build
from trtpipe.report.provenance import GitState, Provenance


def identity(folder: Path) -> tuple[Path, str]:
    made = pyrage.x25519.Identity.generate()
    return write(folder / "key.txt", f"{made}\n".encode()), str(made.to_public())


@pytest.mark.parametrize("name", ["pkg", "pkg.tar"])
def test_a_signed_and_encrypted_package_verifies(build: Path, tmp_path: Path, name: str) -> None:
    pair, (key, public) = key_pair(tmp_path), identity(tmp_path)
    made = trtpipe.make_package(build, tmp_path / name, sign=pair.path, encrypt_to=[public])
    found = trtpipe.verify_package(made.out, key=pair.public, identity=key)
    assert found.model == made.model
    assert found.signatory is not None
    assert (found.signatory.name, found.decrypted, found.signed) == ("signing.pub", True, True)
    assert found.provenance is not None
    assert (found.provenance.source, found.provenance.signed) == ("net.onnx", True)
    plan = (build / "sm89.plan").read_bytes()
    assert plan not in (made.out / "sm89.plan" if made.out.is_dir() else made.out).read_bytes()
    opened = Package.opened(made.out).with_identities(Identities.load(key))
    assert opened.read("sm89.plan") == plan


def test_nobody_is_trusted_unasked(build: Path, tmp_path: Path) -> None:
    pair = key_pair(tmp_path)
    trtpipe.make_package(build, tmp_path / "signed", sign=trtpipe.SigningKey(pair.path))
    trtpipe.make_package(build, tmp_path / "bare")
    for name, signed in (("signed", True), ("bare", False)):
        found = trtpipe.verify_package(tmp_path / name)
        assert (found.signed, found.signatory) == (signed, None)
        assert found.provenance is not None
        assert not found.provenance.signed
    with pytest.raises(InputError, match="not signed"):
        trtpipe.verify_package(tmp_path / "bare", key=pair.public)


def test_equal_signed_packages_are_equal(build: Path, tmp_path: Path) -> None:
    pair = key_pair(tmp_path)
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        trtpipe.make_package(build, tmp_path / place / "pkg.tar", sign=pair.path)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_a_later_package_without_a_key_leaves_no_signature(build: Path, tmp_path: Path) -> None:
    pair = key_pair(tmp_path)
    trtpipe.make_package(build, tmp_path / "pkg", sign=pair.path)
    trtpipe.make_package(build, tmp_path / "pkg")
    assert not (tmp_path / "pkg" / "model.sig").exists()
    assert not (tmp_path / "pkg" / "provenance.dsse.json").exists()
    trtpipe.verify_package(tmp_path / "pkg")


class TestPolicies:
    @pytest.fixture
    def package(self, build: Path, tmp_path: Path) -> Path:
        description = trtpipe.ModelDescription(name="net", version="1.9")
        key = key_pair(tmp_path).path
        return trtpipe.make_package(build, tmp_path / "pkg", sign=key, description=description).out

    def check(self, package: Path, words: str) -> trtpipe.VerifiedPackage:
        text = f'[[signers]]\nkey = "signing.pub"\n[require]\n{words}\n'
        return trtpipe.verify_package(package, policy=write(package.parent / "p.toml", text.encode(), 0o644))

    def test_what_is_met(self, package: Path) -> None:
        words = 'name = "net"\nmin_version = "1.9"\nprecision = ["int8"]\nverdict = ["passed"]\nmin_samples = 16\n'
        assert self.check(package, words + "provenance = true\nreference = true\n").signatory is not None

    @pytest.mark.parametrize("words", [
        'name = "other"', 'min_version = "1.10"', 'precision = ["fp16"]', 'verdict = ["failed"]',
        'latency = ["failed"]', 'data = ["random"]', "min_samples = 17", "encrypted = true",
    ])  # fmt: skip
    def test_what_is_not(self, package: Path, words: str) -> None:
        with pytest.raises(InputError, match=r"signed by signing\.pub, but not as the policy asks"):
            self.check(package, words)

    def test_a_policy_and_a_key_are_too_much(self, package: Path) -> None:
        with pytest.raises(InputError, match="beside a key"):
            trtpipe.verify_package(package, policy="p.toml", key="k.pub")


class TestProvenance:
    def test_says_what_made_it_from_what(self, build: Path, tmp_path: Path) -> None:
        trtpipe.make_package(build, tmp_path / "pkg")
        statement = json.loads((tmp_path / "pkg" / "provenance.intoto.json").read_text())
        manifest = trtpipe.Manifest.read(build / "manifest.json")
        digests = {entry.label: entry.files[0].sha256 for entry in manifest.artifacts}
        assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
        assert {each["name"]: each["digest"]["sha256"] for each in statement["subject"]} == {
            "sm89.plan": digests["engine:sm89"], "lowered.onnx": digests["lowered"]
        }  # fmt: skip
        definition = statement["predicate"]["buildDefinition"]
        assert definition["externalParameters"]["precision"] == "int8"
        dependencies = definition["resolvedDependencies"]
        assert digests["model"] in [each.get("digest", {}).get("sha256") for each in dependencies]
        assert manifest.calibration is not None
        assert manifest.calibration.digest in [each.get("digest", {}).get("sha256") for each in dependencies]
        assert f"pkg:pypi/onnx@{manifest.toolchain['onnx']}" in [each.get("uri") for each in dependencies]
        assert statement["predicate"]["runDetails"]["builder"]["version"] == {"trtpipe": trtpipe.__version__}

    def origin(self, command: tuple[str, ...] = (), git: GitState | None = None) -> Provenance:
        return Provenance(
            trtpipe="0.1.0", created="2026-01-01T00:00:00+00:00", command=command, source="net.onnx", git=git,
            machine={"cpu": "x86"}, toolchain={}, manifest="0" * 64,
        )  # fmt: skip

    def assembled(self, build: Path, folder: Path, origin: Provenance) -> Path:
        from trtpipe.config.description import ModelDescription
        from trtpipe.delivery.assembly import assemble

        folder.mkdir()
        found = read_build(build)
        assembly = with_provenance(assemble(found, ModelDescription()), found, origin, None, folder)
        assembly.sealed(folder).write_tar(folder / "p.tar")
        return folder / "p.tar"

    def test_a_commit_and_its_state_are_told(self, build: Path, tmp_path: Path) -> None:
        for dirty in (False, True):
            git = GitState(commit="c" * 40, dirty=dirty)
            found = read_provenance(Package.opened(self.assembled(build, tmp_path / str(dirty), self.origin(git=git))))
            assert found is not None
            assert (found.commit, found.dirty, found.created) == ("c" * 40, dirty, "2026-01-01T00:00:00+00:00")

    @pytest.mark.parametrize(("git", "met"), [
        (None, False), (GitState(commit="c" * 40, dirty=True), False), (GitState(commit="c" * 40, dirty=False), True),
    ])  # fmt: skip
    def test_a_policy_can_ask_for_a_clean_commit(
        self, build: Path, tmp_path: Path, git: GitState | None, met: bool
    ) -> None:
        found = read_provenance(Package.opened(self.assembled(build, tmp_path / "p", self.origin(git=git))))
        assert (not list(unmet(Requirements(clean_source=True), found))) == met
        assert list(unmet(Requirements(provenance=True), found)) == ["it has no signed provenance"]

    @pytest.mark.parametrize("secret", [
        "https://user:canary@example.org/r.git", "--token=canary", "password: canary", "api_key=canary",
        "https://bucket/x?X-Amz-Signature=canary&b=1", "AGE-SECRET-KEY-1CANARY", "hf_canaryCANARYcanary1234",
        "pkcs11:object=a?pin-value=canary",
    ])  # fmt: skip
    def test_secrets_are_taken_out(self, build: Path, tmp_path: Path, secret: str) -> None:
        origin = self.origin(command=("trtpipe", "build", secret))
        data = Package.opened(self.assembled(build, tmp_path / "p", origin)).read("provenance.intoto.json")
        assert b"canary" not in data.lower()
        assert b'"command":["trtpipe","build",' in data

    def test_what_the_build_recorded_is_in_the_package(self, build: Path, tmp_path: Path) -> None:
        recorded = Provenance.beside(build / "manifest.json")
        assert recorded is not None
        trtpipe.make_package(build, tmp_path / "pkg")
        found = trtpipe.verify_package(tmp_path / "pkg").provenance
        assert found is not None
        assert found.created == recorded.created
        assert (found.commit or None) == (recorded.git and recorded.git.commit)

    def test_that_of_another_package_is_refused(self, build: Path, tmp_path: Path) -> None:
        """Signed by the same key, and about another plan."""
        pair = key_pair(tmp_path)
        trtpipe.make_package(build, tmp_path / "pkg", sign=pair.path)
        found = Package.opened(tmp_path / "pkg")
        plan = replace(found.model.plans[0], sha256="0" * 64)
        files = tuple(replace(each, sha256="0" * 64) if each.name == plan.file else each for each in found.model.files)
        found.model = replace(found.model, plans=(plan,), files=files)
        with pytest.raises(InputError, match="about other files"):
            read_provenance(found)

    def test_that_of_another_signer_is_refused(self, build: Path, tmp_path: Path) -> None:
        pair, other = key_pair(tmp_path), key_pair(tmp_path, "other")
        trtpipe.make_package(build, tmp_path / "pkg", sign=pair.path)
        found = Package.opened(tmp_path / "pkg")
        assert read_provenance(found, pair.private.public_key()) is not None
        with pytest.raises(InputError, match="not signed by who signed the package"):
            read_provenance(found, other.private.public_key())

    def test_securesystemslib_verifies_it(self, build: Path, tmp_path: Path) -> None:
        pytest.importorskip("securesystemslib", reason="needs tests/interop_requirements.txt: model-signing")
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
        from securesystemslib.dsse import Envelope as Theirs
        from securesystemslib.signer import SSlibKey

        pair = key_pair(tmp_path)
        trtpipe.make_package(build, tmp_path / "pkg", sign=pair.path)
        data = (tmp_path / "pkg" / "provenance.dsse.json").read_bytes()
        envelope = json.loads(data)
        key = SSlibKey.from_crypto(
            load_pem_public_key(pair.public.read_bytes()), keyid=envelope["signatures"][0]["keyid"]
        )
        assert list(Theirs.from_dict(envelope).verify([key], 1)) == [key.keyid]
        assert json.loads(Envelope.parse_dsse(data, Path()).payload)["subject"]


@pytest.fixture(scope="module", params=["build", "package", "signed package"])
def finished(request: pytest.FixtureRequest, build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hand-over of a build or of a package, with the engine that finish.py built."""
    folder, source = tmp_path_factory.mktemp("finished"), build
    if request.param != "build":
        source = folder / "pkg.tar"
        trtpipe.make_package(build, source, sign=key_pair(folder).path if "signed" in request.param else None)
    trtpipe.make_package(source, folder / "l4", handover="l4")
    words = [sys.executable, "-I", folder / "l4" / "finish.py", "--flavor", "tensorrt-rtx", "--build-only"]
    subprocess.run(words, check=True, capture_output=True, timeout=300)
    return folder / "l4"


@pytest.mark.skipif(missing("tensorrt-rtx") is not None, reason="TensorRT-RTX is not installed")
class TestFinishedHandover:
    """A package of the engine that a hand-over came back with."""

    def test_what_is_handed_over_states_where_it_comes_from(self, build: Path, finished: Path) -> None:
        recorded, stated = Provenance.beside(build / "manifest.json"), read_provenance(Package.opened(finished))
        assert recorded is not None
        assert stated is not None
        assert (stated.source, stated.created, stated.signed) == ("net.onnx", recorded.created, False)

    @pytest.mark.parametrize("signed", [True, False])
    def test_has_a_provenance_of_its_own(self, build: Path, finished: Path, tmp_path: Path, signed: bool) -> None:
        pair = key_pair(tmp_path)
        trtpipe.make_package(finished, tmp_path / "pkg", sign=pair.path if signed else None)
        (tmp_path / "p.toml").write_text('[[signers]]\nkey = "signing.pub"\n[require]\nprovenance = true\n')
        found = trtpipe.verify_package(tmp_path / "pkg", policy=tmp_path / "p.toml" if signed else None)
        assert found.provenance is not None
        assert (found.provenance.source, found.provenance.signed) == ("net.onnx", signed)
        data = (tmp_path / "pkg" / found.model.provenance).read_bytes()
        content = json.loads(Envelope.parse_dsse(data, Path()).payload if signed else data)
        digests = {each["name"]: each["digest"]["sha256"] for each in content["subject"]}
        assert digests["sm89.plan"] == hashlib.sha256((finished / "sm89.plan").read_bytes()).hexdigest()
        definition = content["predicate"]["buildDefinition"]
        assert definition["externalParameters"]["targets"] == ["sm89"]
        assert definition["externalParameters"]["handover"]["profiles"][0]["x"]["max"] == [8, 3, 8, 8]
        engine = json.loads((finished / "sm89.plan.json").read_text())
        assert f"pkg:pypi/tensorrt-rtx@{engine['version']}" in [
            each.get("uri") for each in definition["resolvedDependencies"]
        ]
        manifest = trtpipe.Manifest.read(build / "manifest.json")
        exported = next(entry.files[0].sha256 for entry in manifest.artifacts if entry.label == "model")
        assert exported in [each.get("digest", {}).get("sha256") for each in definition["resolvedDependencies"]]
        assert definition["internalParameters"]["engineMachine"]["python"] == platform.python_version()
        recorded = Provenance.beside(build / "manifest.json")
        assert recorded is not None
        times = content["predicate"]["runDetails"]["metadata"]
        assert times["startedOn"] == recorded.created
        assert recorded.created <= times["finishedOn"] <= datetime.now(timezone.utc).isoformat(timespec="seconds")

    def test_has_a_bill_of_materials_of_its_own(self, build: Path, finished: Path, tmp_path: Path) -> None:
        trtpipe.make_package(finished, tmp_path / "pkg")
        trtpipe.make_package(build, tmp_path / "original")
        ours, theirs = (json.loads((tmp_path / name / "bom.cdx.json").read_text()) for name in ("pkg", "original"))
        files = {each["name"]: each["hashes"][0]["content"] for each in ours["metadata"]["component"]["components"]}
        assert files["sm89.plan"] == hashlib.sha256((finished / "sm89.plan").read_bytes()).hexdigest()
        engine = json.loads((finished / "sm89.plan.json").read_text())
        added = [each for each in ours["components"] if each not in theirs["components"]]
        assert [(each["name"], each["version"]) for each in added] == [("tensorrt-rtx", engine["version"])]
        assert [each for each in theirs["components"] if each not in ours["components"]] == []
        cards = [each["metadata"]["component"]["modelCard"] for each in (ours, theirs)]
        assert cards[0]["quantitativeAnalysis"] == cards[1]["quantitativeAnalysis"]


class TestBillOfMaterials:
    def document(self, build: Path, tmp_path: Path, **options: Any) -> dict[str, Any]:
        trtpipe.make_package(build, tmp_path / "pkg", **options)
        found: dict[str, Any] = json.loads((tmp_path / "pkg" / "bom.cdx.json").read_text())
        return found

    def test_lists_model_data_and_packages(self, build: Path, tmp_path: Path) -> None:
        description = trtpipe.ModelDescription(name="Net", version="3", classes=list("abcde"))
        (tmp_path / "LICENSE").write_text("free")
        options = {"description": description, "licenses": [tmp_path / "LICENSE"]}
        document = self.document(build, tmp_path, **options)
        manifest = trtpipe.Manifest.read(build / "manifest.json")
        model = document["metadata"]["component"]
        assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "Net", "3")
        assert model["modelCard"]["modelParameters"]["inputs"] == [{"format": "x: float32[Nx3x8x8]"}]
        assert model["licenses"] == [{"license": {"name": "LICENSE"}}]
        metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
        assert {metric["type"] for metric in metrics} == {"top1"}
        files = {each["name"]: each["hashes"][0]["content"] for each in model["components"]}
        assert files["sm89.plan"] == next(e.files[0].sha256 for e in manifest.artifacts if e.label == "engine:sm89")
        parts = {each["name"]: each for each in document["components"]}
        assert manifest.calibration is not None
        assert parts["calibration data"]["hashes"] == [{"alg": "SHA-256", "content": manifest.calibration.digest}]
        assert parts["onnx"]["purl"] == f"pkg:pypi/onnx@{manifest.toolchain['onnx']}"
        assert "null" not in parts
        (links,) = [each for each in document["dependencies"] if each["ref"] == model["bom-ref"]]
        assert sorted(links["dependsOn"]) == sorted(each["bom-ref"] for each in document["components"])

    @pytest.mark.parametrize("kind", ["plain", "described", "encrypted"])
    def test_the_official_schema_takes_it(self, build: Path, tmp_path: Path, kind: str) -> None:
        for module in ("cyclonedx", "jsonschema", "referencing", "rfc3987_syntax"):
            pytest.importorskip(module, reason="needs tests/interop_requirements.txt: cyclonedx-python-lib")
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator

        (tmp_path / "LICENSE").write_text("free")
        described = trtpipe.ModelDescription(name="Net", version="3", description="d", classes=list("abcde"))
        options: dict[str, dict[str, Any]] = {
            "plain": {}, "described": {"description": described, "licenses": [tmp_path / "LICENSE"]},
            "encrypted": {"encrypt_to": [identity(tmp_path)[1]]},
        }  # fmt: skip
        document = self.document(build, tmp_path, **options[kind])
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None


@pytest.mark.parametrize(("options", "words"), [
    ({"sign": "missing.pem"}, r"missing\.pem"),
    ({"sign": 3}, "sign: a int is not a path"),
    ({"sign": "pkcs11:object=a"}, "module-path"),
    ({"encrypt_to": "age1x"}, "not a list of recipients"),
    ({"encrypt_to": ["age1x"]}, "no public key"),
    ({"encrypt_to": [3]}, "not a list of recipients"),
])  # fmt: skip
def test_what_cannot_be_used_is_refused_and_nothing_is_written(
    build: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        trtpipe.make_package(build, tmp_path / "pkg", **options)
    assert not (tmp_path / "pkg").exists()


@pytest.mark.parametrize("change", ["empty", "no base64", "another package's"])
def test_without_a_key_a_signature_still_has_to_be_that_of_the_package(
    build: Path, tmp_path: Path, change: str
) -> None:
    pair = key_pair(tmp_path)
    made = trtpipe.make_package(build, tmp_path / "pkg", sign=pair.path).out
    assert trtpipe.verify_package(made).signed
    words = trtpipe.ModelDescription(version="2")
    other = trtpipe.make_package(build, tmp_path / "other", description=words, sign=pair.path).out
    signature = made / "model.sig"
    contents = {
        "empty": b"",
        "no base64": signature.read_bytes().replace(b'"sig":"', b'"sig":"*'),
        "another package's": (other / "model.sig").read_bytes(),
    }
    signature.write_bytes(contents[change])
    with pytest.raises(InputError, match=r"model\.sig: |changed since the package was signed"):
        trtpipe.verify_package(made)


_VERIFY = """
import sys
for name in ("pydantic", "onnx", "onnx_ir", "ml_dtypes", "numpy", "rich", "pyrage"):
    sys.modules[name] = None  # an import of it fails
import trtpipe
print(trtpipe.verify_package(sys.argv[1], key=sys.argv[2]).signatory.name)
"""


def test_a_signature_is_checked_with_cryptography_alone(tmp_path: Path) -> None:
    pair = key_pair(tmp_path)
    words = [sys.executable, "-c", _VERIFY, str(signed_package(tmp_path, pair.path)), str(pair.public)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("signing.pub\n", "")
