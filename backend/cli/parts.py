"""What the commands share: the terminal, the project's option, the services."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from backend.settings import Settings

if TYPE_CHECKING:
    from backend.wiring import Services

console = Console()

ProjectOption = Annotated[int, typer.Option("--project", "-p", help="Label Studio project id")]


def read_settings() -> Settings:
    """Read the settings out of the environment; raises SettingsError."""
    return Settings.from_env(os.environ)


def open_services() -> Services:
    """Build the services of this machine; raises SettingsError."""
    from backend.wiring import build

    return build(read_settings())
