"""Logging in and out, and one's own account."""

from __future__ import annotations

import logging

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login as begin_session
from django.contrib.auth import logout as end_session
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.forms import AuthenticationForm
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render, resolve_url
from django.urls import path
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from console import actions, login_limit, people
from console.auth import require
from serving.errors import RaydeckError

log = logging.getLogger(__name__)

TOO_MANY = "Too many failed attempts for this name from your address. Wait ten minutes and try again."
WRONG = "Name and password do not match an active account. Both are case-sensitive."


class LoginForm(AuthenticationForm):
    """Name and password."""

    error_messages = {"invalid_login": WRONG, "inactive": WRONG}
    username = forms.CharField(
        max_length=150,
        label="Name",
        widget=forms.TextInput(
            attrs={"class": "inp", "autocomplete": "username", "autocapitalize": "none", "autofocus": True}
        ),
    )
    password = forms.CharField(
        label="Password",
        strip=False,
        widget=forms.PasswordInput(attrs={"class": "inp", "autocomplete": "current-password"}),
    )


class PasswordForm(forms.Form):
    """The present password and the new one, twice."""

    current = forms.CharField(
        label="Present password",
        strip=False,
        widget=forms.PasswordInput(attrs={"class": "inp", "autocomplete": "current-password"}),
    )
    new = forms.CharField(
        label="New password",
        strip=False,
        help_text="At least 10 characters, and not a common one.",
        widget=forms.PasswordInput(attrs={"class": "inp", "autocomplete": "new-password"}),
    )
    again = forms.CharField(
        label="New password again",
        strip=False,
        widget=forms.PasswordInput(attrs={"class": "inp", "autocomplete": "new-password"}),
    )

    def clean_again(self) -> str:
        """Both entries of the new password must be the same."""
        again = str(self.cleaned_data["again"])
        if again != self.cleaned_data.get("new"):
            raise forms.ValidationError("The two entries of the new password differ.")
        return again


@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def login(request: HttpRequest) -> HttpResponse:
    """Log in and go on to where one was going, on this site only."""
    onward = _onward(request)
    if request.user.is_authenticated:
        return HttpResponseRedirect(onward)
    if request.method != "POST":
        return render(request, "session/login.html", {"form": LoginForm(request), "next": onward})
    who = {
        "username": request.POST.get("username", "")[:150],
        "address": request.META.get("REMOTE_ADDR", ""),
    }
    if login_limit.is_refused(**who):
        log.warning("login refused address=%s reason=too_many_failures", who["address"])
        return _refused(request, onward)
    form = LoginForm(request, data=request.POST)
    if not form.is_valid():
        login_limit.note_failure(**who)
        return render(request, "session/login.html", {"form": form, "next": onward}, status=400)
    login_limit.forget(**who)
    begin_session(request, form.get_user())
    return HttpResponseRedirect(onward)


@require_POST
def logout(request: HttpRequest) -> HttpResponse:
    """End the session."""
    end_session(request)
    return redirect(settings.LOGOUT_REDIRECT_URL)


@require("viewer")
@never_cache
@sensitive_post_parameters()
@require_http_methods(["GET", "HEAD", "POST"])
def profile(request: HttpRequest) -> HttpResponse:
    """One's own account: name, role, password."""
    form = PasswordForm(request.POST or None)
    if request.method != "POST":
        return render(request, "session/profile.html", {"form": form, "tab": "profile"})
    if form.is_valid():
        data = form.cleaned_data
        try:
            user = people.change_password(
                actor=actions.Actor(request.user, "page"),  # type: ignore[arg-type]
                current=data["current"],
                new=data["new"],
            )
        except RaydeckError as error:
            form.add_error("current" if error.field == "current" else "new", error.message)
        else:
            update_session_auth_hash(request, user)
            messages.success(request, "Your password is changed. Your other sessions have ended.")
            return redirect("profile")
    return render(request, "session/profile.html", {"form": form, "tab": "profile"}, status=400)


def _onward(request: HttpRequest) -> str:
    wanted = request.POST.get("next") or request.GET.get("next") or ""
    safe = url_has_allowed_host_and_scheme(
        wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return wanted if safe else resolve_url(settings.LOGIN_REDIRECT_URL)


def _refused(request: HttpRequest, onward: str) -> HttpResponse:
    form = LoginForm(request, initial={"username": request.POST.get("username", "")[:150]})
    response = render(
        request, "session/login.html", {"form": form, "next": onward, "refusal": TOO_MANY}, status=429
    )
    response.headers["Retry-After"] = str(login_limit.WINDOW_S)
    return response


urlpatterns = [
    path("login/", login, name="login"),
    path("logout/", logout, name="logout"),
    path("settings/profile/", profile, name="profile"),
]
