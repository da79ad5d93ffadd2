"""Stands for the answer of `predict`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ModelResponse:
    """predictions: one or a list per task."""

    predictions: list[Any] = field(default_factory=list)
