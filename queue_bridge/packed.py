"""The longer texts of a job, packed for the queue's memory: JSON, compressed with a dictionary of what most jobs say.

What waits is packed quickly, by Zstandard; what is kept for days is packed small, by deflate.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from functools import lru_cache
from threading import get_ident
from typing import Any

import orjson
import zstandard

FORMAT, QUICK_FORMAT = b"\x01", b"\x02"  # the first byte of what is packed with DICTIONARY; JSON itself begins with {
WINDOW_BITS, MEMORY_LEVEL = -12, 5  # a job is below 4 KB; larger tables cost more time than the deflating itself
LONGEST_BYTES = 1 << 20  # of an unpacked text, so that nobody's few bytes become gigabytes
# Never to be changed: what was packed with it could not be read. Another one needs another FORMAT.
DICTIONARY = (
    b'"workflow":"portrait_speaks","workflow":"","history":[{"attempt":1,"kind":"may pass","instance":"","error":"'
    b'"failures":1,"crashes":1,"degradations":1,"warnings":["","resolution":1024,"degraded":true,"reason":"","notes":["'
    b'"config":{"duration":0,"resolution":1024,"resolution":768,"resolution":512,"engine":"auto","engine":"draft",'
    b'"inference_steps":25,"dynamic_scale":1.1,"motion_scale":1.05,"expand_ratio":0.18,"crop":false,"crop":true,'
    b'"face_index":0,"seed":72589,"fps":25}'
    b'"class":"priority","lane":"1024-sonic","lane":"768","lane":"512","batch":"tsk_20261","submitted_ms":1800000000000,'
    b'"result":{"output":"file:///","bytes":1000000,"seconds":10.5,"instance":"host-8188","attempt":1,"warnings":[],'
    b'"resolution":512,"degraded":false,"report":{"engine":"sonic","frames":125,"fps":25,"seconds":5.0,"notes":[]}}}'
    b'{"image":"file:///.png","audio":"file:///.wav","output":"file:///","name":".mp4","submitted_ms":180000'
    b'"started_ms":1800000'
)

LEVEL = 9  # of deflating
THREADS = 64  # with a compressor each
QUICK_LEVEL = -1  # of Zstandard: a third of deflate's time, for a quarter more bytes


def quickly_packed(document: Mapping[str, Any]) -> bytes:
    """A JSON object in few bytes, quickly."""
    text = _json(document)
    return min(text, QUICK_FORMAT + _compressor(get_ident()).compress(text), key=len)


def packed(document: Mapping[str, Any]) -> bytes:
    """A JSON object in as few bytes as can be had."""
    text = _json(document)
    deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOW_BITS, MEMORY_LEVEL, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
    return min(text, FORMAT + deflate.compress(text) + deflate.flush(), key=len)


def unpacked(data: bytes) -> Any:
    """What was packed in either way, or what somebody wrote as plain JSON. Raises ValueError when it is neither."""
    if data.startswith(FORMAT):
        inflate = zlib.decompressobj(WINDOW_BITS, DICTIONARY)
        try:
            data = inflate.decompress(data[1:], LONGEST_BYTES)
        except zlib.error as error:
            raise ValueError(f"it cannot be unpacked: {error}") from error
    elif data.startswith(QUICK_FORMAT):
        data = _quickly_unpacked(data[1:])
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:  # which knows neither half letters nor NaN
        return json.loads(data.decode("utf-8", "surrogateescape"))


def _quickly_unpacked(data: bytes) -> bytes:
    try:
        if zstandard.get_frame_parameters(data).content_size > LONGEST_BYTES:
            raise ValueError(f"it would take more than {LONGEST_BYTES} bytes unpacked")
        return _decompressor(get_ident()).decompress(data)
    except zstandard.ZstdError as error:
        raise ValueError(f"it cannot be unpacked: {error}") from error


# Making one takes several times as long as using it, and no two threads may use one at the same time.


@lru_cache(THREADS)
def _compressor(thread: int) -> zstandard.ZstdCompressor:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        QUICK_LEVEL, window_log=-WINDOW_BITS, write_content_size=True, write_dict_id=False
    )
    dictionary = _dictionary()
    dictionary.precompute_compress(compression_params=parameters)
    return zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters)


@lru_cache(THREADS)
def _decompressor(thread: int) -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor(dict_data=_dictionary())


def _dictionary() -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(DICTIONARY, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _json(document: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:  # half a letter, as in a damaged file name, or a number of more than 64 bits
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")


def short_key(key: str) -> str:
    """12 letters for a text of any length: 70 bits of its digest, which no two of millions share in practice.

    The first two are one of 1024 pairs (keys.BUCKET).
    """
    digest = bytearray(hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=9).digest())
    digest[1] &= 0b11001111
    return urlsafe_b64encode(digest).decode()
