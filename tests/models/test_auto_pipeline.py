"""The composite: who starts a class, who serves it, and that nothing is lost between its parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import models.base
from models.base import (
    ClassProposal,
    ClassSpec,
    Evidence,
    Fitted,
    Image,
    Mask,
    NotEnoughLabels,
    Pipeline,
    Profile,
    Progress,
    Report,
    Sample,
    TaskProposal,
    WeakPoint,
)
from models.learning.training import PROFILES
from models.pipelines import auto
from models.pipelines.auto import Auto, AutoFitted, Part, combine, joined, start_of
from models.pipelines.segmenter import Segmenter
from tests.models.test_segmenter_pipeline import PROFILE as SMALL
from tests.models.test_segmenter_pipeline import picture

pytestmark = pytest.mark.training

CRACK, RUST = ClassSpec("crack"), ClassSpec("rust")
BARE = PROFILES["cpu"]
PRETRAINED = replace(BARE, encoder_weights="hub")
SQUARE: Mask = np.zeros((40, 40), dtype=bool)
SQUARE[10:30, 10:30] = True


@dataclass
class PlayedFitted:
    """Proposes the square moved to the right by `off_px`; remembers nothing."""

    pipeline: str
    classes: tuple[str, ...]
    off_px: int = 0
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def propose(
        self, image: Image, *, specs: Sequence[ClassSpec], heat: bool = False
    ) -> TaskProposal:
        names = tuple(spec.name for spec in specs if spec.name in self.classes)
        mask = np.roll(SQUARE, self.off_px, axis=1)
        size = len(self.pipeline)
        evidence = Evidence(
            names,
            np.arange(size * len(names), dtype=np.float32).reshape(size, len(names)),
            np.full(len(names), size, dtype=np.float32),
            {name: {"area_px": float(size)} for name in names},
        )
        shown = np.ones((40, 40), np.float32) if heat else None
        proposals = (ClassProposal(name, mask, 0.5, shown) for name in names)
        return TaskProposal(tuple(proposals), evidence)

    def save(self, folder: Path) -> None:
        (folder / "played.json").write_text(json.dumps([self.classes, self.off_px]))


@dataclass
class Played:
    """A pipeline that learns at once; `off_px` makes its proposals wrong."""

    name: str
    off_px: int = 0
    fits: list[dict[str, Any]] = field(default_factory=list)
    cannot: tuple[str, ...] = ()
    refuses: bool = False

    def fit(
        self,
        samples: Sequence[Sample],
        *,
        specs: Sequence[ClassSpec],
        profile: Profile,
        seed: int,
        device: str,
        report: Report,
        warm_start: Fitted | None = None,
    ) -> PlayedFitted:
        names = tuple(spec.name for spec in specs)
        self.fits.append({"classes": names, "samples": samples, "warm": warm_start})
        if self.refuses:
            raise NotEnoughLabels(f"{self.name} cannot start {names}")
        for done in (0.5, 1.0):
            left = 10 * len(names) * (1 - done)
            report(Progress("training", names[0], 1, 2, done, seconds_left=left))
        figures: dict[str, Any] = {name: {"by": self.name} for name in names}
        figures |= {name: {"skipped": "no points"} for name in self.cannot}
        known = tuple(name for name in names if name not in self.cannot)
        return PlayedFitted(self.name, known, self.off_px, {"classes": figures})

    def load(self, folder: Path, *, device: str) -> PlayedFitted:
        classes, off_px = json.loads((folder / "played.json").read_text())
        return PlayedFitted(self.name, tuple(classes), off_px)


@dataclass(frozen=True)
class PlayedSegmenter(Segmenter):
    """A segmenter that learns at once."""

    played: Played = field(default_factory=lambda: Played("segmenter"))
    started_from: list[tuple[Fitted, ...]] = field(default_factory=list)

    def fit(self, *args: Any, **named: Any) -> Any:
        self.started_from.append(self.starts)
        return self.played.fit(*args, **named)

    def load(self, folder: Path, *, device: str) -> Any:
        return self.played.load(folder, device=device)


def sample(n: int, *classes: str, held_out: bool = False) -> Sample:
    image = np.zeros((40, 40, 3), np.uint8)
    masks: dict[str, Callable[[], Mask]] = {name: lambda: SQUARE for name in classes}
    return Sample(f"task-{n:03}", lambda: image, (), masks, held_out)


def parts(**off_px: int) -> dict[str, Pipeline]:
    return {name: Played(name, off) for name, off in off_px.items()}


def fit(
    pipelines: Mapping[str, Pipeline],
    *specs: ClassSpec,
    samples: Sequence[Sample] = (),
    segmenter_off_px: int = 0,
    least_masks: int = 15,
    profile: Profile = BARE,
    report: Report = lambda _: None,
    warm_start: Fitted | None = None,
    segmenter: Segmenter | None = None,
) -> AutoFitted:
    played = PlayedSegmenter(least_masks=least_masks, played=Played("segmenter", segmenter_off_px))
    return Auto(pipelines=pipelines, segmenter=segmenter or played).fit(
        samples,
        specs=specs,
        profile=profile,
        seed=0,
        device="cpu",
        report=report,
        warm_start=warm_start,
    )


def serving(fitted: AutoFitted) -> dict[str, str]:
    return {name: part.pipeline for part in fitted.parts for name in part.serves}


MASKED = [sample(n, "rust") for n in range(16)]


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


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    pipelines = parts(advcam=3, other_name=0)
    before = fit(pipelines, CRACK, replace(RUST, pipeline="other_name"))
    double = AutoFitted([*before.parts, Part("advcam", PlayedFitted("advcam", ("x",)), ("x",))], {})
    for n, fitted in enumerate((before, double)):
        folder = tmp_path / str(n)
        folder.mkdir()
        fitted.save(folder)
        found = Auto(pipelines=pipelines).load(folder, device="cpu")
        assert serving(found) == serving(fitted)
        assert found.metrics == json.loads(json.dumps(fitted.metrics))
        assert [p.fitted.off_px for p in found.parts] == [p.fitted.off_px for p in fitted.parts]  # type: ignore[attr-defined]
    assert sorted(p.name for p in (tmp_path / "1").iterdir()) == [
        "advcam",
        "advcam-2",
        "auto.json",
        "other_name",
    ]


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / auto.SETTINGS_FILE).write_text('{"pipeline": "auto", "format": 9}')
    with pytest.raises(ValueError, match="holds 'auto' format 9, not 'auto' format 1"):
        auto.PIPELINE.load(tmp_path, device="cpu")


def test_each_part_is_trained_on_from_its_own_kind() -> None:
    old = AutoFitted(
        [
            Part("advcam", PlayedFitted("advcam", ("a", "b")), ("a",)),
            Part("advcam", PlayedFitted("advcam", ("b", "c")), ("b", "c")),
            Part("segmenter", PlayedFitted("segmenter", ("rust",)), ()),
        ],
        {},
    )
    pipelines = parts(advcam=0, other_name=0)
    segmenter = PlayedSegmenter()
    named = replace(CRACK, pipeline="other_name")
    fit(pipelines, RUST, named, samples=MASKED, warm_start=old, segmenter=segmenter)
    warm = {p.name: p.fits[0]["warm"] for p in (*pipelines.values(), segmenter.played)}  # type: ignore[attr-defined]
    assert warm == {
        "advcam": old.parts[1].fitted,
        "other_name": None,
        "segmenter": old.parts[2].fitted,
    }
    other = PlayedFitted("advcam", ("rust",))
    fit(pipelines, RUST, warm_start=other)
    assert pipelines["advcam"].fits[1]["warm"] is other  # type: ignore[attr-defined]


def version(off_px: int, **serves: str) -> AutoFitted:
    """Make a version: pipeline = class."""
    made = [Part(p, PlayedFitted(p, ("crack", "rust"), off_px), (c,)) for p, c in serves.items()]
    figures = {name: {"off_px": off_px} for name in serves.values()}
    return AutoFitted(made, {"seed": off_px, "classes": figures})


def test_a_combination_serves_each_class_as_its_better_version_does(tmp_path: Path) -> None:
    champion = version(1, advcam="rust", segmenter="crack")
    challenger = version(2, advcam="crack", other_name="rust")
    both = combine(champion, challenger, ["rust"])
    found = both.propose(np.zeros((40, 40, 3), np.uint8), specs=[CRACK, RUST])
    moved = {p.class_name: int(np.argmax(p.mask.any(axis=0))) - 10 for p in found.proposals}
    assert moved == {"rust": 1, "crack": 2}
    assert both.metrics["classes"] == {"crack": {"off_px": 2}, "rust": {"off_px": 1, "kept": True}}
    assert [(p.pipeline, p.serves) for p in both.parts] == [
        ("advcam", ("crack",)),
        ("other_name", ()),
        ("advcam", ("rust",)),
    ]
    both.save(tmp_path)
    loaded = Auto(pipelines=parts(advcam=0, other_name=0)).load(tmp_path, device="cpu")
    assert serving(loaded) == {"crack": "advcam", "rust": "advcam"}
    with pytest.raises(ValueError, match="the champion does not serve dent"):
        combine(champion, challenger, ["dent"])


def labelled(seed: int) -> Sample:
    """A surface with a rust spot: four clicks on it, four beside it, and its verified mask."""
    image, mask = picture(seed)
    rng = np.random.default_rng(seed)
    corner = np.argwhere(~cv2.dilate(mask.astype(np.uint8), np.ones((25, 25))).astype(bool))
    points = [
        WeakPoint("rust", float(x), float(y), positive)
        for places, positive in ((np.argwhere(mask), True), (corner, False))
        for y, x in rng.permutation(places)[:4]
    ]
    return Sample(f"task-{seed:03}", lambda: image, tuple(points), {"rust": lambda: mask})


def test_real_pipelines_train_save_load_and_train_on(tmp_path: Path) -> None:
    """The default parts, tiny: an advcam and, from six masks on, a segmenter from its network."""
    profile = replace(SMALL, max_steps=8, warm_steps=4, dense_steps=8, dense_warm_steps=4)
    samples = [labelled(seed) for seed in range(8)]
    quick = replace(RUST, refine="threshold", iterations=1, min_area_px=9, closing_px=1)
    method = Auto(segmenter=Segmenter(least_masks=6))

    def trained(warm_start: Fitted | None) -> AutoFitted:
        return method.fit(
            samples,
            specs=[quick],
            profile=profile,
            seed=0,
            device="cpu",
            report=lambda _: None,
            warm_start=warm_start,
        )

    fitted = trained(None)
    assert {part.pipeline for part in fitted.parts} == {"advcam", "segmenter"}
    own = fitted.part("segmenter")
    assert own is not None and own.metrics["classes"]["rust"]["warm_start"] == "classifier"
    fitted.save(tmp_path)
    loaded = method.load(tmp_path, device="cpu")
    image = samples[0].load()
    one, other = (f.propose(image, specs=[quick], heat=True) for f in (fitted, loaded))
    assert np.array_equal(one.proposals[0].heat, other.proposals[0].heat)  # type: ignore[arg-type]
    assert np.array_equal(one.evidence.tile_probs, other.evidence.tile_probs)
    again = trained(loaded)
    own = again.part("segmenter")
    assert own is not None and own.metrics["classes"]["rust"]["warm_start"] == "segmenter"
