"""What is said of engine arguments that the pinned vLLM does not take."""

import pytest

from serving.data import make_vllm_engine_arguments as maker
from serving.engine_support import unknown_argument


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("enable_prefix_cache", "Did you mean “enable_prefix_caching”?"),
        ("max_model_lenn", "Did you mean “max_model_len”? It cannot be set here: set the context length."),
        ("nonsense", "“nonsense” is no engine argument of vLLM 0.29.0."),
        ("a" * 80, "is no engine argument"),
    ],
)
def test_an_unknown_argument_is_said_with_the_likely_one(name: str, words: str) -> None:
    assert words in unknown_argument(["enforce_eager", name])


def test_known_arguments_of_engine_and_front_end_pass() -> None:
    assert unknown_argument(["enforce_eager", "enable_log_requests", "enable_auto_tool_choice"]) == ""


def test_the_shipped_names_are_those_of_the_installed_release() -> None:
    try:
        names = maker.installed_names()
    except SystemExit as missing:
        pytest.skip(str(missing))
    assert maker.TARGET.read_text() == maker.as_text(names)
