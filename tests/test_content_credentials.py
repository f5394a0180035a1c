"""A signed video tells a C2PA reader what made it; what cannot be signed is said without a secret."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from comfyui_sonic.sonic.content_credentials import Signing, check_signing, sign_mp4
from comfyui_sonic.sonic.errors import BadSetting, CannotWrite, SonicError
from comfyui_sonic.sonic.labels import aigc_mark
from comfyui_sonic.sonic.video import copy_mp4, write_mp4

from .certificates import make_chain

FRAMES = [np.full((64, 96, 3), 9 * index, np.uint8) for index in range(20)]


@pytest.fixture
def chain(tmp_path: Path) -> Signing:
    """A certificate of our own authority, and its key."""
    pytest.importorskip("c2pa", reason="the package c2pa-python is not installed")
    pytest.importorskip("cryptography")
    return make_chain(tmp_path, "signer")


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
