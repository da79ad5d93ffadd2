"""Checks of Label Studio itself: address, release, key."""

from __future__ import annotations

from backend.doctor.case import Case, Check, Finding, error, ok, warning
from backend.errors import LabelStudioError
from backend.labelstudio.client import LabelStudio

KNOWN_GOOD = ("1.23.",)
LEGACY_OFF = "legacy token authentication has been disabled"
NEW_KEY = "export LABEL_STUDIO_API_KEY=TOKEN  # a personal access token from {url}/user/account"


def token(case: Case) -> Finding:
    """A key is set, and is not one that ends after minutes."""
    key, url = case.settings.label_studio_api_key, case.settings.label_studio_url
    if key is None:
        return error("LABEL_STUDIO_API_KEY is not set", command=NEW_KEY.format(url=url))
    try:
        case.client = LabelStudio(url, key.get_secret_value())
    except LabelStudioError as wrong:
        return error(str(wrong), command=NEW_KEY.format(url=url))
    return ok(f"LABEL_STUDIO_API_KEY is a {case.client.session.kind}")


def label_studio(case: Case) -> Finding:
    """Label Studio answers at its address."""
    try:
        case.client.health()
    except LabelStudioError as wrong:
        why = "proposals are not published and events not fetched"
        return error(str(wrong), why=why, command="label-studio start")
    return ok(f"answers at {case.client.url}")


def release(case: Case) -> Finding:
    """Its release is one that we were tested with."""
    found = case.client.version()
    if found.startswith(KNOWN_GOOD):
        return ok(f"Label Studio {found}")
    known = ", ".join(f"{release}x" for release in KNOWN_GOOD)
    return warning(
        f"Label Studio {found}; tested with {known}",
        why="it may behave otherwise",
        command="pip install 'label-studio~=1.23.2'",
    )


def key(case: Case) -> Finding:
    """Label Studio takes the key."""
    try:
        user = case.client.me()
    except LabelStudioError as wrong:
        if wrong.status is None:
            raise
        return _refused_key(case.client, wrong)
    return ok(f"works, as {user.get('email') or user.get('username')}")


def _refused_key(client: LabelStudio, wrong: LabelStudioError) -> Finding:
    command = NEW_KEY.format(url=client.url)
    if LEGACY_OFF in str(wrong):
        return error(
            "LABEL_STUDIO_API_KEY is a legacy token, and the organization has switched those off",
            why="nothing can be read or published; its owner can allow them again on "
            f"{client.url}/organization (API Tokens Settings)",
            command=command,
        )
    return error(str(wrong), why="nothing can be read or published", command=command)


CHECKS = (
    Check("token", token, ("settings",)),
    Check("label studio", label_studio, ("token",)),
    Check("release", release, ("label studio",)),
    Check("key", key, ("label studio",)),
)
