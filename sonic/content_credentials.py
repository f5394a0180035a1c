"""C2PA: a signed statement inside the MP4 of what made it, by the package c2pa-python, where it is installed."""

from __future__ import annotations

import importlib.util
import json
import uuid
from dataclasses import dataclass
from pathlib import Path

from .errors import BadSetting, CannotWrite

ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")
MADE_BY = "Sonic for ComfyUI"
# A portrait and a recording of a person, and pictures that a machine has made of them.
KIND = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"


@dataclass(frozen=True)
class Signing:
    """certificate: PEM file of the chain, the signer's own first. key: PEM file, PKCS#8, without a password.

    timestamps: URL of a time stamping authority, or '' for none; only with one does signing use the network.
    """

    certificate: Path | None
    key: Path | None
    algorithm: str = "es256"
    timestamps: str = ""


def check_signing(signing: Signing) -> None:
    """Raises BadSetting when nothing could be signed: the package, a file or the algorithm is missing."""
    if importlib.util.find_spec("c2pa") is None:
        raise BadSetting(
            "content_credentials", "signing needs the package c2pa-python; install it with pip install c2pa-python."
        )
    _pem("SONIC_C2PA_CERTIFICATE", signing.certificate)
    _pem("SONIC_C2PA_KEY", signing.key)
    if signing.algorithm not in ALGORITHMS:
        raise BadSetting("SONIC_C2PA_ALGORITHM", f"'{signing.algorithm}' is none of {', '.join(ALGORITHMS)}.")


def _pem(name: str, file: Path | None) -> str:
    if file is None:
        raise BadSetting(name, "is not set; it names a PEM file, and signing needs it.")
    try:
        text = file.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no PEM file"
        raise BadSetting(name, f"'{file}' cannot be read: {reason}.") from None
    if "-----BEGIN" not in text:
        raise BadSetting(name, f"'{file}' is no PEM file.")
    return text


def sign_mp4(path: Path, signing: Signing, title: str) -> None:
    """Puts a signed manifest into an MP4, in its place. Raises BadSetting or CannotWrite, neither with a secret."""
    check_signing(signing)
    import c2pa

    manifest = {
        "claim_generator_info": [{"name": MADE_BY}],
        "title": title,
        "format": "video/mp4",
        "assertions": [
            {"label": "c2pa.actions", "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": KIND}]}}
        ],
    }
    certificate, key = _pem("SONIC_C2PA_CERTIFICATE", signing.certificate), _pem("SONIC_C2PA_KEY", signing.key)
    timestamps = signing.timestamps.encode() or None
    signed = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.mp4")
    try:
        info = c2pa.C2paSignerInfo(signing.algorithm.encode(), certificate.encode(), key.encode(), timestamps)
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(json.dumps(manifest)) as builder,
            path.open("rb") as source,
            signed.open("w+b") as target,
        ):
            builder.sign(signer, "video/mp4", source, target)
        signed.replace(path)
    except OSError as error:
        raise CannotWrite(f"The signed video cannot be written: {error.strerror or error}.") from error
    except c2pa.C2paError as error:
        # Its text is of certificates and files; the key itself is never in it, but nothing of it is passed on.
        kind = type(error).__name__.strip("_").removeprefix("C2pa")
        if kind == "Io":
            raise CannotWrite(f"The signed video cannot be written beside '{path.name}': is the disk full?") from None
        raise CannotWrite(
            f"The video cannot be signed ({kind}): check that the key in SONIC_C2PA_KEY belongs to the certificate in "
            "SONIC_C2PA_CERTIFICATE, that its chain is whole, and that SONIC_C2PA_ALGORITHM is theirs."
        ) from None
    finally:
        signed.unlink(missing_ok=True)
