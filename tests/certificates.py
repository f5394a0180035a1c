"""Certificates to sign videos with, made for a test and trusted by nobody."""

from __future__ import annotations

import datetime
import importlib.util
from pathlib import Path
from typing import Any

from comfyui_sonic.sonic.content_credentials import Signing

SIGNER = "signer"


def can_sign() -> bool:
    """Whether the packages that signing and its certificates need are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("c2pa", "cryptography"))


def signing_environment(folder: Path) -> dict[str, str]:
    """What a server has to know to sign; nothing where it could not."""
    if not can_sign():
        return {}
    signing = make_chain(folder, SIGNER)
    return {"SONIC_C2PA_CERTIFICATE": str(signing.certificate), "SONIC_C2PA_KEY": str(signing.key)}


def make_chain(folder: Path, who: str) -> Signing:
    """A signer's certificate by an authority of its own, and its key. Needs the package cryptography."""
    from cryptography import x509
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
