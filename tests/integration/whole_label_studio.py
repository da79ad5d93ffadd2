"""A Label Studio of everything that a round needs: tasks, annotations, images and predictions."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.steps.fake_label_studio import FakeLabelStudio
from tests.steps.played_label_studio import PlayedLabelStudio, click

WIDTH_PX, HEIGHT_PX = 120, 96


def annotate(people: PlayedLabelStudio, tasks: list[int]) -> None:
    """Click on the crack of each task, and on what is none."""
    size = {"original_width": WIDTH_PX, "original_height": HEIGHT_PX}
    for task in tasks:
        x = 10.0 + 7 * (task % 10)
        clicks = [click("crack", x), click("nothing here", x, 5.0)]
        people.annotate(task, [{**one, **size} for one in clicks])


class WholeLabelStudio(FakeLabelStudio):
    """What people do is played by `people`; open tasks are those that they have not annotated."""

    def __init__(self, people: PlayedLabelStudio) -> None:
        super().__init__([])
        self.people = people

    def note_open(self) -> None:
        """Take the tasks without annotations for those that need proposals."""
        annotated = {row["task"] for row in self.people.living().values()}
        self.tasks = sorted(self.people.tasks.keys() - annotated)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        call = f"{request.method} {request.url.path}"
        if request.url.path.startswith("/data/upload/"):
            return httpx.Response(200, content=_picture(request.url.path))
        if call == "GET /api/tasks":
            return self._with_predictions(self.people.answer(request))
        if call == "GET /api/projects/1/":
            about = self.people.answer(request).json()
            return httpx.Response(200, json={**about, "model_version": self.model_version})
        if call.startswith("GET /api/annotations/"):
            return self.people.answer(request)
        return super()._answer(request)

    def _with_predictions(self, answer: httpx.Response) -> httpx.Response:
        held = [(p["task"], p["model_version"]) for p in self.predictions]
        body: dict[str, Any] = json.loads(answer.content)
        for row in body["tasks"]:
            names = sorted({name for task, name in held if task == row["id"]})
            row["predictions_model_versions"] = ",".join(names)
        return httpx.Response(200, json=body)


def _picture(path: str) -> bytes:
    """Draw a dark line in the middle of grey, each task's with its own noise."""
    rng = np.random.default_rng(sum(path.encode()))
    pixels = rng.integers(150, 200, (HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8)
    pixels[HEIGHT_PX // 2 - 3 : HEIGHT_PX // 2 + 3] = 20
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
