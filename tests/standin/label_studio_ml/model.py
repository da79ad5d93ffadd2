"""Stands for the base class of models; its cache is a dict."""

from __future__ import annotations


class LabelStudioMLBase:
    """Made anew for every request."""

    cache: dict[tuple[str, str], str] = {}  # noqa: RUF012 - of all objects, as the real one's is

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        if label_config is not None:
            self.set("label_config", label_config)
        if not self.get("model_version"):
            self.set("model_version", "0.0.1")
        self.setup()

    def setup(self) -> None:
        raise NotImplementedError

    def get(self, key: str) -> str | None:
        return self.cache.get((self.project_id, key))

    def set(self, key: str, value: str) -> None:
        if not isinstance(value, str):
            raise ValueError("Value must be a string")
        self.cache[self.project_id, key] = value

    @property
    def label_config(self) -> str | None:
        return self.get("label_config")
