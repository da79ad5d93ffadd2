"""What connecting calls ours, and what it finds wrong, without any server."""

from __future__ import annotations

from typing import Any

import pytest

from backend.steps import connect
from backend.web_names import SECRET_HEADER

URL = "http://127.0.0.1:9090"


def row(**changes: Any) -> dict[str, Any]:
    """An ML backend as Label Studio 1.23 lists it."""
    whole = {
        "id": 1,
        "state": "CO",
        "readable_state": "Connected",
        "is_interactive": True,
        "url": URL,
        "title": "labelclimb",
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": "ann",
        "basic_auth_pass_is_set": True,
    }
    return {**whole, **changes}


def webhook(**changes: Any) -> dict[str, Any]:
    """A webhook as Label Studio 1.23 lists it."""
    whole = {
        "id": 1,
        "url": f"{URL}/webhook",
        "headers": {SECRET_HEADER: "word"},
        "is_active": True,
        "send_payload": True,
        "send_for_all_actions": True,
        "actions": [],
    }
    return {**whole, **changes}


def test_backends_are_ours_by_address_or_title_and_the_one_at_our_address_is_kept() -> None:
    moved = row(id=1, url="http://former:9090")
    double, first = row(id=5, title="again"), row(id=3, url=f"{URL}/", title="x")
    stranger = row(id=2, url="http://other:9090", title="sam")
    found = connect.our_backends([moved, double, stranger, first], URL)
    assert [b["id"] for b in found] == [3, 5, 1]
    assert connect.our_backends([stranger], URL) == []


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({}, []),
        ({"url": f"{URL}/"}, []),
        ({"url": "http://former:9090"}, ["address http://former:9090"]),
        ({"title": "v7"}, ["title 'v7'"]),
        ({"is_interactive": False}, ["interactive tools off"]),
        ({"auth_method": "NONE"}, ["credentials missing"]),
        ({"basic_auth_user": "bob"}, ["credentials missing"]),
        ({"state": "ER", "readable_state": "Error"}, ["state 'Error'"]),
    ],
)
def test_the_faults_of_a_backend_are_named(changes: dict[str, Any], faults: list[str]) -> None:
    assert connect.backend_faults(row(**changes), URL, "ann") == faults


def test_webhooks_are_ours_by_address_or_header_and_the_one_at_our_address_is_kept() -> None:
    moved = webhook(id=1, url="http://former:9090/webhook", headers={SECRET_HEADER.lower(): "x"})
    bare = webhook(id=4, headers={})
    orphan = webhook(id=2, url="http://elsewhere/webhook", headers=None)
    stranger = webhook(id=3, url="http://chat/hook", headers={"X-Other": "y"})
    found = connect.our_webhooks([moved, bare, orphan, stranger], [URL, "http://elsewhere/"])
    assert [w["id"] for w in found] == [4, 1, 2]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"url": "http://former/webhook"}, "url"),
        ({"headers": {}}, "headers"),
        ({"headers": {SECRET_HEADER: "old"}}, "headers"),
        ({"is_active": False}, "is_active"),
        ({"send_payload": False}, "send_payload"),
        ({"send_for_all_actions": False}, "send_for_all_actions"),
    ],
)
def test_only_the_faulty_field_of_a_webhook_is_named(changes: dict[str, Any], field: str) -> None:
    assert list(connect.webhook_faults(webhook(**changes), URL, "word")) == [field]
    assert connect.webhook_faults(webhook(), URL, "word") == {}


@pytest.mark.parametrize(
    ("current", "shown", "held", "wanted"),
    [
        ("labelclimb", None, {}, ""),  # Label Studio puts a backend's title there by itself
        (None, None, {}, ""),
        ("gone", None, {}, ""),
        ("untrained", None, {"untrained": 3}, ""),
        ("theirs", None, {"theirs": 5}, "theirs"),
        ("theirs", "v2", {"theirs": 5, "v2": 5}, "v2"),
        ("v1", "v2.3", {"v1": 5, "v2.3": 5}, "v2.3"),
    ],
)
def test_the_version_to_show(
    current: str | None, shown: str | None, held: dict[str, int], wanted: str
) -> None:
    assert connect.wanted_version({"model_version": current}, shown, held) == wanted
