"""Training a challenger: what the pipeline is given, and what passes the gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models.base
from backend.errors import StorageError
from backend.labelstudio import rle
from backend.loop import gate
from backend.processes.residents import Residents
from backend.records import Annotation, Task, VerifiedMask, Version, WeakLabel
from backend.steps import projects as project_steps
from backend.steps.training import train
from backend.store import annotations as annotation_rows
from backend.store import learning, tasks, unrecorded, versions
from backend.store import projects as project_rows
from backend.wiring import Services
from models.base import (
    ClassProposal,
    ClassSpec,
    Evidence,
    Fitted,
    Image,
    Mask,
    Profile,
    Report,
    Sample,
    TaskProposal,
)
from models.masks.settings import default_settings
from models.pipelines.advcam import AdvCamFitted, ClassModel, Geometry
from models.pipelines.auto import AutoFitted, Part
from tests.models.small_network import small_network
from tests.steps.conftest import NOW

CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image" model_closing_px="3"><Label value="crack"/>
<Label value="rust" model_pipeline="segmenter"/></BrushLabels></View>"""
LEARNT, KEPT = range(100, 106), range(200, 206)  # tasks; the gate keeps the second half
SHAPE = (16, 24)


def square(left: int = 4) -> Mask:
    mask: Mask = np.zeros(SHAPE, dtype=bool)
    mask[4:12, left : left + 8] = True
    return mask


@dataclass
class Drawn:
    """Proposes for each class a square that begins at a column; 4 is right."""

    lefts: dict[str, int]
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.lefts)

    def propose(
        self, image: Image, *, specs: Sequence[ClassSpec], heat: bool = False
    ) -> TaskProposal:
        names = tuple(spec.name for spec in specs if spec.name in self.lefts)
        made = (ClassProposal(name, square(self.lefts[name]), 0.9) for name in names)
        probs = np.ones((1, len(names)), np.float32)
        stats: dict[str, dict[str, float]] = {name: {} for name in names}
        return TaskProposal(tuple(made), Evidence(names, probs, np.zeros(1, np.float32), stats))

    def save(self, folder: Path) -> None:
        (folder / "drawn.txt").write_text(repr(self.lefts))


@dataclass
class PlayedPipeline:
    """Gives a version that was made before and remembers what it was given."""

    fitted: Fitted
    given: dict[str, Any] = field(default_factory=dict)

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
    ) -> Fitted:
        self.given = {"samples": samples, "specs": specs, "warm_start": warm_start}
        return self.fitted


@dataclass
class PlayedResidents:
    fitted: Fitted

    def get(self, project: int, number: int, pipeline: str) -> Fitted:
        return self.fitted


def composite(**lefts: int) -> AutoFitted:
    figures = {"classes": {name: {"left": left} for name, left in lefts.items()}}
    return AutoFitted([Part("advcam", Drawn(lefts), tuple(lefts))], figures)


@pytest.fixture
def taught(services: Services, monkeypatch: pytest.MonkeyPatch) -> Services:
    """Twelve tasks with a click and verified squares of both classes; six are kept for the gate."""
    monkeypatch.setattr(gate, "is_validation", lambda _, key: "/2" in key)
    with services.store.transaction() as tx:
        project_rows.update(tx, 1, label_config=CONFIG)
        for id in (*LEARNT, *KEPT):
            tasks.upsert(tx, [Task(1, id, f"/data/upload/1/{id}.jpg", NOW)])
            annotation_rows.put(tx, Annotation(id, 1, id, NOW, ()))
            point = WeakLabel(1, id, id, "crack", 5.0, 6.0, True, "click", weight=0.5)
            mask = rle.to_bytes(rle.encode(square()))
            masks = [VerifiedMask(1, id, id, name, *SHAPE, mask) for name in ("crack", "rust")]
            learning.replace(tx, id, 1, id, [], [point], masks)
    return services


def run(
    services: Services,
    challenger: Fitted,
    monkeypatch: pytest.MonkeyPatch,
    champion: Fitted | None = None,
    *,
    encoder_before: str = "resnet18",
) -> tuple[Version, PlayedPipeline]:
    played = PlayedPipeline(challenger)
    known = models.base.get
    monkeypatch.setattr(models.base, "get", lambda name: played if name == "auto" else known(name))
    if champion is not None:
        services = replace(services, residents=PlayedResidents(champion))  # type: ignore[arg-type]
        with services.store.transaction() as tx:
            number = versions.next_number(tx, 1)
            before = {"start": {"encoder": encoder_before}}
            row = Version(1, number, "challenger", "auto", "before", NOW, metrics=before)
            versions.add(tx, row)
            project_steps.promote(tx, 1, number)
    version = train.train(services, 1, "train-1-x")
    assert version is not None
    return version, played


def test_the_label_config_reaches_the_pipeline(
    taught: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, played = run(taught, composite(crack=4, rust=4), monkeypatch)
    assert played.given["specs"] == (
        ClassSpec("crack", closing_px=3),
        ClassSpec("rust", closing_px=3, pipeline="segmenter"),
    )
    assert (version.pipeline, version.state) == ("auto", "champion")


def test_what_the_gate_keeps_is_never_given_to_a_pipeline(
    taught: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, played = run(taught, composite(crack=4, rust=4), monkeypatch)
    samples = played.given["samples"]
    assert [sample.key for sample in samples] == [str(id) for id in LEARNT]
    assert not any(sample.held_out for sample in samples)
    assert samples[0].points[0].weight == 0.5
    assert np.array_equal(samples[0].masks["rust"](), square())
    assert version.gate["figures"]["challenger"]["f_strict"] == 1.0


def test_each_class_is_served_by_the_version_that_needs_fewer_corrections(
    taught: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion, challenger = composite(crack=12, rust=4), composite(crack=4, rust=14)
    version, played = run(taught, challenger, monkeypatch, champion)
    assert played.given["warm_start"] is champion
    assert version.state == "champion"
    assert version.gate["reason"].startswith("keeps the champion's rust; costs no more in 100%")
    assert version.gate["figures"]["kept"] == ["rust"]
    assert version.metrics["classes"] == {
        "crack": {"left": 4},
        "rust": {"left": 4, "kept": True},
    }
    folder = taught.registry.folder(1, version.number)
    texts = [(folder / name / "drawn.txt").read_text() for name in ("advcam", "advcam-2")]
    assert texts == [repr({"crack": 4, "rust": 14}), repr({"crack": 12, "rust": 4})]


def test_a_training_on_another_encoder_starts_afresh(
    taught: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = composite(crack=4, rust=4)
    version, played = run(taught, both, monkeypatch, both, encoder_before="resnet34")
    assert played.given["warm_start"] is None
    begun = version.metrics["start"]
    learnt_until = project_steps.require(taught, 1).last_snapshot_at
    assert learnt_until is not None and begun["newest_at"] == learnt_until.isoformat()
    assert (begun["warm"], begun["labels"], begun["encoder"]) == (False, 12, "resnet18")
    assert begun["reason"] == "the encoder has changed from resnet34 to resnet18"


def test_a_challenger_that_is_worse_in_all_classes_is_kept_but_not_used(
    taught: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion, challenger = composite(crack=4, rust=4), composite(crack=12, rust=14)
    version, _ = run(taught, challenger, monkeypatch, champion)
    assert version.state == "rejected"
    assert [p.name for p in taught.registry.folder(1, version.number).glob("advcam*")] == ["advcam"]


def test_versions_without_parts_are_judged_as_a_whole(
    taught: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = Drawn({"crack": 12, "rust": 4})
    version, played = run(taught, composite(crack=4, rust=14), monkeypatch, champion)
    assert played.given["warm_start"] is champion
    assert version.state == "rejected" and "rust lost more than" in version.gate["reason"]
    assert "kept" not in version.gate["figures"]


def test_a_version_of_an_older_pipeline_still_loads_and_serves(services: Services) -> None:
    spec = ClassSpec("crack")
    model = ClassModel("crack", small_network(), default_settings(spec))
    old = AdvCamFitted(Geometry("resnet18", (8, 8), 24, 64, False), [model], {}, "cpu")
    services.registry.save(1, 1, old.save)
    fitted = Residents(services.registry, device="cpu").get(1, 1, "advcam")
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    one, other = (f.propose(image, specs=[spec]).proposals[0] for f in (old, fitted))
    assert np.array_equal(one.mask, other.mask) and one.score == other.score


@dataclass
class Away:
    """Versions in a store that does not answer the first so many questions for a number."""

    real: Any
    times: int

    def exists(self, project: int, number: int) -> bool:
        self.times -= 1
        if self.times >= 0:
            raise StorageError("s3://models cannot be used (connection reset)")
        return bool(self.real.exists(project, number))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_what_was_trained_waits_for_a_store_that_is_away_when_it_asks_for_a_number(
    taught: Services, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(train, "SAVE_AGAIN_S", (0.0, 0.0))
    away: Any = replace(taught, registry=Away(taught.registry, times))  # type: ignore[arg-type]
    if times > 2:
        with pytest.raises(StorageError, match="connection reset"):
            run(away, composite(crack=4, rust=4), monkeypatch)
    else:
        version, _ = run(away, composite(crack=4, rust=4), monkeypatch)
        assert taught.registry.list(1) == [version.number]
    with taught.store.transaction() as tx:
        unrecorded.give_up(tx, 1)
        assert unrecorded.given_up(tx, 1) == set(), "no number is left as being written"
