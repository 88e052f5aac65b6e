"""API keys: how they are made and how they are hashed. Pure; knows no database and stores nothing.

A key is 256 random bits, so a keyed hash (HMAC-SHA256 under the server's pepper) is enough: there is no
dictionary to try, and a stolen table is useless without the pepper.
"""

import base64
import hashlib
import hmac
import secrets

KEY_PREFIX = "rd-"
TOKEN_PREFIX = "rdt-"
SHOWN_CHARACTERS = 9
"""How much of a key a list shows: `rd-` and six characters, which is enough to tell keys apart."""


def new_key(prefix: str = KEY_PREFIX) -> str:
    """A new secret: the prefix and 43 url-safe characters (256 bits)."""
    return prefix + secrets.token_urlsafe(32)


def digest_of(*, key: str, pepper: str) -> str:
    """Lower-case hex of HMAC-SHA256(pepper, key): what is stored and what the gateway looks up."""
    return hmac.new(pepper.encode(), key.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def internal_key(*, pepper: str, purpose: str) -> str:
    """The console's own key for one purpose (`playground`, `smoke`): derived, so it is never stored."""
    raw = hmac.new(pepper.encode(), f"internal:{purpose}".encode(), hashlib.sha256).digest()
    return KEY_PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def shown_prefix(key: str) -> str:
    """The part of a key that lists show."""
    return key[:SHOWN_CHARACTERS]
