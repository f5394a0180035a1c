"""A signed video tells a C2PA reader what made it; what cannot be signed is said without a secret."""

from __future__ import annotations

import datetime
import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from comfyui_sonic.sonic.content_credentials import Signing, check_signing, sign_mp4
from comfyui_sonic.sonic.errors import BadSetting, CannotWrite, SonicError
from comfyui_sonic.sonic.labels import aigc_mark
from comfyui_sonic.sonic.video import copy_mp4, write_mp4

FRAMES = [np.full((64, 96, 3), 9 * index, np.uint8) for index in range(20)]


@pytest.fixture
def chain(tmp_path: Path) -> Signing:
    """A certificate of our own authority, and its key."""
    pytest.importorskip("c2pa")
    return make_chain(tmp_path, "signer")


def make_chain(folder: Path, who: str) -> Signing:
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    now = datetime.datetime.now(datetime.UTC)

    def named(name: str) -> Any:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )

    def usage(*uses: str) -> Any:
        names = (
            "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
            "key_cert_sign crl_sign encipher_only decipher_only"
        )
        return x509.KeyUsage(**{name: name in uses for name in names.split()})

    def begun(subject: str, public_key: Any, is_authority: bool, *uses: str) -> Any:
        return (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named("authority"))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(usage(*uses), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        )

    root = begun("authority", root_key.public_key(), True, "key_cert_sign", "crl_sign")
    leaf = begun(who, key.public_key(), False, "digital_signature")
    leaf = leaf.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
    leaf = leaf.add_extension(issuer, critical=False)
    pem = serialization.Encoding.PEM
    certificates = [one.sign(root_key, hashes.SHA256()).public_bytes(pem) for one in (leaf, root)]
    (folder / f"{who}.pem").write_bytes(b"".join(certificates))
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{who}.key").write_bytes(secret)
    return Signing(folder / f"{who}.pem", folder / f"{who}.key")


def seal(signing: Signing) -> Callable[[Path], None]:
    return lambda path: sign_mp4(path, signing, "a.mp4")


def test_a_reader_finds_the_signed_statement_and_the_video_is_otherwise_the_same(
    tmp_path: Path, chain: Signing
) -> None:
    import c2pa

    folder = tmp_path / "videos"
    folder.mkdir()
    write_mp4(folder / "a.mp4", FRAMES, 25, metadata=aigc_mark("us"), seal=seal(chain))
    copy_mp4(folder / "a.mp4", folder / "b.mp4", seal=seal(chain))
    for path in (folder / "a.mp4", folder / "b.mp4"):
        with c2pa.Reader(path) as reader:
            store = json.loads(reader.json())
        assert store["validation_state"] in ("Valid", "Trusted")
        assert "DigitalSource" in json.dumps(store) or "digitalSourceType" in json.dumps(store)
        manifest = store["manifests"][store["active_manifest"]]
        assert manifest["signature_info"]["common_name"] == "signer"
        assert "compositeWithTrainedAlgorithmicMedia" in json.dumps(manifest["assertions"])
        with av.open(str(path)) as container:
            assert json.loads(container.metadata["AIGC"])["ContentProducer"] == "us"
            assert sum(1 for _ in container.decode(video=0)) == 20
    assert sorted(path.name for path in folder.iterdir()) == ["a.mp4", "b.mp4"]


def test_a_changed_picture_is_found_out(tmp_path: Path, chain: Signing) -> None:
    import c2pa

    write_mp4(tmp_path / "a.mp4", FRAMES, 25, seal=seal(chain))
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    content[content.index(b"mdat") + 200] ^= 0xFF
    (tmp_path / "a.mp4").write_bytes(content)
    with c2pa.Reader(tmp_path / "a.mp4") as reader:
        assert json.loads(reader.json())["validation_state"] == "Invalid"


def test_a_key_of_somebody_else_and_a_broken_one_are_said_without_a_word_of_them(
    tmp_path: Path, chain: Signing
) -> None:
    broken = tmp_path / "broken.key"
    broken.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    folder = tmp_path / "videos"
    folder.mkdir()
    for key in (make_chain(tmp_path, "other").key, broken):
        with pytest.raises(CannotWrite, match=r"cannot be signed .*belongs to the certificate") as raised:
            write_mp4(folder / "a.mp4", FRAMES, 25, seal=seal(replace(chain, key=key)))
        assert "c2VjcmV0" not in str(raised.value) and raised.value.__cause__ is None
        assert list(folder.iterdir()) == []


def test_what_signing_needs_is_said_before_anything_is_made(tmp_path: Path, chain: Signing) -> None:
    def sentence(signing: Signing) -> str:
        with pytest.raises(SonicError) as raised:
            check_signing(signing)
        return str(raised.value)

    check_signing(chain)
    assert sentence(replace(chain, key=None)).startswith("SONIC_C2PA_KEY: is not set")
    assert "No such file" in sentence(replace(chain, certificate=tmp_path / "gone.pem"))
    (tmp_path / "no.pem").write_text("secret words")
    assert sentence(replace(chain, key=tmp_path / "no.pem")).endswith("is no PEM file.")
    assert sentence(replace(chain, algorithm="rot13")).startswith("SONIC_C2PA_ALGORITHM: 'rot13' is none of es256")


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadSetting, match="signing needs the package c2pa-python"):
        check_signing(Signing(None, None))
