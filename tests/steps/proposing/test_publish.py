"""Publishing: always complete, never twice, in the strategy's order, whatever dies in between."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from backend.errors import LabelStudioError
from backend.labelstudio import config, results, rle
from backend.records import Task
from backend.steps import decide, projects, status
from backend.steps.listening import reconcile
from backend.steps.proposing import propose
from backend.steps.proposing.publish import publish
from backend.store import proposals, schema, tasks
from backend.wiring import Services
from models.base import ClassProposal, ClassSpec, Evidence, Image, Mask, Region, TaskProposal
from tests.steps.conftest import BROKEN, CONFIG, NOW, TASKS
from tests.steps.fake_label_studio import FakeLabelStudio

IMPORT = "POST /api/projects/1/import/predictions"
FLIP = "PATCH /api/projects/1/"
REMOVE = "DELETE /api/projects/1/model-versions/"

Champion = Callable[[int], None]


def run(services: Services) -> None:
    """Publish as the worker does: chunk by chunk, until nothing is due."""
    for _ in range(5):
        publish(services, 1)
        if not decide.publication_due(services, 1):
            return
    raise AssertionError("publishing does not come to an end")


def proposed(services: Services) -> list[int]:
    played: Any = services.residents
    return list(played.proposed)


def test_nothing_is_shown_before_a_version_exists(
    services: Services, server: FakeLabelStudio
) -> None:
    publish(services, 1)
    assert not server.calls


def test_all_open_tasks_are_shown_most_urgent_first(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    champion(1)
    run(services)
    assert server.model_version == "v1"
    assert {task: len(held) for task, held in server.shown().items()} == dict.fromkeys(TASKS, 1)
    assert server.order() == TASKS, "the played model is least sure of the lowest task"
    assert [entry.task for entry in status.queue_of(services, 1)] == TASKS


@dataclass
class Scene:
    """Residents whose every version proposes these masks, class by class."""

    masks: Mapping[str, Mask]
    classes: tuple[str, ...] = ("crack",)
    regions: tuple[Region, ...] = ()
    proposed: list[int] = field(default_factory=list)

    def get(self, project: int, number: int, pipeline: str) -> Scene:
        return self

    def propose(self, image: Image, *, specs: Sequence[ClassSpec], heat: bool = False) -> Any:
        self.proposed.append(int(image[0, 0, 0]))
        names = tuple(spec.name for spec in specs)
        made = tuple(ClassProposal(n, self.masks[n], 0.9, regions=self.regions) for n in names)
        stats = {n: {"area_px": 1.0, "outline_px": 1.0, "components": 1.0} for n in names}
        probs = np.full((1, len(names)), 0.5, np.float32)
        return TaskProposal(made, Evidence(names, probs, np.zeros(2, np.float32), stats))


def squares(*corners: tuple[int, int], side: int = 2) -> Mask:
    mask: Mask = np.zeros((16, 24), dtype=bool)
    for top, left in corners:
        mask[top : top + side, left : left + side] = True
    return mask


def shown_by(services: Services, residents: Any, xml: str = "") -> Services:
    """Return services whose networks are these and whose project has this label config."""
    if xml:
        projects.adopt(services, 1, xml)
    shown = replace(services, residents=residents)
    played: Any = services.queues
    played.services = shown
    return shown


def items(server: FakeLabelStudio, task: int = 11) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = server.shown()[task][0]["result"]
    return result


def decoded(item: dict[str, Any]) -> Mask:
    return rle.decode_mask(item["value"]["rle"], 16, 24)


def test_separate_defects_are_regions_of_their_own_each_as_sure_as_it_is(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    parts = (Region(2, 2, 2, 2, 4, 0.75), Region(20, 2, 2, 2, 4, 0.35), Region(2, 12, 2, 2, 4, 0.5))
    scene = Scene({"crack": squares((2, 2), (2, 20), (12, 2))}, regions=parts)
    champion(1)
    run(shown_by(services, scene))
    assert [item["score"] for item in items(server)] == [0.75, 0.35, 0.5]
    assert [item["id"] for item in items(server)] == ["v1-11-1", "v1-11-2", "v1-11-3"]
    union = np.logical_or.reduce([decoded(item) for item in items(server)])
    assert (union == scene.masks["crack"]).all()


def test_at_most_so_many_regions_of_a_class_the_last_one_holds_the_rest(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    scene = Scene({"crack": squares((1, 1), (1, 9), (1, 17), (8, 1), (8, 9), (8, 17))})
    champion(1)
    xml = CONFIG.replace('<Label value="crack"/></Brush', '<Label value="crack" {}/></Brush')
    run(shown_by(services, scene, xml.format('model_max_regions="2"')))
    assert [decoded(item).sum() for item in items(server)] == [4, 20]


POLYGONS = """<View><Image name="image" value="$image"/>
<{0}Labels name="p" toName="image" model_max_regions="3"><Label value="crack"/></{0}Labels>
</View>"""


def test_each_part_is_a_polygon_of_its_own(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    ring = squares((2, 2), side=6) & ~squares((4, 4))
    scene = Scene({"crack": ring | squares((2, 9), (12, 20))})
    champion(1)
    run(shown_by(services, scene, POLYGONS.format("Polygon")))
    assert [item["type"] for item in items(server)] == ["polygonlabels"] * 3
    found = results.class_masks(items(server), config.parse(POLYGONS.format("Polygon")))
    assert (found["crack"] == scene.masks["crack"]).all()


def test_boxes_are_drawn_around_the_largest_and_not_around_scattered_rest(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    scene = Scene({"crack": squares((0, 0), (0, 20), (12, 20), (12, 0))})
    champion(1)
    run(shown_by(services, scene, POLYGONS.format("Rectangle")))
    found = [results.class_masks([item], config.parse(POLYGONS.format("Rectangle")))["crack"]
             for item in items(server)]  # fmt: skip
    assert [mask.sum() for mask in found] == [4, 4, 4]


TWO_CLASSES = """<View><Image name="image" value="$image"/>
<BrushLabels name="b" toName="image"><Label value="crack"/></BrushLabels>
<RectangleLabels name="r" toName="image"><Label value="Rost" predicted_values="rust"/>
</RectangleLabels><Choices name="c" toName="image" choice="multiple"><Choice value="crack"/>
<Choice value="Rost"/><Choice value="none" model_negative="true"/></Choices></View>"""


def test_several_controls_and_classes_at_once_also_under_other_names(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    masks = {"crack": squares((2, 2)), "rust": squares((12, 20))}
    champion(1)
    run(shown_by(services, Scene(masks, ("crack", "rust")), TWO_CLASSES))
    brush, box, choice = items(server)
    assert (brush["type"], box["type"], choice["type"]) == (
        "brushlabels", "rectanglelabels", "choices")  # fmt: skip
    assert box["value"]["rectanglelabels"] == ["Rost"]
    assert choice["value"]["choices"] == ["crack", "Rost"]
    ids = [item["id"] for task in TASKS for item in items(server, task)]
    assert len(set(ids)) == len(ids)
    with services.store.reading() as tx:
        assert proposals.evidence(tx, 1, 1)[11].classes == ("crack", "Rost")


def test_a_clean_image_gets_the_choice_that_denies_damage(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    nothing = {"crack": squares() & False, "rust": squares() & False}
    champion(1)
    run(shown_by(services, Scene(nothing, ("crack", "rust")), TWO_CLASSES))
    assert [item["value"] for item in items(server)] == [{"choices": ["none"]}]


def problems(services: Services) -> dict[int, str]:
    return {e.task: e.problem for e in status.queue_of(services, 1) if e.problem}


def spoilt(services: Services, task: int) -> None:
    """Damage a stored proposal, as only a bug of ours could."""
    with services.store.transaction() as tx:
        rows = schema.proposed_regions
        tx.execute(rows.update().where(rows.c.task == task).values(rle=b"abc"))


def test_one_bad_proposal_is_left_out_with_its_reason_and_the_others_are_shown(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    champion(1)
    propose.propose_ids(services, 1, 1, TASKS)
    spoilt(services, 12)
    run(services)
    assert {task: len(items(server, task)) for task in TASKS} == {11: 1, 12: 0, 13: 1, 14: 1}
    assert server.shown()[12][0]["score"] == 1.0, "served last"
    assert list(problems(services)) == [12]
    assert re.match(
        "v1: its proposal would break the editor: .*RLE has 3 bytes", problems(services)[12]
    )
    calls = list(server.calls)
    publish(services, 1)
    assert server.calls == calls, "nothing is tried again"
    champion(2)
    run(services)
    assert len(items(server, 12)) == 1 and problems(services) == {}, "another version may do"


def test_a_proposal_of_another_size_than_the_image_is_left_out(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    champion(1)
    propose.propose_ids(services, 1, 1, TASKS)
    with services.store.transaction() as tx:
        tasks.set_size(tx, 1, 12, width_px=16, height_px=24)
    run(services)
    assert items(server, 12) == []
    assert "is 24 x 16 px, the upright image is 16 x 24 px" in problems(services)[12]


def test_what_label_studio_drops_or_refuses_is_noted_and_not_tried_for_ever(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    server.unknown = {14}
    server.tasks = [11, 12, 13]
    champion(1)
    run(services)
    assert sorted(p["task"] for p in server.predictions) == [11, 12, 13]
    assert list(problems(services)) == [14]
    assert "task ID {14} not found" in problems(services)[14]
    assert server.model_version == "v1"
    server.dropped = {12}
    champion(2)
    run(services)
    assert problems(services)[12] == "v2: Label Studio dropped its prediction without a word"
    assert [len(items(server, task)) for task in server.tasks] == [1, 0, 1]


def test_when_label_studio_takes_nothing_what_was_shown_stays(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    champion(1)
    run(services)
    champion(2)
    server.unknown = set(TASKS)
    with pytest.raises(LabelStudioError, match="took none of 4 predictions for project 1"):
        run(services)
    assert server.model_version == "v1"
    server.unknown = set()
    run(services)
    assert server.model_version == "v2"


def test_only_what_the_strategy_reads_of_open_tasks_is_read(
    services: Services, champion: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[list[int] | None, bool, bool]] = []
    real = proposals.evidence

    def noted(
        tx: Any, *args: Any, only: Any = None, embeddings: bool = True, samples: bool = True
    ) -> Any:
        read.append((only, embeddings, samples))
        return real(tx, *args, only=only, embeddings=embeddings, samples=samples)

    monkeypatch.setattr(proposals, "evidence", noted)
    champion(1)
    run(services)
    assert read == [(TASKS, False, False)]
    publish(services, 1)
    assert len(read) == 1, "nothing to push, nothing to rank"


def test_a_new_version_replaces_the_former_one_and_keeps_its_regions(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    champion(1)
    run(services)
    former = server.shown()[11][0]["result"][0]["id"]
    champion(2)
    run(services)
    assert {p["model_version"] for p in server.predictions} == {"v2"}
    with services.store.reading() as tx:
        assert proposals.by_region_ids(tx, [former])[former].number == 1


@pytest.mark.parametrize("when", ["fail_before", "fail_after"])
@pytest.mark.parametrize("call", [IMPORT, FLIP, REMOVE])
def test_a_crash_between_any_two_acts_is_made_good(
    services: Services, server: FakeLabelStudio, champion: Champion, call: str, when: str
) -> None:
    champion(1)
    run(services)
    champion(2)
    setattr(server, when, call)
    with pytest.raises(LabelStudioError):
        run(services)
    run(services)
    assert server.model_version.startswith("v2")
    assert {p["model_version"] for p in server.predictions} == {server.model_version}
    assert [len(held) for held in server.shown().values()] == [1] * len(TASKS)
    assert projects.require(services, 1).published == server.model_version
    assert sorted(proposed(services)) == sorted(TASKS * 2), "nothing was predicted again"


def test_another_strategy_orders_anew_without_predicting(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    champion(1)
    run(services)
    before = proposed(services)
    projects.choose_strategy(services, 1, "random_order")
    run(services)
    assert proposed(services) == before
    assert server.model_version == "v1.2"
    assert {p["model_version"] for p in server.predictions} == {"v1.2"}


def test_publishing_again_does_nothing(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    champion(1)
    run(services)
    calls = list(server.calls)
    publish(services, 1)
    assert server.calls == calls


def test_an_unreadable_image_is_named_and_spoils_nothing(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, 15, BROKEN, NOW)])
    server.tasks = [*TASKS, 15]
    champion(1)
    run(services)
    assert server.shown()[15][0]["result"] == []
    assert server.order()[-1] == 15
    problems = {e.task: e.problem for e in status.queue_of(services, 1) if e.problem}
    assert problems == {15: "cannot decode image: broken"}


def test_a_rollback_shows_the_older_version_again(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    champion(1)
    run(services)
    champion(2)
    run(services)
    with services.store.transaction() as tx:
        projects.promote(tx, 1, 1)
    before = proposed(services)
    run(services)
    assert server.model_version == "v1"
    assert {p["model_version"] for p in server.predictions} == {"v1"}
    assert proposed(services) == before, "stored proposals are shown, not computed"


def test_predictions_that_label_studio_stored_twice_are_replaced(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    champion(1)
    run(services)
    reconcile.reconcile(services, 1)
    assert not decide.publication_due(services, 1)
    server.predictions.append(dict(server.predictions[0]))
    reconcile.reconcile(services, 1)
    run(services)
    assert server.model_version == "v1.2"
    assert [len(held) for held in server.shown().values()] == [1] * len(TASKS)
