"""The composite: who starts a class, and who serves it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import models.base
from models.base import (
    ClassSpec,
    Evidence,
    NotEnoughLabels,
    Pipeline,
    Progress,
)
from models.pipelines import auto
from models.pipelines.auto import joined, start_of
from tests.models.pipelines.played_pipelines import (
    BARE,
    CRACK,
    MASKED,
    PRETRAINED,
    RUST,
    Played,
    PlayedSegmenter,
    fit,
    parts,
    sample,
    serving,
)

pytestmark = pytest.mark.training


def test_the_registry_knows_it() -> None:
    assert models.base.get("auto") is auto.PIPELINE


def test_the_label_config_says_who_starts_a_class_and_else_the_table() -> None:
    assert start_of(replace(CRACK, pipeline="patch_threshold"), BARE) == "patch_threshold"
    assert start_of(CRACK, BARE) == auto.STARTS["thin", False]
    assert start_of(replace(CRACK, pipeline="auto"), PRETRAINED) == auto.STARTS["thin", True]
    assert start_of(RUST, BARE) == auto.STARTS["compact", False] == "advcam"
    assert start_of(replace(RUST, pipeline="segmenter"), BARE) == "advcam"
    assert start_of(replace(RUST, pipeline="pixel_head"), PRETRAINED) == "pixel_head"
    assert start_of(replace(RUST, pipeline="pixel_head"), BARE) == "advcam"


@pytest.mark.parametrize(
    ("known", "start"), [(("advcam", "pixel_head"), "pixel_head"), (("advcam",), "advcam")]
)
def test_what_is_not_installed_starts_nothing(
    known: tuple[str, ...], start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.base, "names", lambda: known)
    assert start_of(RUST, PRETRAINED) == start


def test_each_pipeline_is_fitted_once_for_its_own_classes() -> None:
    pipelines = parts(advcam=0, other_name=0)
    named = replace(RUST, pipeline="other_name")
    fitted = fit(pipelines, CRACK, named, ClassSpec("spalling"))
    assert serving(fitted) == {"crack": "advcam", "spalling": "advcam", "rust": "other_name"}
    (own,) = pipelines["advcam"].fits  # type: ignore[attr-defined]
    assert own["classes"] == ("crack", "spalling")
    assert fitted.metrics["classes"]["rust"] == {
        "by": "other_name",
        "pipeline": "other_name",
        "candidates": [{"pipeline": "other_name"}],
    }


def test_proposals_and_evidence_come_in_the_order_of_the_specs() -> None:
    fitted = fit(parts(advcam=0, other_name=0), CRACK, replace(RUST, pipeline="other_name"))
    image = np.zeros((40, 40, 3), np.uint8)
    asked = [RUST, ClassSpec("unknown"), CRACK]
    found = fitted.propose(image, specs=asked, heat=True)
    assert [p.class_name for p in found.proposals] == ["rust", "crack"]
    assert all(p.heat is not None for p in found.proposals)
    assert found.evidence.classes == ("rust", "crack")
    assert found.evidence.tile_probs.shape == (len("other_name"), 2)
    assert found.evidence.stats == {"rust": {"area_px": 10.0}, "crack": {"area_px": 6.0}}
    assert found.evidence.embedding.tolist() == [6.0, 10.0]  # in the order of the parts
    nothing = fitted.propose(image, specs=[ClassSpec("unknown")])
    assert nothing.proposals == () and nothing.evidence.tile_probs.shape == (0, 0)


def test_windows_of_parts_with_fewer_of_them_are_repeated() -> None:
    def seen(name: str, *probs: float) -> Evidence:
        column = np.array(probs, dtype=np.float32)[:, None]
        return Evidence((name,), column, np.zeros(1, np.float32), {name: {}})

    found = joined([seen("a", 0.1, 0.2, 0.3, 0.4), seen("b", 0.8, 0.9)], ["b", "a"])
    assert found.tile_probs == pytest.approx(
        np.array([[0.8, 0.1], [0.8, 0.2], [0.9, 0.3], [0.9, 0.4]])
    )
    assert found.samples.size == 0


def test_passes_of_parts_are_joined_like_their_windows_where_all_make_some() -> None:
    def seen(name: str, samples: list[list[float]]) -> Evidence:
        drawn = np.array(samples, dtype=np.float32)[..., None]  # (S, T, 1)
        none = np.zeros((0,), np.float32)
        return Evidence(
            (name,), np.zeros((len(samples[0]), 1), np.float32), none, {name: {}}, drawn
        )

    four = seen("a", [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]])
    found = joined([four, seen("b", [[0.0], [1.0]])], ["b", "a"])
    assert found.samples.shape == (4, 2, 2)
    assert found.samples[..., 0].tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    np.testing.assert_array_equal(found.samples[..., 1], four.samples[..., 0])
    bare = replace(four, classes=("b",), samples=np.zeros((0, 0, 0), np.float32), stats={"b": {}})
    assert joined([four, bare], ["a", "b"]).samples.size == 0


@pytest.mark.parametrize(
    ("starter_px", "segmenter_px", "best"), [(3, 9, "advcam"), (9, 3, "segmenter")]
)
def test_with_enough_masks_the_cheaper_one_serves(
    starter_px: int, segmenter_px: int, best: str
) -> None:
    fitted = fit(
        parts(advcam=starter_px), CRACK, RUST, samples=MASKED, segmenter_off_px=segmenter_px
    )
    assert serving(fitted) == {"crack": "advcam", "rust": best}
    table = fitted.metrics["classes"]["rust"]["candidates"]
    assert table[0]["pipeline"] == best
    assert table[0]["cost_s"] < table[1]["cost_s"] and table[0]["held_out_masks"] >= 4
    assert fitted.metrics["classes"]["rust"]["by"] == best
    assert len(fitted.parts) == 2  # who does not serve is trained on next time
    json.dumps(fitted.metrics, allow_nan=False)


def test_equal_costs_are_decided_by_the_f_measure() -> None:
    """Both would be submitted unchanged: their cost is 0."""
    fitted = fit(parts(advcam=1), RUST, samples=MASKED, segmenter_off_px=0)
    table = fitted.metrics["classes"]["rust"]["candidates"]
    assert table[0]["cost_s"] == table[1]["cost_s"] == 0
    assert serving(fitted) == {"rust": "segmenter"}
    same = fit(parts(advcam=0), RUST, samples=MASKED)
    assert serving(same) == {"rust": "advcam"}


def test_below_that_number_of_masks_nothing_competes() -> None:
    fitted = fit(parts(advcam=9), RUST, samples=MASKED[:14])
    assert serving(fitted) == {"rust": "advcam"} and len(fitted.parts) == 1


def test_candidates_are_compared_on_masks_that_neither_has_learnt() -> None:
    pipelines = parts(advcam=0)
    segmenter = PlayedSegmenter(least_masks=6)
    fit(pipelines, RUST, samples=MASKED[:6], segmenter=segmenter)
    (ours,) = pipelines["advcam"].fits  # type: ignore[attr-defined]
    (theirs,) = segmenter.played.fits
    assert ours["samples"] is theirs["samples"]
    held_out = [s.key for s in ours["samples"] if s.held_out]
    assert len(held_out) == auto.LEAST_CASES


def test_samples_that_are_held_out_already_are_enough() -> None:
    samples = MASKED + [sample(n, "rust", held_out=True) for n in range(50, 54)]
    pipelines = parts(advcam=0)
    fit(pipelines, RUST, samples=samples)
    (own,) = pipelines["advcam"].fits  # type: ignore[attr-defined]
    assert [s.key for s in own["samples"] if s.held_out] == [f"task-{n:03}" for n in range(50, 54)]


def test_without_held_out_masks_to_compare_on_the_starter_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auto, "_with_held_out", lambda samples, _: samples)
    learnt = [*MASKED, sample(99, held_out=True)]
    fitted = fit(parts(advcam=9), RUST, samples=learnt)
    assert serving(fitted) == {"rust": "advcam"}
    assert [row["pipeline"] for row in fitted.metrics["classes"]["rust"]["candidates"]] == [
        "advcam",
        "segmenter",
    ]


def test_a_pipeline_that_is_named_is_not_replaced() -> None:
    named = replace(RUST, pipeline="other_name")
    fitted = fit(parts(advcam=0, other_name=9), named, samples=MASKED)
    assert serving(fitted) == {"rust": "other_name"} and len(fitted.parts) == 1


def test_a_segmenter_that_is_named_serves_as_soon_as_it_can() -> None:
    named = replace(RUST, pipeline="segmenter")
    early = fit(parts(advcam=0), named, samples=MASKED[:5])
    assert serving(early) == {"rust": "advcam"}
    late = fit(parts(advcam=0), named, samples=MASKED, segmenter_off_px=9)
    assert serving(late) == {"rust": "segmenter"} and len(late.parts) == 1


def test_the_segmenter_starts_from_what_the_same_training_has_learnt() -> None:
    segmenter = PlayedSegmenter(least_masks=15)
    fitted = fit(parts(advcam=0), RUST, samples=MASKED, segmenter=segmenter)
    assert segmenter.started_from == [(fitted.part("advcam"),)]


def test_a_class_that_its_starter_cannot_learn_is_served_by_the_segmenter() -> None:
    pipelines: dict[str, Pipeline] = {"advcam": Played("advcam", cannot=("rust",))}
    fitted = fit(pipelines, CRACK, RUST, samples=MASKED)
    assert serving(fitted) == {"crack": "advcam", "rust": "segmenter"}
    early = fit(pipelines, CRACK, RUST)
    assert serving(early) == {"crack": "advcam"}
    assert early.metrics["classes"]["rust"] == {"skipped": "no points"}


def test_one_pipeline_without_labels_does_not_stop_the_others() -> None:
    pipelines: dict[str, Pipeline] = {
        "advcam": Played("advcam"),
        "other_name": Played("other_name", refuses=True),
    }
    fitted = fit(pipelines, CRACK, replace(RUST, pipeline="other_name"))
    assert fitted.classes == ("crack",)
    assert fitted.metrics["classes"]["rust"] == {"skipped": "other_name cannot start ('rust',)"}
    with pytest.raises(NotEnoughLabels, match="other_name cannot start"):
        fit(pipelines, replace(RUST, pipeline="other_name"))
    with pytest.raises(NotEnoughLabels, match="the label config names no class"):
        fit(pipelines)


def test_progress_runs_over_all_fits_and_counts_those_to_come() -> None:
    seen: list[Progress] = []
    named = replace(ClassSpec("spalling"), pipeline="other_name")
    fit(parts(advcam=0, other_name=0), CRACK, RUST, named, samples=MASKED, report=seen.append)
    # two classes, one, and the segmenter's one, of 10 s each
    assert [p.fraction for p in seen] == pytest.approx([0.25, 0.5, 0.625, 0.75, 0.875, 1.0])
    halves = [p.seconds_left for p in seen][::2]
    assert halves == pytest.approx([30, 15, 5])
