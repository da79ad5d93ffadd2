"""Clicks on tasks whose version sees two blobs, and services in which it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backend.errors import ImageError
from backend.labelstudio import config as label_config
from backend.labelstudio import results
from backend.steps import projects
from backend.steps.proposing import predict, seeing
from backend.wiring import Services
from models.base import ClassProposal, ClassSpec, Evidence, Image, Mask, TaskProposal
from tests.steps.conftest import BROKEN
from tests.steps.proposing.test_predict import payload

HEIGHT, WIDTH = 60, 80
CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="crack"/></BrushLabels>
<PolygonLabels name="poly" toName="image"><Label value="spalling"/></PolygonLabels>
<RectangleLabels name="box" toName="image" smart="true"><Label value="rust"/></RectangleLabels>
<KeyPointLabels name="point" toName="image" smart="true"><Label value="crack"/>
<Label value="spalling"/><Label value="rust"/>
<Label value="nothing here" model_negative="true"/></KeyPointLabels>
<Number name="model_iterations" toName="image"/></View>"""
PARSED = label_config.parse(CONFIG)


def blob(top: int, left: int, bottom: int, right: int) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


LEFT, RIGHT = blob(10, 5, 30, 30), blob(10, 45, 40, 75)


@dataclass
class SeeingFitted:
    """Sees two blobs of each class; wider ones the more it climbs."""

    seen: list[int | None]
    classes: tuple[str, ...] = ("crack", "spalling", "rust")
    chosen: dict[str, Any] = field(
        default_factory=lambda: {
            "refine": "threshold", "iterations": 1, "threshold": 0.5, "min_area_px": 0,
            "closing_px": 1,
        }
    )  # fmt: skip

    @property
    def metrics(self) -> dict[str, Any]:
        return {"classes": {name: {"settings": self.chosen} for name in self.classes}}

    def propose(
        self, image: Image, *, specs: Sequence[ClassSpec], heat: bool = False
    ) -> TaskProposal:
        assert heat
        self.seen.append(specs[0].iterations)
        wider = blob(10, 5, 30, 30 + (specs[0].iterations or 1))
        hot = np.where(wider, 0.9, np.where(RIGHT, 0.7, 0.0)).astype(np.float32)
        own = [ClassProposal(spec.name, hot > 0.5, 0.9, hot) for spec in specs]
        one = {"area_px": 1.0, "outline_px": 1.0, "components": 1.0, "heat_sharpness": 1.0}
        names = tuple(spec.name for spec in specs)
        windows = np.full((1, len(specs)), 0.5, np.float32)
        embedding = np.zeros(2, np.float32)
        evidence = Evidence(names, windows, embedding, dict.fromkeys(names, one))
        return TaskProposal(tuple(own), evidence)


@dataclass
class SeeingResidents:
    seen: list[int | None] = field(default_factory=list)

    def get(self, project: int, number: int, pipeline: str) -> SeeingFitted:
        return SeeingFitted(self.seen)


@dataclass
class GreyImages:
    loaded: list[str] = field(default_factory=list)

    def load(self, uri: str, task_id: int) -> Image:
        self.loaded.append(uri)
        if uri == BROKEN:
            raise ImageError("cannot decode image: broken")
        return np.full((HEIGHT, WIDTH, 3), 120, dtype=np.uint8)


def worker(services: Services) -> Callable[..., bool]:
    """A worker that is there at once."""

    def see(
        _: Services, project: int, number: int, task: int, iterations: int | None, timeout_s: float
    ) -> bool:
        assert timeout_s > 0
        seeing.see(services, project, number, task, iterations)
        return True

    return see


def click(x: float, y: float, label: str = "crack", *, positive: bool = True) -> dict[str, Any]:
    value = {"x": 100 * (x + 0.5) / WIDTH, "y": 100 * (y + 0.5) / HEIGHT, "width": 0.2,
             "keypointlabels": [label]}  # fmt: skip
    return {"type": "keypointlabels", "value": value, "is_positive": positive, "origin": "manual"}


ON_LEFT, ON_RIGHT = (15, 20), (60, 20)


def ask(
    services: Services, *prompts: dict[str, Any], task: int = 11, **more: Any
) -> list[dict[str, Any]]:
    project = projects.require(services, 1)
    body = {**payload(task), **more}
    (answer,) = predict.answer_prompts(services, project, [body], {"result": list(prompts)})
    found: list[dict[str, Any]] = answer["result"]
    return found


def masks(found: list[dict[str, Any]]) -> dict[str, Mask]:
    return results.class_masks(found, PARSED)
