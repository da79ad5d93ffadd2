"""A made-up history of a project: what people did, and the webhooks that say so."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any

import numpy as np

from backend.labelstudio import rle
from tests.steps.played_label_studio import Body, PlayedLabelStudio, click

ACTS = {"import": 6, "annotate": 40, "update": 36, "skip": 6, "delete": 7, "delete task": 5}


def history(seed: int, events: int, *, now: datetime) -> PlayedLabelStudio:
    """Have people act until there are so many events; task ids are never given again."""
    rng = random.Random(seed)
    played = PlayedLabelStudio(now=now)
    played.import_tasks(200)
    while len(played.events) < events:
        (act,) = rng.choices(list(ACTS), list(ACTS.values()))
        _act(played, act, rng)
    return played


def _act(played: PlayedLabelStudio, act: str, rng: random.Random) -> None:
    tasks, living = sorted(played.tasks), sorted(played.living())
    if act == "import":
        played.import_tasks(rng.randint(1, 5))
    elif act == "annotate":
        played.annotate(rng.choice(tasks), result(rng), lead_time=rng.uniform(1, 90))
    elif act == "skip":
        played.annotate(rng.choice(tasks), result(rng), was_cancelled=True)
    elif act == "update" and living:
        played.update(rng.choice(living), result(rng))
    elif act == "delete" and living:
        played.delete_annotations(*rng.sample(living, min(len(living), rng.randint(1, 3))))
    elif act == "delete task":
        played.delete_tasks(rng.choice(tasks[:-1]))  # the highest id would be given again


def result(rng: random.Random) -> list[Body]:
    """Some clicks, and now and then a painted rectangle, on an image of 24 x 16 px."""
    labels = ["crack", "crack", "nothing here"]
    clicks = [click(rng.choice(labels), rng.randrange(100), rng.randrange(100))]
    clicks += [click("crack", rng.randrange(100)) for _ in range(rng.randrange(3))]
    return clicks + ([painted(rng)] if rng.random() < 0.2 else [])


def painted(rng: random.Random) -> dict[str, Any]:
    mask = np.zeros((16, 24), dtype=np.bool_)
    x, y = rng.randrange(18), rng.randrange(12)
    mask[y : y + 4, x : x + 6] = True
    value = {"format": "rle", "rle": rle.encode(mask), "brushlabels": ["crack"]}
    return {"id": f"r{rng.randrange(10**9)}", "type": "brushlabels", "from_name": "brush",
            "to_name": "image", "original_width": 24, "original_height": 16,
            "image_rotation": 0, "value": value, "origin": "manual"}  # fmt: skip
