"""What one gateway replica itself has admitted in the last minute, per scope. Pure: every call takes `now`.

Two uses: while Redis is away, limits hold by it (per replica); when Redis is back, or has lost its data, it
is told again from it. Monotonic seconds; entries older than the window are let go.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from serving.cluster.limit_values import Limits, Refusal
from serving.limit_store import IN_FLIGHT, REQUESTS, TOKENS, WINDOW_S

Note = tuple[str, str, int, float]
"""What NOTE takes of one request: what, request id, value, age in seconds."""


class Window:
    """One scope as this replica knows it."""

    __slots__ = ("admitted", "running", "tokens", "tokens_total")

    def __init__(self) -> None:
        self.admitted: deque[tuple[float, str]] = deque()
        self.tokens: deque[tuple[float, str, int]] = deque()
        self.tokens_total = 0
        self.running: set[str] = set()

    def forget(self, now: float) -> None:
        """Let go of what has left the window."""
        since = now - WINDOW_S
        while self.admitted and self.admitted[0][0] <= since:
            self.admitted.popleft()
        while self.tokens and self.tokens[0][0] <= since:
            self.tokens_total -= self.tokens.popleft()[2]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known of it any more."""
        return not (self.admitted or self.tokens or self.running)

    def refusal(self, limits: Limits, now: float) -> Refusal | None:
        """The limit that this replica's own requests have reached."""
        self.forget(now)
        per_minute, tokens = limits.requests_per_minute, limits.tokens_per_minute
        if per_minute and len(self.admitted) >= per_minute:
            first = self.admitted[len(self.admitted) - per_minute][0]
            return Refusal(REQUESTS, limits, first + WINDOW_S - now)
        if tokens and self.tokens_total >= tokens:
            return Refusal(TOKENS, limits, self._tokens_wait_s(tokens, now))
        if limits.requests_in_flight and len(self.running) >= limits.requests_in_flight:
            return Refusal(IN_FLIGHT, limits, 1.0)
        return None

    def notes(self, now: float) -> Iterator[Note]:
        """All of it, as NOTE takes it."""
        self.forget(now)
        for at, request_id in self.admitted:
            yield "r", request_id, 0, now - at
        for at, request_id, tokens in self.tokens:
            yield "t", request_id, tokens, now - at
        for request_id in self.running:
            yield "f", request_id, 0, 0.0

    def _tokens_wait_s(self, limit: int, now: float) -> float:
        left = self.tokens_total
        for at, _, tokens in self.tokens:
            left -= tokens
            if left < limit:
                return at + WINDOW_S - now
        return float(WINDOW_S)


class Memory:
    """The windows of all scopes."""

    def __init__(self) -> None:
        self.windows: dict[str, Window] = {}
        self._full: dict[Limits, tuple[int, float]] = {}

    def note_refusal(self, refused: Refusal, now: float) -> None:
        """Redis refused: for all replicas together that scope is full until then, also when Redis is away."""
        if refused.what != IN_FLIGHT:  # that one may end at any moment
            self._full[refused.limits] = refused.what, now + refused.wait_s

    def refusal(self, limits: Iterable[Limits], now: float) -> Refusal | None:
        """Whether one of the scopes refuses; nothing is counted."""
        for one in limits:
            what, until = self._full.get(one, (0, 0.0))
            if now < until:
                return Refusal(what, one, until - now)
            window = self.windows.get(one.scope)
            refused = window.refusal(one, now) if window is not None else None
            if refused is not None:
                return refused
        return None

    def admit(self, request_id: str, limits: Iterable[Limits], now: float) -> None:
        """Count a request under all its scopes."""
        for one in limits:
            window = self.windows.get(one.scope)
            if window is None:
                window = self.windows[one.scope] = Window()
            if one.requests_per_minute:
                window.admitted.append((now, request_id))
            if one.requests_in_flight:
                window.running.add(request_id)

    def finish(self, request_id: str, limits: Iterable[Limits], tokens: int, now: float) -> None:
        """A request has ended, having used these tokens."""
        for one in limits:
            window = self.windows.get(one.scope)
            if window is None:
                window = self.windows[one.scope] = Window()
            window.running.discard(request_id)
            if tokens and one.tokens_per_minute:
                window.tokens.append((now, request_id, tokens))
                window.tokens_total += tokens

    def forget(self, now: float) -> None:
        """Let go of what is old, in every scope."""
        if self._full:
            self._full = {limits: entry for limits, entry in self._full.items() if now < entry[1]}
        for scope, window in list(self.windows.items()):
            window.forget(now)
            if window.is_empty:
                del self.windows[scope]
