"""`python manage.py createtoken NAME --role operator`: a bearer token for the REST API, printed once."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from console.events import Actor
from console.models import Role, User
from console.people import create_token
from serving.errors import InvalidSpec


class Command(BaseCommand):
    """Prints the token alone on standard output, so that a script can take it."""

    help = "Create a bearer token for the REST API and print it once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds the token's name, role and owner."""
        parser.add_argument("name", help="what the token is for, shown in the console")
        parser.add_argument("--role", choices=Role.values, default=Role.OPERATOR.value)
        parser.add_argument("--user", default="admin", help="whose token it is (default: admin)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Create and print. Raises CommandError for an unknown user, a role above theirs, or a bad name."""
        user = User.objects.filter(username=options["user"], is_active=True).first()
        if user is None:
            raise CommandError(f"There is no active user {options['user']!r}.")
        try:
            _, plaintext = create_token(actor=Actor(user, "cli"), name=options["name"], role=options["role"])
        except InvalidSpec as error:
            raise CommandError(f"{error.field}: {error.message}") from error
        self.stdout.write(plaintext)
        self.stderr.write("Keep it: it is stored as a hash and cannot be shown again.")
