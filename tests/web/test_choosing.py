"""Strategies, their options, the budget and second looks over HTTP."""

from __future__ import annotations

from fastapi.testclient import TestClient

import strategies.base
from tests.web.conftest import AUTH


def test_every_strategy_is_listed_with_its_options(client: TestClient) -> None:
    listed = {one["name"]: one for one in client.get("/api/strategies", auth=AUTH).json()}
    assert tuple(listed) == strategies.base.names()
    assert listed["edit_time"]["options"] == [
        {
            "name": "order",
            "default": "hard_first",
            "help": "curriculum: from easy to hard while the project progresses",
            "wanted": "hard_first, easy_first, curriculum",
        }
    ]
    assert {"name": "entropy", "wanted": "0 to 100"}.items() <= {
        key: value
        for option in listed["hybrid"]["options"]
        if option["name"] == "entropy"
        for key, value in option.items()
    }.items()


def test_a_foreign_strategy_that_is_broken_does_not_hide_the_others(
    client: TestClient, monkeypatch: object
) -> None:
    real = strategies.base.get

    def get(name: str) -> strategies.base.Strategy:
        if name == "margin":
            raise ValueError("strategy 'margin' (theirs) has no summary")
        return real(name)

    monkeypatch.setattr(strategies.base, "get", get)  # type: ignore[attr-defined]
    listed = {one["name"]: one for one in client.get("/api/strategies", auth=AUTH).json()}
    assert listed["margin"]["summary"].startswith("Cannot be used: strategy 'margin' (theirs)")
    assert len(listed) == len(strategies.base.names())


def test_options_are_changed_at_run_time(client: TestClient, project: int) -> None:
    url = f"/api/projects/{project}"
    change = {"strategy": "hybrid", "strategy_options": {"entropy": 1, "edit_time": 0.5}}
    answer = client.patch(url, json=change, auth=AUTH)
    assert answer.status_code == 200
    assert answer.json()["strategy_options"] == {"entropy": 1, "edit_time": 0.5}
    answer = client.patch(url, json={"strategy_options": {"coreset": 2}}, auth=AUTH)
    assert (answer.json()["strategy"], answer.json()["strategy_options"]) == (
        "hybrid", {"coreset": 2},
    )  # fmt: skip
    answer = client.patch(url, json={"strategy": "edit_time"}, auth=AUTH)
    assert answer.json()["strategy_options"] == {}
    refused = client.patch(url, json={"strategy_options": {"order": "lazy"}}, auth=AUTH)
    assert refused.status_code == 400
    assert "option order is 'lazy'; give hard_first, easy_first, curriculum" in refused.text
    assert client.get(url, auth=AUTH).json()["strategy_options"] == {}


def test_the_weighting_of_samples_is_changed_at_run_time(client: TestClient, project: int) -> None:
    url = f"/api/projects/{project}"
    assert client.get(url, auth=AUTH).json()["weighting"] == "off"
    assert client.patch(url, json={"weighting": "curriculum"}, auth=AUTH).status_code == 200
    assert client.patch(url, json={"weighting": "lazy"}, auth=AUTH).status_code in (400, 422)
    assert client.get(url, auth=AUTH).json()["weighting"] == "curriculum"


def test_the_budget_and_second_looks_are_there(client: TestClient, project: int) -> None:
    url = f"/api/projects/{project}"
    asked = {"annotators": 2, "minutes": 90}
    found = client.get(f"{url}/budget", params=asked, auth=AUTH)
    assert found.status_code == 200 and found.json()["tasks"] == []
    assert found.json()["forecast"] == "2 annotators with 90 minutes: no task is open"
    refused = client.get(f"{url}/budget", params={**asked, "annotators": 0}, auth=AUTH)
    assert refused.status_code == 400 and "give 1 to 1000" in refused.text
    assert client.get(f"{url}/budget", auth=AUTH).status_code in (400, 422)
    assert client.get("/api/projects/99/budget", params=asked, auth=AUTH).status_code == 404
    assert client.get(f"{url}/review", auth=AUTH).json() == []
    assert client.get(f"{url}/choices", auth=AUTH).json() == []
