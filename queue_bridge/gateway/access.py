"""Who asks, and whether they may."""

from __future__ import annotations

import ipaddress
import math

from aiohttp import web

from .api_keys import NOBODY, Caller
from .context import Gateway
from .operations import UNLOCKED, Operation
from .problem import Problem

FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


async def admitted(request: web.Request, gateway: Gateway, operation: Operation) -> Caller:
    """The caller, who may do this and has not asked too often. Raises Problem."""
    if not operation.scope or (operation.name == UNLOCKED and is_local(request)):
        return NOBODY
    caller = await _identified(request, gateway)
    if not caller.may(operation.scope):
        raise Problem("forbidden", f"This needs the scope '{operation.scope}'; the key has none that includes it.")
    if caller.rate and (wait_s := await gateway.store.admit(caller.id, caller.rate)):
        seconds = math.ceil(wait_s)
        detail = f"This key may ask {caller.rate} times a minute; ask again in {seconds} s."
        raise Problem("too-many-requests", detail, {"Retry-After": str(seconds)})
    return caller


async def _identified(request: web.Request, gateway: Gateway) -> Caller:
    if text := _key_in(request):
        if caller := await gateway.keys.caller_of(text):
            return caller
        raise _unauthorized("This API key is unknown or revoked.")
    if not gateway.is_open and not (is_local(request) and not await gateway.keys.any()):
        raise _unauthorized("Send an API key, as in 'Authorization: Bearer sq_...'.")
    _refuse_strange_pages(request, gateway)
    return NOBODY


def _key_in(request: web.Request) -> str:
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    if scheme and scheme.lower() != "bearer":
        raise _unauthorized("Only 'Authorization: Bearer sq_...' is taken.")
    return text.strip() or ("?" if scheme else request.headers.get("X-API-Key", ""))


def _refuse_strange_pages(request: web.Request, gateway: Gateway) -> None:
    """Where no key is needed, a page somewhere on the web must not use the gateway through its reader's browser."""
    origin = request.headers.get("Origin")
    own = f"{request.scheme}://{request.headers.get('Host', '')}"
    if origin and origin != own and origin not in gateway.settings.gateway_origins:
        raise Problem(
            "forbidden", "Pages of this origin may not use the gateway; gateway_origins names those that may."
        )
    if not gateway.is_open and not _is_local_name(request.url.host or ""):
        raise Problem("forbidden", "Without a key, address the gateway as localhost or 127.0.0.1.")


def _is_local_name(host: str) -> bool:
    return host == "localhost" or is_loopback(host)


def is_loopback(address: str) -> bool:
    """Whether an address is the machine itself."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def is_local(request: web.Request) -> bool:
    """Whether the client is on this machine; what a proxy there passes on is not."""
    if any(name in request.headers for name in FORWARDED):
        return False
    if request.transport is None:
        return False
    peer = request.transport.get_extra_info("peername")
    return not isinstance(peer, tuple) or is_loopback(str(peer[0]).removeprefix("::ffff:"))


def _unauthorized(detail: str) -> Problem:
    return Problem("unauthorized", detail, {"WWW-Authenticate": 'Bearer realm="sonic-queue"'})
