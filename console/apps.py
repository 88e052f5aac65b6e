"""The one Django app of the console."""

from django.apps import AppConfig


class ConsoleConfig(AppConfig):
    """Names the app; imports nothing heavy."""

    name = "console"
    default_auto_field = "django.db.models.BigAutoField"
