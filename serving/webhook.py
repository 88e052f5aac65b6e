"""Sending one signed message to an address that an administrator typed in. Knows no database.

The body is signed: X-Raydeck-Signature is "v1=" and the hexadecimal HMAC-SHA256, under the shared secret, of
the timestamp in X-Raydeck-Timestamp, a dot and the body. What this must not do: reach into private networks
unless that is allowed, follow a redirect, read or keep what the other side answers, or wait long for it.
The name is resolved once and the connection goes to the address that was checked.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import httpx

from serving.errors import InvalidSpec

DEADLINE_S = 8.0
CONNECT_S = 3.0
URL_MAX = 500
SIGNATURE_HEADER = "X-Raydeck-Signature"
TIMESTAMP_HEADER = "X-Raydeck-Timestamp"
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Outcome:
    """What became of one attempt: the HTTP status, if there was one, and why it failed, or nothing."""

    status: int | None
    error: str = ""


class NotAllowed(Exception):
    """The address must not be reached; the message says why."""


def signature(*, secret: str, timestamp: int, body: bytes) -> str:
    """What SIGNATURE_HEADER carries."""
    signed = str(timestamp).encode() + b"." + body
    return "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def checked_url(url: str) -> str:
    """The address, trimmed. Raises InvalidSpec for what is no http(s) address, or carries a login."""
    url = url.strip()
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        raise InvalidSpec("This is not a web address.", field="url") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        raise InvalidSpec("Give an address that begins with https:// or http://.", field="url")
    if parts.username is not None or parts.password is not None:
        raise InvalidSpec("Leave name and password out of the address; the secret signs.", field="url")
    if len(url) > URL_MAX or any(ord(letter) <= 32 or ord(letter) > 126 for letter in url):
        raise InvalidSpec(f"Use at most {URL_MAX} plain characters without spaces.", field="url")
    return url


OTHER_WAYS_TO_IPV4 = tuple(map(ipaddress.IPv6Network, ("::/96", "64:ff9b:1::/48", "fec0::/10")))
"""IPv4-compatible addresses, NAT64 of a network's own choosing, site-local ones: none is a public server."""


def is_allowed(address: Address, *, allow_private: bool) -> bool:
    """Whether a message may go there. Link-local (a cloud's metadata service), multicast, unspecified and
    reserved addresses never; loopback and private ones only with `allow_private`."""
    inner = _embedded(address)
    if inner is not None:
        return is_allowed(inner, allow_private=allow_private)
    if address.version == 6 and not address.is_loopback and any(address in one for one in OTHER_WAYS_TO_IPV4):
        return False
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return False
    if address.version == 4 and address.is_reserved:
        return False
    if address.is_loopback or address.is_private:
        return allow_private
    return address.is_global


def deliver(
    *, url: str, body: bytes, headers: dict[str, str], secret: str, timestamp: int, allow_private: bool
) -> Outcome:
    """One attempt, over after DEADLINE_S at the latest. Never raises for what the other side does."""
    signed = {
        **headers,
        "Content-Type": "application/json",
        "User-Agent": "Raydeck",
        TIMESTAMP_HEADER: str(timestamp),
        SIGNATURE_HEADER: signature(secret=secret, timestamp=timestamp, body=body),
    }
    try:
        return asyncio.run(_within(url, body, signed, allow_private))
    except NotAllowed as error:
        return Outcome(None, str(error))
    except TimeoutError:
        return Outcome(None, f"No answer within {DEADLINE_S:.0f} s.")
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        # The class alone: messages of the transport may carry addresses inside the network.
        return Outcome(None, f"The connection failed ({type(error).__name__}).")


async def _within(url: str, body: bytes, headers: dict[str, str], allow_private: bool) -> Outcome:
    async with asyncio.timeout(DEADLINE_S):
        return await _post(url, body, headers, allow_private)


async def _post(url: str, body: bytes, headers: dict[str, str], allow_private: bool) -> Outcome:
    parts = urlsplit(url)
    host = parts.hostname or ""
    address = await _resolved(parts, allow_private)
    literal = f"[{address}]" if address.version == 6 else str(address)
    pinned = parts._replace(netloc=f"{literal}:{parts.port}" if parts.port else literal, fragment="")
    # A proxy of the environment would resolve the name anew, and could reach what we may not.
    async with httpx.AsyncClient(
        timeout=httpx.Timeout(DEADLINE_S, connect=CONNECT_S), follow_redirects=False, trust_env=False
    ) as client:
        request = client.build_request(
            "POST",
            pinned.geturl(),
            content=body,
            headers={**headers, "Host": parts.netloc},
            extensions={"sni_hostname": host},
        )
        response = await client.send(request, stream=True)
        status = response.status_code
        await response.aclose()
    if 200 <= status < 300:
        return Outcome(status)
    if 300 <= status < 400:
        return Outcome(status, f"It answered {status}; redirects are not followed.")
    return Outcome(status, f"It answered {status}.")


async def _resolved(parts: SplitResult, allow_private: bool) -> Address:
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise NotAllowed("The name is not known.") from None
    addresses = [ipaddress.ip_address(str(info[4][0]).split("%")[0]) for info in found]
    # One forbidden address among several is enough: which one is taken would be chance.
    if not addresses or not all(is_allowed(one, allow_private=allow_private) for one in addresses):
        raise NotAllowed(
            "It leads to an address inside the network; RAYDECK_WEBHOOK_ALLOW_PRIVATE=1 allows loopback and "
            "private ones."
        )
    return addresses[0]


def _embedded(address: Address) -> Address | None:
    """The IPv4 address inside an IPv6 one (mapped, 6to4, NAT64), which is where the packets would go."""
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if address in ipaddress.ip_network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
