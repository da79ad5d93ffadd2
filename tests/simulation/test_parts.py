"""The parts of a simulated task: its image, its cost, what it teaches, its remembered features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import SettingsError
from backend.evaluation.folders import Labelled, Pair
from backend.loop.ordering.describing import LOOK_S
from backend.records import Interaction, TaskEvidence
from backend.simulation import costs, features, labels, scenes
from backend.simulation.labels import Shown
from models.base import ClassSpec, Mask, Sample, WeakPoint
from models.learning.training import PROFILES
from models.masks.correction import correction, draw_s
from models.pipelines import pixel_head
from tests.evaluation.making import surface, write
from tests.loop import making
from tests.models.conftest import encoder_weights  # noqa: F401 - a fixture


def box(top: int, left: int, bottom: int, right: int) -> Mask:
    return making.box(top, left, bottom, right, size=(120, 120))


def shown(mask: Mask, found: TaskEvidence | None = None) -> Shown:
    return Shown(3, mask, found or making.evidence(5))


def taught(before: Shown | None, truth: Mask, seconds: float = 12.0) -> labels.Taught:
    final = labels.final_mask(before, truth)
    sample = Sample("000005", lambda: np.zeros((120, 120, 3), np.uint8), ())
    return labels.taught(5, "crack", before, final, seconds, sample)


class TestCosts:
    def test_a_correction_costs_a_look_and_what_the_model_says(self) -> None:
        truth, proposal = box(10, 10, 60, 60), box(10, 10, 30, 60)
        seconds = costs.stated().seconds
        wanted = correction(proposal, truth).cost_s
        assert wanted > 0 and seconds(shown(proposal), truth) == pytest.approx(LOOK_S + wanted)
        assert seconds(shown(truth), truth) == LOOK_S
        assert seconds(None, truth) == pytest.approx(LOOK_S + draw_s(truth))
        assert seconds(None, np.zeros_like(truth)) == LOOK_S

    def test_real_seconds_are_learnt_from_proposals_that_looked_alike(self) -> None:
        """People took a tenth of a second per pixel of outline."""
        found = [evidence(task, outline_px=10.0 * task) for task in range(1, 41)]
        past = [timed(task, seconds=task) for task in range(1, 41)]
        cost = costs.of_project(past, found)
        asked = [evidence(100 + n, outline_px=px) for n, px in enumerate((50.0, 150.0, 300.0))]
        said = [cost.seconds(shown(box(0, 0, 5, 5), one), box(0, 0, 9, 9)) for one in asked]
        assert said == pytest.approx([5, 15, 30], rel=0.35) and said == sorted(said)
        assert "learned from 40 timed annotations" in cost.basis
        assert cost.seconds(None, box(0, 0, 9, 9)) == LOOK_S + draw_s(box(0, 0, 9, 9))

    def test_too_few_real_seconds_are_refused_with_their_number(self) -> None:
        found = [evidence(task, outline_px=10.0) for task in range(1, 20)]
        past = [timed(task, seconds=9) for task in range(1, 20)]
        with pytest.raises(SettingsError, match="19 timed annotations and 20 are needed"):
            costs.of_project(past, found)


class TestLabels:
    def test_a_good_enough_proposal_is_left_as_it_is(self) -> None:
        truth, proposal = box(10, 10, 60, 60), box(10, 10, 61, 60)
        found = taught(shown(proposal), truth)
        assert (found.sample.masks["crack"]() == proposal).all()
        assert [one.outcome for one in found.interactions] == ["accepted"]

    def test_a_correction_teaches_what_was_missed_and_what_was_wrong(self) -> None:
        truth, wrong = box(5, 5, 25, 25), box(70, 70, 110, 110)
        found = taught(shown(box(5, 5, 15, 25) | wrong), truth)
        (said,) = found.interactions
        assert said.outcome == "modified" and said.version == 3 and said.edit_seconds == 12.0
        assert said.pixels_added == 10 * 20 and said.pixels_removed == 40 * 40
        assert (found.sample.masks["crack"]() == truth).all()
        heavy = [p for p in found.sample.points if not p.positive and p.weight > 1]
        assert heavy and all(wrong[int(p.y_px), int(p.x_px)] for p in heavy)
        positives = [p for p in found.sample.points if p.positive]
        assert positives and all(truth[int(p.y_px), int(p.x_px)] for p in positives)

    def test_nothing_shown_and_something_drawn_was_missed(self) -> None:
        found = taught(None, box(5, 5, 25, 25))
        assert [(one.outcome, one.version) for one in found.interactions] == [("missed", None)]
        assert found.evidence is None

    def test_nothing_shown_and_nothing_there_teaches_background(self) -> None:
        found = taught(None, box(0, 0, 0, 0))
        assert found.interactions == () and not found.sample.masks["crack"]().any()
        assert found.sample.points and not any(p.positive for p in found.sample.points)


class TestScenes:
    def test_images_are_shrunk_to_the_longest_side_and_never_enlarged(self) -> None:
        image, truth = np.zeros((100, 200, 3), np.uint8), np.zeros((100, 200), bool)
        truth[40:60, :] = True
        found = scenes.shrunk(Labelled(image, truth, False), 50)
        assert found.image.shape == (25, 50, 3) and found.truth.shape == (25, 50)
        assert found.truth.mean() == pytest.approx(truth.mean())
        same = Labelled(image, truth, False)
        assert scenes.shrunk(same, 200) is same and scenes.shrunk(same, None) is same

    def test_a_thin_line_stays_in_one_piece(self) -> None:
        truth = np.zeros((200, 200), bool)
        truth[101, :] = truth[:, 60] = True
        found = scenes.shrunk(Labelled(np.zeros((200, 200, 3), np.uint8), truth, False), 100)
        assert found.truth[50].all() and found.truth[:, 30].all() and found.truth.sum() == 199

    def test_what_there_is_no_room_for_is_made_again(self) -> None:
        made: list[int] = []
        kept: scenes.Kept[int] = scenes.Kept(25, lambda size: size)

        def get(key: int, size: int) -> int:
            return kept.get(key, lambda: made.append(key) or size)

        for _ in range(2):
            assert [get(1, 10), get(2, 10), get(3, 10), get(4, 5)] == [10, 10, 10, 5]
        assert made == [1, 2, 3, 4, 3] and len(kept) == 3

    def test_a_file_is_read_once(self, tmp_path: Path) -> None:
        image, truth = surface(0)
        pair = Pair("a", write(tmp_path / "a.png", image), write(tmp_path / "m.png", truth), 10**6)
        found = scenes.Scenes({7: pair}, None)
        first = found.image(7)
        pair.image.unlink()
        assert found.image(7) is first and (found.truth(7) == truth).all()


class TestFeatures:
    @pytest.mark.training
    def test_remembered_features_change_nothing_but_the_time(
        self,
        encoder_weights: str,  # noqa: F811 - the fixture
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        profile = replace(PROFILES["cpu"], crop_px=16, bf16=False, encoder_weights=encoder_weights)
        looked: list[tuple[int, ...]] = []
        honest = pixel_head.Hypercolumn.levels

        def counted(self: Any, image: Any) -> Any:
            looked.append(image.shape)
            return honest(self, image)

        spec = ClassSpec("crack", "threshold")
        plain = pixel_head.PixelHeads(steps=4, warm_steps=2)
        remembering = features.pipeline("pixel_head", 64)
        assert isinstance(remembering, pixel_head.PixelHeads)
        remembering._steps, remembering._warm_steps = 4, 2
        monkeypatch.setattr(pixel_head.Hypercolumn, "levels", counted)
        masks, counts = [], []
        for method in (plain, remembering):
            version = None
            for count in (2, 3):
                version = method.fit(
                    [sample(seed) for seed in range(count)],
                    specs=[spec],
                    profile=profile,
                    seed=0,
                    device="cpu",
                    report=lambda _: None,
                    warm_start=version,
                )
                for seed in range(4):
                    found = version.propose(surface(seed)[0], specs=[spec], heat=True)
                    masks.append(found.proposals[0].heat)
            counts.append(len(looked))
        for ours, theirs in zip(masks[8:], masks[:8], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert counts[1] - counts[0] == 4 < counts[0]  # once per image

    def test_other_pipelines_are_those_of_the_registry(self) -> None:
        assert type(features.pipeline("advcam", 64)).__module__ == "models.pipelines.advcam"


def sample(seed: int) -> Sample:
    image, truth = surface(seed)
    ys, xs = np.nonzero(truth)
    points = [WeakPoint("crack", float(xs[n]), float(ys[n]), True) for n in (0, len(xs) // 2)]
    clean = np.argwhere(~truth)[:: 72 * 20]
    points += [WeakPoint("crack", float(x), float(y), False) for y, x in clean]
    return Sample(f"{seed:06}", lambda: image, tuple(points))


def evidence(task: int, outline_px: float) -> TaskEvidence:
    stats = {"area_px": outline_px, "outline_px": outline_px, "components": 1.0,
             "heat_sharpness": 0.5}  # fmt: skip
    return making.evidence(task, tile_probs=((0.5,),), stats={"crack": stats})


def timed(task: int, seconds: float) -> Interaction:
    return making.interaction(task=task, annotation=task, edit_seconds=float(seconds))
