"""Secrets are made once, readable by their owner alone, and never in clear where the database holds them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from console import paths, secrets


@pytest.fixture(autouse=True)
def _own_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAYDECK_DATA_DIR", str(tmp_path / "data"))
    for variable in ("RAYDECK_SECRET_KEY", "RAYDECK_KEY_PEPPER", "RAYDECK_RAY_TOKEN_FILE"):
        monkeypatch.delenv(variable, raising=False)


SECRETS = [
    (secrets.secret_key, "secret_key"),
    (secrets.key_pepper, "key_pepper"),
    (secrets.redis_password, "redis_password"),
]


@pytest.mark.parametrize(("read", "file_name"), SECRETS)
def test_a_secret_is_generated_once_with_mode_0600(read: Callable[[], str], file_name: str) -> None:
    first = read()
    assert len(first) >= secrets.MINIMUM_SECRET_CHARACTERS
    assert read() == first
    assert (paths.secrets_dir() / file_name).stat().st_mode & 0o777 == 0o600
    assert paths.secrets_dir().stat().st_mode & 0o777 == 0o700


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    generated = secrets.key_pepper()
    monkeypatch.setenv("RAYDECK_KEY_PEPPER", "p" * 40)
    assert secrets.key_pepper() == "p" * 40 != generated


def test_a_short_secret_is_refused_without_being_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDECK_SECRET_KEY", "too-short")
    with pytest.raises(secrets.SecretError, match="RAYDECK_SECRET_KEY") as caught:
        secrets.secret_key()
    assert "too-short" not in str(caught.value)


def test_processes_that_start_together_agree_on_one_secret() -> None:
    command = [sys.executable, "-c", "from console import secrets; print(secrets.secret_key())"]
    processes = [
        subprocess.Popen(command, cwd=paths.PROJECT_ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    values = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert len(values) == 1
    assert [path.name for path in paths.secrets_dir().iterdir()] == ["secret_key"]


def test_an_empty_secret_file_is_an_error_not_an_empty_secret() -> None:
    (paths.secrets_dir() / "secret_key").write_text("\n")
    with pytest.raises(secrets.SecretError, match="is empty"):
        secrets.secret_key()


def test_encryption_returns_the_text_and_hides_it() -> None:
    token = secrets.encrypt("hf_example")
    assert "hf_example" not in token
    assert secrets.encrypt("hf_example") != token
    assert secrets.decrypt(token) == "hf_example"


def test_another_secret_key_cannot_decrypt_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    token = secrets.encrypt("hf_example")
    monkeypatch.setenv("RAYDECK_SECRET_KEY", "k" * 50)
    with pytest.raises(secrets.SecretError, match="restore"):
        secrets.decrypt(token)


def test_a_given_ray_token_file_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAYDECK_RAY_TOKEN_FILE", str(tmp_path / "their_token"))
    assert secrets.ray_token_file() == tmp_path / "their_token"
    assert not (tmp_path / "their_token").exists()


def test_the_generated_ray_token_is_a_file_with_a_token() -> None:
    assert secrets.ray_token_file().read_text().strip()
    assert secrets.ray_token_file().stat().st_mode & 0o777 == 0o600
