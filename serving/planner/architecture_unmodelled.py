"""Raised by a family's builder when a config uses a variant that its closed form does not cover. Pure."""


class Unmodelled(Exception):
    """The message says which trait is not covered; the plan's verdict then is "unknown"."""
