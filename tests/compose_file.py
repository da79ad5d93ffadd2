"""docker-compose.yml as `docker compose` reads it: variables filled in, merges done."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"
VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<rest>[^}]*))?\})")


class MissingVariable(LookupError):
    """A variable without a value, of which the file says that it must have one."""


def text() -> str:
    """Return the file as it is."""
    return FILE.read_text()


def variables() -> dict[str, str | None]:
    """Return the name of each variable in the file, with how it is used: ":?", ":-" or None."""
    found = [match for match in VARIABLE.finditer(text()) if match["name"]]
    return {match["name"]: match["how"] for match in found}


def read(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the file's content; raises MissingVariable."""

    def fill_in(match: re.Match[str]) -> str:
        name, how, rest = match["name"], match["how"], match["rest"]
        if name is None:
            return "$"
        value = environ.get(name, "")
        if not value and how == ":?":
            raise MissingVariable(f"{name}: {rest}")
        return value or (rest if how == ":-" else "")

    def walk(node: Any) -> Any:
        if isinstance(node, str):
            return VARIABLE.sub(fill_in, node)
        if isinstance(node, list):
            return [walk(item) for item in node]
        if isinstance(node, dict):
            return {key: walk(value) for key, value in node.items()}
        return node

    content: dict[str, Any] = walk(yaml.safe_load(text()))
    return content


def ours(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the services that run labelclimb, by name."""
    services: dict[str, dict[str, Any]] = content["services"]
    return {name: s for name, s in services.items() if s["image"].startswith("labelclimb:")}


def example() -> dict[str, str]:
    """Return the variables of .env.example."""
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)
