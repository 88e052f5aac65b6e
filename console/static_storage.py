"""Static files under hashed names, compressed once, so that browsers may keep them for ever."""

from typing import Any

from whitenoise.storage import CompressedManifestStaticFilesStorage


def _without_source_maps(patterns: tuple[Any, ...]) -> tuple[Any, ...]:
    kept = []
    for glob, rules in patterns:
        wanted = tuple(rule for rule in rules if "sourceMappingURL" not in str(rule))
        if wanted:
            kept.append((glob, wanted))
    return tuple(kept)


class HashedStaticFiles(CompressedManifestStaticFilesStorage):
    """Does not look for source maps: vendored files name theirs, which are not shipped, and the files
    themselves stay as published, so that their hashes can be tested."""

    patterns = _without_source_maps(CompressedManifestStaticFilesStorage.patterns)
