"""The one hierarchy of errors the domain raises.

An error says what is wrong in words for people. `field` names the input that caused it, when one did;
`permanent` says whether the same call can ever succeed without somebody changing something.
"""


class RaydeckError(Exception):
    """Base of all domain errors.

    `message` is shown to people as it is; `field` is the dotted name of the offending input, or None;
    `permanent` is False where a later retry of the same call may succeed.
    """

    def __init__(self, message: str, *, field: str | None = None, permanent: bool = True) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.permanent = permanent


class InvalidSpec(RaydeckError):
    """A wanted state that can never be right: a bad name, size, argument or combination."""


class RayUnavailable(RaydeckError):
    """Ray did not answer, or not in time; says nothing about what runs there."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message, field=field, permanent=False)


class RayRefused(RaydeckError):
    """Ray answered and refused: a missing or wrong token, an unknown address, an unknown file."""


class ConfigRejected(RaydeckError):
    """Serve rejected the whole document; the message carries Ray's own words."""


class HeadNotReady(RaydeckError):
    """The Ray head did not become ready in time, or ended while starting."""

    def __init__(self, message: str) -> None:
        super().__init__(message, permanent=False)


class NotFound(RaydeckError):
    """The named thing does not exist."""


class NotPlaceable(RaydeckError):
    """The cluster cannot hold it; `arithmetic` says what is needed, what there is, and who holds the rest."""

    def __init__(self, message: str, *, arithmetic: list[str], field: str | None = None) -> None:
        super().__init__(message, field=field, permanent=False)
        self.arithmetic = arithmetic


class InUse(RaydeckError):
    """It cannot be deleted while others use it; the message names them."""


class Conflict(RaydeckError):
    """Somebody else changed it first. `current`: {version, changed_by, changed_at, values} as it is now."""

    def __init__(self, message: str, *, current: dict[str, object], field: str | None = None) -> None:
        super().__init__(message, field=field)
        self.current = current
