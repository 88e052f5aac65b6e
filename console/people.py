"""Writes on people and their API tokens: validate, one transaction, one event.

Nobody can hand out more than they have, and the last active administrator can neither leave nor step down.
Passwords and tokens never reach an event or a log.
"""

from __future__ import annotations

from django.contrib.auth.password_validation import validate_password
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from console import auth
from console.events import Actor, record
from console.models import ApiToken, Role, User
from serving.errors import InvalidSpec, NotFound


def create_token(*, actor: Actor, name: str, role: str) -> tuple[ApiToken, str]:
    """A bearer token for the actor and its plaintext, shown once. Its role is at most the actor's own."""
    user = _person(actor)
    name = name.strip()
    if not 1 <= len(name) <= 80:
        raise InvalidSpec("Give the token a name of 1 to 80 characters.", field="name")
    if role not in Role.values:
        raise InvalidSpec(f"Choose one of {', '.join(Role.values)}.", field="role")
    if not auth.role_allows(user.role, role):
        raise InvalidSpec(
            f"You are {user.get_role_display().lower()}: your tokens can be that at most.", field="role"
        )
    with transaction.atomic():
        token, plaintext = auth.create_token(user=user, name=name, role=role)
        _noted(
            actor, kind="token.created", message=f"Token “{name}” created, {role}", subject=("token", name)
        )
    return token, plaintext


def revoke_token(*, actor: Actor, token_id: int) -> ApiToken:
    """Revoke one's own token; an administrator may revoke anybody's."""
    user = _person(actor)
    tokens = ApiToken.objects.select_related("user")
    token = (tokens if user.role == Role.ADMIN else tokens.filter(user=user)).filter(pk=token_id).first()
    if token is None:
        raise NotFound("There is no such token.")
    with transaction.atomic():
        revoked = ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now())
        if revoked:
            _noted(
                actor,
                kind="token.revoked",
                message=f"Token “{token.name}” of {token.user.username} revoked",
                subject=("token", token.name),
            )
    return token


def add_person(*, actor: Actor, username: str, role: str, password: str) -> User:
    """A new account with a role and a first password."""
    username = username.strip()
    try:
        UnicodeUsernameValidator()(username)
    except ValidationError as error:
        raise InvalidSpec(str(error.message), field="username") from None
    if len(username) > 150:
        raise InvalidSpec("Keep the name under 150 characters.", field="username")
    if role not in Role.values:
        raise InvalidSpec(f"Choose one of {', '.join(Role.values)}.", field="role")
    user = User(username=username, role=role)
    _check_password(password, user)
    user.set_password(password)
    try:
        with transaction.atomic():
            user.save()
            _noted(actor, kind="user.added", message=f"{username} added, {role}", subject=("user", username))
    except IntegrityError:
        raise InvalidSpec(f"There already is somebody called {username}.", field="username") from None
    return user


def change_role(*, actor: Actor, user_id: int, role: str) -> User:
    """Give a person another role; tokens above it are revoked, since they would outlive the change."""
    if role not in Role.values:
        raise InvalidSpec(f"Choose one of {', '.join(Role.values)}.", field="role")
    with transaction.atomic():
        user = _locked(user_id)
        if user.role == role:
            return user
        _keep_one_admin(user, why="the role was not changed")
        before, user.role = user.role, role
        user.save(update_fields=["role"])
        above = [name for name in Role.values if not auth.role_allows(role, name)]
        ApiToken.objects.filter(user=user, revoked_at=None, role__in=above).update(revoked_at=timezone.now())
        _noted(
            actor,
            kind="user.role",
            message=f"{user.username}: {before} → {role}",
            subject=("user", user.username),
            change=(before, role),
        )
    return user


def set_active(*, actor: Actor, user_id: int, active: bool) -> User:
    """Switch an account off (its sessions and tokens stop working at once) or on again."""
    with transaction.atomic():
        user = _locked(user_id)
        if user.is_active == active:
            return user
        if not active:
            if actor.user and user.pk == actor.user.pk:
                raise InvalidSpec("You cannot switch your own account off.")
            _keep_one_admin(user, why="the account was not switched off")
        user.is_active = active
        user.save(update_fields=["is_active"])
        word = "switched on" if active else "switched off"
        _noted(
            actor,
            kind="user.active",
            message=f"{user.username} {word}",
            subject=("user", user.username),
            level="info" if active else "warn",
        )
    return user


def change_password(*, actor: Actor, current: str, new: str) -> User:
    """Change the actor's own password; other sessions of theirs end."""
    user = _person(actor)
    if not user.check_password(current):
        raise InvalidSpec("That is not your present password.", field="current")
    _check_password(new, user)
    if user.check_password(new):
        raise InvalidSpec("That is the password you already have.", field="new")
    user.set_password(new)
    with transaction.atomic():
        user.save(update_fields=["password"])
        _noted(
            actor,
            kind="user.password",
            message=f"{user.username} changed their password",
            subject=("user", user.username),
        )
    return user


def _person(actor: Actor) -> User:
    if actor.user is None:
        raise InvalidSpec("Only a person can do this.")
    return actor.user


def _locked(user_id: int) -> User:
    # All administrators are locked, so that two of them cannot switch each other off at the same moment.
    list(User.objects.select_for_update().filter(role=Role.ADMIN).values_list("pk"))
    user = User.objects.filter(pk=user_id).first()
    if user is None:
        raise NotFound("There is no such person.")
    return user


def _keep_one_admin(user: User, *, why: str) -> None:
    others = User.objects.filter(role=Role.ADMIN, is_active=True).exclude(pk=user.pk)
    if user.role == Role.ADMIN and user.is_active and not others.exists():
        raise InvalidSpec(f"{user.username} is the last administrator; {why}.")


def _check_password(password: str, user: User) -> None:
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise InvalidSpec(" ".join(error.messages), field="password") from None


def _noted(
    actor: Actor,
    *,
    kind: str,
    message: str,
    subject: tuple[str, str],
    change: tuple[str, str] | None = None,
    level: str = "info",
) -> None:
    record(
        actor=actor,
        kind=kind,
        message=message,
        subject_kind=subject[0],
        subject_name=subject[1][:100],
        level=level,
        before=change[0] if change else None,
        after=change[1] if change else None,
    )
