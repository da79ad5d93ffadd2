"""Trained versions: written once, complete or not at all, verified when they are read."""

from backend.registry.drafts import OWN_FILES
from backend.registry.places import Registry, at

__all__ = ["OWN_FILES", "Registry", "at"]
