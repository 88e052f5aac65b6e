"""What is blanked in text that Ray and engines wrote."""

import pytest

from serving.redaction import without_secrets


@pytest.mark.parametrize(
    "secret",
    [
        "hf_abcdefghijklmnopqrst",
        "rd-abcdefghijklmnopqrstuvwxyz",
        "rdt-abcdefghijklmnopqrstuvwxyz",
        "sk-abcdefghijklmnopqrst",
        "AKIAABCDEFGHIJKLMNOP",
        "postgres://raydeck:pass-word@host/name",
        "redis://:pass-word@host",
        "Authorization: Bearer pass-word",
    ],
)
def test_a_secret_is_blanked_and_the_rest_stays(secret: str) -> None:
    shown = without_secrets(f"before {secret} after")
    assert "pass-word" not in shown and "abcdefgh" not in shown and "ABCDEFGH" not in shown
    assert shown.startswith("before ") and shown.endswith(" after") and "…" in shown


@pytest.mark.parametrize("text", ["http://127.0.0.1:8000/v1", "ValueError: 28 % 3", "rd-short", "a@b"])
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert without_secrets(text) == text
