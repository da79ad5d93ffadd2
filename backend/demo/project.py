"""The demo's Label Studio project: made, filled, connected, and given its first clicks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from rich.progress import Progress

from backend.demo import annotator
from backend.demo.dataset import DemoImage
from backend.labelstudio.client import LabelStudio
from backend.steps import status
from backend.steps.connect import connect
from backend.wiring import Services

COLOURS = ("#E5484D", "#3E63DD", "#D9822B", "#30A46C", "#8E4EC6")
TITLE = "labelclimb demo"
NOTHING = "nothing here"
CLICK_MARGIN_PX = 24
NOTHING_CLICKS = 3  # per image
UPLOAD_BATCH = 8
STATE_FILE = "project.json"


@dataclass(frozen=True)
class DemoProject:
    """A project in Label Studio with the image behind each of its tasks."""

    id: int
    images: dict[int, DemoImage]  # by task id


def label_config(classes: Sequence[str]) -> str:
    """Brushes for the classes, clicks for weak labels, and a click that says "nothing here"."""
    colours = [COLOURS[n % len(COLOURS)] for n in range(len(classes))]
    labels = "\n".join(
        f"    <Label value={quoteattr(name)} background={quoteattr(colour)}/>"
        for name, colour in zip(classes, colours, strict=True)
    )
    return f"""<View>
  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
  <Header value="Brush: correct the proposals"/>
  <BrushLabels name="brush" toName="image">
{labels}
  </BrushLabels>
  <Header value="Click: one point on a defect, or where there is none"/>
  <KeyPointLabels name="point" toName="image" smart="true">
{labels}
    <Label value="{NOTHING}" background="#8B8D98" model_negative="true"/>
  </KeyPointLabels>
</View>
"""


def open_project(
    services: Services, data: Path, images: Sequence[DemoImage], progress: Progress
) -> DemoProject:
    """Return the demo's project, connected; it is made on the first start."""
    state = data / STATE_FILE
    if not state.exists():
        state.write_text(json.dumps(_create(services.labelstudio, images, progress)))
    kept = json.loads(state.read_text())
    by_name = {image.path.name: image for image in images}
    by_task = {int(task): by_name[name] for task, name in kept["tasks"].items()}
    project_id = int(kept["project"])
    connect(services, project_id, services.settings.backend_url)
    return DemoProject(project_id, by_task)


def _create(
    client: LabelStudio, images: Sequence[DemoImage], progress: Progress
) -> dict[str, object]:
    """Make the project and upload the images; returns what a later start needs to know."""
    made = client.create_project(TITLE, label_config(list(images[0].masks)))
    project_id = int(made["id"])
    bar = progress.add_task("images to Label Studio", total=len(images))
    tasks: dict[int, str] = {}
    for start in range(0, len(images), UPLOAD_BATCH):
        paths = [image.path for image in images[start : start + UPLOAD_BATCH]]
        ids = client.upload_images(project_id, paths)
        tasks.update(zip(ids, (path.name for path in paths), strict=True))
        progress.advance(bar, len(paths))
    return {"project": project_id, "tasks": tasks}


def enter_clicks(
    services: Services,
    project: DemoProject,
    count: int,
    clicks_per_class: int,
    seed: int,
    progress: Progress,
) -> None:
    """Enter one-click weak labels on `count` tasks through Label Studio's API, as a person would.

    The clicks are simulated: points drawn inside the true masks and far away from them. Tasks
    that have their clicks from an interrupted start are left alone.
    """
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.permutation(sorted(project.images))[:count].tolist())
    waiting = {entry.task for entry in status.queue_of(services, project.id)}
    bar = progress.add_task("first clicks (simulated)", total=len(chosen))
    for task in (task for task in chosen if task in waiting):
        truth = project.images[task].truth()
        height_px, width_px = next(iter(truth.values())).shape
        clicks = annotator.first_clicks(
            truth, rng, clicks_per_class, NOTHING_CLICKS, CLICK_MARGIN_PX
        )
        result = annotator.keypoint_result(
            clicks, width_px=width_px, height_px=height_px, negative_label=NOTHING, rng=rng
        )
        seconds = annotator.click_seconds(clicks)
        services.labelstudio.create_annotation(task, result, lead_time=seconds)
        progress.advance(bar)
