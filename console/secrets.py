"""Secrets of one installation: generated once, kept in files only their owner can read, or given by
the environment. Also the encryption of secrets that the database has to hold (hub tokens).

Plain Python, no Django: settings import this. It must never log or print a secret; only the functions'
return values carry them.
"""

import base64
import os
import secrets as random_source
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from console.paths import secrets_dir

MINIMUM_SECRET_CHARACTERS = 32


class SecretError(RuntimeError):
    """A secret is unusable: too short, empty, or a text was encrypted under another key."""


def secret_key() -> str:
    """Django's signing key and the root of encryption at rest: RAYDECK_SECRET_KEY or a generated file.

    Raises SecretError when the given one has fewer than 32 characters.
    """
    return _given_or_generated(variable="RAYDECK_SECRET_KEY", file_name="secret_key")


def key_pepper() -> str:
    """Server pepper under which API keys are hashed: RAYDECK_KEY_PEPPER or a generated file.

    Raises SecretError when the given one has fewer than 32 characters.
    """
    return _given_or_generated(variable="RAYDECK_KEY_PEPPER", file_name="key_pepper")


def redis_password() -> str:
    """Password of the embedded Redis, generated once; url-safe, so it can stand in an address."""
    return _generated("redis_password")


def ray_token_file() -> Path:
    """File with the bearer token of Ray's HTTP API: RAYDECK_RAY_TOKEN_FILE, else one generated once.

    A given file is returned as it is, and is not read or created here.
    """
    given = os.environ.get("RAYDECK_RAY_TOKEN_FILE", "").strip()
    if given:
        return Path(given).expanduser()
    _generated("ray_token")
    return secrets_dir() / "ray_token"


def encrypt(text: str) -> str:
    """`text` encrypted and authenticated under the secret key (Fernet), as url-safe text."""
    return _fernet().encrypt(text.encode()).decode()


def decrypt(token: str) -> str:
    """The text behind a token made by `encrypt`.

    Raises SecretError when the token was made under another secret key or was altered.
    """
    try:
        return _fernet().decrypt(token.encode()).decode()
    except InvalidToken:
        raise SecretError(
            "A stored secret cannot be read with the present secret key; "
            "restore secrets/secret_key (or RAYDECK_SECRET_KEY) from the backup, or enter the secret again."
        ) from None


def _fernet() -> Fernet:
    # A key of its own for this purpose: the signing key itself never encrypts anything.
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"raydeck secrets at rest").derive(
        secret_key().encode()
    )
    return Fernet(base64.urlsafe_b64encode(derived))


def _given_or_generated(*, variable: str, file_name: str) -> str:
    given = os.environ.get(variable, "").strip()
    if not given:
        return _generated(file_name)
    if len(given) < MINIMUM_SECRET_CHARACTERS:
        raise SecretError(f"{variable} has fewer than {MINIMUM_SECRET_CHARACTERS} characters.")
    return given


def _generated(file_name: str) -> str:
    path = secrets_dir() / file_name
    if not path.exists():
        _create_once(path)
    value = path.read_text().strip()
    if not value:
        raise SecretError(
            f"{path} is empty; delete it to have a new one made, or restore it from the backup."
        )
    return value


def _create_once(path: Path) -> None:
    """Several processes may start at once: the file is written aside and linked into place, so that
    exactly one value ever becomes visible and nobody reads a half-written one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{random_source.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(random_source.token_urlsafe(48) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    try:
        os.link(aside, path)
    except FileExistsError:
        # Another process was first; its value is the one everybody uses.
        return
    finally:
        aside.unlink()
