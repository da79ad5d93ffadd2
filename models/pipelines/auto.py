"""For each class the pipeline that suits it: one starts, the segmenter takes over if it is better.

A class starts with the pipeline that its label config names, or with the one that was measured best
for its kind. Once enough masks are verified the segmenter is trained beside it, and what costs the
annotators fewer corrections on samples that neither has learnt serves.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import models.base
from models import evidence
from models.base import (
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
)
from models.learning.planning import held_out, ordered
from models.learning.training import Clock
from models.masks.correction import correction
from models.masks.settings import is_thin
from models.pipelines import segmenter
from models.pipelines.segmenter import Segmenter, shown_by

FORMAT = 1
SETTINGS_FILE = "auto.json"
STARTS = {  # kind of class, pretrained encoder -> pipeline
    ("thin", False): "advcam",
    ("thin", True): "self_training",
    ("compact", False): "advcam",
    ("compact", True): "pixel_head",
}
NEED_WEIGHTS = ("pixel_head", "self_training")  # stand on a pretrained encoder
WITHOUT_WEIGHTS = "advcam"  # starts what another one cannot
LEAST_CASES = 4  # held-out masks that show a class, to compare candidates on
MOST_CASES = 12  # looked at per class
FIGURES = ("cost_s", "f", "f_strict")


@dataclass(frozen=True)
class Part:
    """A fitted pipeline and the classes that it serves here; it may know more."""

    pipeline: str
    fitted: Fitted
    serves: tuple[str, ...]


class AutoFitted:
    """Several fitted pipelines, each class being served by one of them."""

    def __init__(self, parts: Sequence[Part], metrics: Mapping[str, Any]) -> None:
        self.parts = tuple(parts)
        self._metrics = dict(metrics)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names that a part serves."""
        return tuple(name for part in self.parts for name in part.serves)

    @property
    def metrics(self) -> Mapping[str, Any]:
        """JSON-able: `classes` holds the serving part's figures of each class and its rivals'."""
        return self._metrics

    def propose(
        self, image: Image, *, specs: Sequence[ClassSpec], heat: bool = False
    ) -> TaskProposal:
        """Propose a mask for each class of `specs` that it knows; others are left out."""
        found = []
        for part in self.parts:
            own = [spec for spec in specs if spec.name in part.serves]
            if own:
                found.append(part.fitted.propose(image, specs=own, heat=heat))
        made = {p.class_name: p for task in found for p in task.proposals}
        proposals = tuple(made[spec.name] for spec in specs if spec.name in made)
        served = [p.class_name for p in proposals]
        return TaskProposal(proposals, joined([task.evidence for task in found], served))

    def part(self, pipeline: str) -> Fitted | None:
        """Return what to train on from: of several parts the one that serves most classes."""
        own = [part for part in self.parts if part.pipeline == pipeline]
        return max(own, key=lambda part: len(part.serves)).fitted if own else None

    def save(self, folder: Path) -> None:
        """Write each part into a folder of its own, and what binds them."""
        entries = []
        for name, part in zip(_folders(self.parts), self.parts, strict=True):
            (folder / name).mkdir()
            part.fitted.save(folder / name)
            entries.append({"folder": name, "pipeline": part.pipeline, "serves": part.serves})
        about = {"format": FORMAT, "pipeline": "auto", "parts": entries, "metrics": self._metrics}
        text = json.dumps(about, allow_nan=False, indent=1)
        (folder / SETTINGS_FILE).write_text(text, encoding="utf-8")


class Auto:
    """The pipeline; `clock` gives seconds, `pipelines` those to use instead of the known ones.

    segmenter: trained beside the pipelines that classes start with.
    """

    def __init__(
        self,
        clock: Clock = time.monotonic,
        pipelines: Mapping[str, Pipeline] | None = None,
        segmenter: Segmenter = segmenter.PIPELINE,
    ) -> None:
        self._clock = clock
        self._pipelines = pipelines
        self._segmenter = segmenter

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
    ) -> AutoFitted:
        """Fit the pipelines that the classes start with, then the segmenter, then choose.

        The parts of an AutoFitted `warm_start` are passed to their pipelines, another version to
        all of them. Classes that cannot start are skipped and say why in `metrics`. Raises
        NotEnoughLabels when none can, and whatever a pipeline or `report` raises.
        """
        began = self._clock()
        samples = ordered(samples)
        ready = self._ready(samples, specs)
        samples = _with_held_out(samples, ready)
        fits = _Fits(samples, profile, seed, device, warm_start)
        plan = self._plan(specs, profile, ready)
        done, there = 0, sum(map(len, plan.values()))
        for name, own in plan.items():
            fits.add(name, self._get(name, fits), own, _placed(report, done, len(own), there))
            done += len(own)
        if not fits.fitted:
            reasons = "; ".join(dict.fromkeys(fits.skipped.values()))
            raise NotEnoughLabels(reasons or "nothing to train on: the label config names no class")
        tables = {spec.name: _compared(fits, spec, samples) for spec in specs}
        chosen = {name: table[0]["pipeline"] for name, table in tables.items() if table}
        parts = [
            Part(pipeline, fitted, tuple(n for n, p in chosen.items() if p == pipeline))
            for pipeline, fitted in fits.fitted.items()
        ]
        metrics = {
            "profile": profile.name,
            "seed": seed,
            "encoder_weights": "none" if profile.encoder_weights is None else "pretrained",
            "seconds": self._clock() - began,
            "classes": {name: fits.figures(name, table) for name, table in tables.items()},
        }
        return AutoFitted(parts, metrics)

    def load(self, folder: Path, *, device: str) -> AutoFitted:
        """Load what `save` wrote; raises ValueError for a folder of another format."""
        about = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        if (about.get("pipeline"), about.get("format")) != ("auto", FORMAT):
            raise ValueError(
                f"{folder} holds {about.get('pipeline')!r} format {about.get('format')!r}, not "
                f"'auto' format {FORMAT}; load it with the release that wrote it"
            )
        parts = []
        for entry in about["parts"]:
            pipeline = self._get(entry["pipeline"])
            fitted = pipeline.load(folder / entry["folder"], device=device)
            parts.append(Part(entry["pipeline"], fitted, tuple(entry["serves"])))
        return AutoFitted(parts, about["metrics"])

    def _ready(
        self, samples: Sequence[Sample], specs: Sequence[ClassSpec]
    ) -> dict[str, tuple[str, ...]]:
        """Return the keys of the samples that show a class, for those that can be segmented."""
        showing = shown_by(samples, [spec.name for spec in specs if is_free(spec)])
        out = {sample.key for sample in samples if sample.held_out}
        least = self._segmenter.least_masks
        return {name: keys for name, keys in showing.items() if len({*keys} - out) >= least}

    def _plan(
        self, specs: Sequence[ClassSpec], profile: Profile, ready: Collection[str]
    ) -> dict[str, list[ClassSpec]]:
        """Say which pipeline is fitted for which classes; the segmenter comes last."""
        plan: dict[str, list[ClassSpec]] = {}
        late = [spec for spec in specs if spec.name in ready and is_free(spec)]
        for spec in specs:
            if not (spec.pipeline == segmenter.NAME and spec in late):
                plan.setdefault(start_of(spec, profile), []).append(spec)
        return {**plan, segmenter.NAME: late} if late else plan

    def _get(self, name: str, fits: _Fits | None = None) -> Pipeline:
        """Return a pipeline; the segmenter starts from what the fits so far have learnt."""
        if name == segmenter.NAME:
            return replace(self._segmenter, starts=tuple(fits.fitted.values()) if fits else ())
        return models.base.get(name) if self._pipelines is None else self._pipelines[name]


PIPELINE = Auto()


def start_of(spec: ClassSpec, profile: Profile) -> str:
    """Name the pipeline that a class starts with: the spec's, or the one measured best.

    Without a pretrained encoder the classifier takes the place of those that stand on one.
    """
    pretrained = profile.encoder_weights is not None
    if not is_free(spec):
        start = str(spec.pipeline)
        return start if pretrained or start not in NEED_WEIGHTS else WITHOUT_WEIGHTS
    start = STARTS["thin" if is_thin(spec.name) else "compact", pretrained]
    return start if start in models.base.names() else WITHOUT_WEIGHTS


def is_free(spec: ClassSpec) -> bool:
    """Tell whether the segmenter may serve the class: it, or nothing, is named for it."""
    return spec.pipeline in (None, "auto", segmenter.NAME)


def combine(champion: AutoFitted, challenger: AutoFitted, kept: Collection[str]) -> AutoFitted:
    """Serve the classes of `kept` as the champion does and all others as the challenger does.

    Parts of the champion that serve none of them are left behind; those of the challenger stay, to
    be trained on from. Raises ValueError for a class that the champion does not serve.
    """
    unknown = sorted(set(kept) - set(champion.classes))
    if unknown:
        raise ValueError(f"the champion does not serve {', '.join(unknown)}")
    old = [replace(p, serves=tuple(n for n in p.serves if n in kept)) for p in champion.parts]
    new = [replace(p, serves=tuple(n for n in p.serves if n not in kept)) for p in challenger.parts]
    of_champion, of_challenger = (f.metrics["classes"] for f in (champion, challenger))
    figures = {**of_challenger, **{n: {**of_champion.get(n, {}), "kept": True} for n in kept}}
    parts = [*new, *(part for part in old if part.serves)]
    return AutoFitted(parts, {**challenger.metrics, "classes": figures})


def joined(found: Sequence[Evidence], classes: Sequence[str]) -> Evidence:
    """Join what several parts saw of one image, the columns in the order of `classes`.

    Where parts look at different windows or pass differently often, the fewer ones are repeated.
    """
    named = [(e, n, name) for e in found for n, name in enumerate(e.classes)]
    columns = {name: e.tile_probs[:, n] for e, n, name in named}
    drawn = {name: e.samples[..., n] for e, n, name in named if len(e.samples)}
    rows = np.arange(max((len(column) for column in columns.values()), default=0))
    picked = {name: rows * len(column) // len(rows) for name, column in columns.items()}
    return evidence.gather(
        classes,
        [columns[name][picked[name]] for name in classes],
        [e.embedding for e in found],
        {name: e.stats[name] for e in found for name in e.classes},
        [drawn[name][:, picked[name]] for name in classes if drawn.keys() == columns.keys()],
    )


class _Fits:
    """The pipelines fitted so far, and why classes were skipped."""

    def __init__(
        self,
        samples: Sequence[Sample],
        profile: Profile,
        seed: int,
        device: str,
        warm_start: Fitted | None,
    ) -> None:
        self.fitted: dict[str, Fitted] = {}
        self.skipped: dict[str, str] = {}
        self._warm_start = warm_start
        self._samples, self._profile = samples, profile
        self._seed, self._device = seed, device

    def add(
        self, name: str, pipeline: Pipeline, specs: Sequence[ClassSpec], report: Report
    ) -> None:
        """Fit a pipeline for these classes; one that has too few labels is left out."""
        warm = self._warm_start
        try:
            self.fitted[name] = pipeline.fit(
                self._samples,
                specs=specs,
                profile=self._profile,
                seed=self._seed,
                device=self._device,
                report=report,
                warm_start=warm.part(name) if isinstance(warm, AutoFitted) else warm,
            )
        except NotEnoughLabels as error:
            self.skipped |= {spec.name: str(error) for spec in specs}

    def of(self, spec: ClassSpec) -> dict[str, Fitted]:
        """Return who could serve a class, the one that started it first."""
        return {name: fitted for name, fitted in self.fitted.items() if spec.name in fitted.classes}

    def figures(self, name: str, table: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Describe a class: the figures of who serves it, and the table of who could."""
        if not table:
            return {"skipped": self.skipped.get(name) or self._why_skipped(name)}
        pipeline = table[0]["pipeline"]
        own = self.fitted[pipeline].metrics.get("classes", {}).get(name, {})
        return {**own, "pipeline": pipeline, "candidates": list(table)}

    def _why_skipped(self, name: str) -> str:
        reasons = (f.metrics.get("classes", {}).get(name, {}) for f in self.fitted.values())
        return next((r["skipped"] for r in reasons if "skipped" in r), "not trained")


def _compared(fits: _Fits, spec: ClassSpec, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """List who could serve a class, the best first: the least predicted cost, then the highest F.

    With fewer than LEAST_CASES held-out masks that show the class, who started it goes first.
    """
    candidates = fits.of(spec)
    cases = _cases(samples, spec.name) if len(candidates) > 1 else []
    if not cases:
        return [{"pipeline": name} for name in candidates]
    table = []
    for name, fitted in candidates.items():
        found = [correction(_mask(fitted, sample, spec), truth) for sample, truth in cases]
        means = {key: float(np.mean([getattr(c, key) for c in found])) for key in FIGURES}
        table.append({"pipeline": name, "held_out_masks": len(cases), **means})
    return sorted(table, key=lambda row: (row["cost_s"], -row["f_strict"]))


def _cases(samples: Sequence[Sample], class_name: str) -> list[tuple[Sample, Mask]]:
    """Pick held-out samples with a verified mask, those that show the class first."""
    own = [samples[n] for n in sorted(held_out(samples)) if class_name in samples[n].masks]
    found = [(sample, sample.masks[class_name]()) for sample in own]
    showing = [case for case in found if case[1].any()]
    if len(showing) < LEAST_CASES:
        return []
    return [*showing, *(case for case in found if not case[1].any())][:MOST_CASES]


def _mask(fitted: Fitted, sample: Sample, spec: ClassSpec) -> Mask:
    (proposal,) = fitted.propose(sample.load(), specs=[spec]).proposals
    return proposal.mask


def _with_held_out(samples: Sequence[Sample], showing: Mapping[str, Sequence[str]]) -> list[Sample]:
    """Hold more samples out where the rule leaves less than LEAST_CASES to compare candidates on.

    showing: class -> keys of the samples whose masks show it.
    """
    keys = before = {samples[n].key for n in held_out(samples)}
    for own in showing.values():
        missing = max(0, LEAST_CASES - len(keys.intersection(own)))
        keys = keys | set(sorted(set(own) - keys, key=_digest)[:missing])
    if keys == before:
        return list(samples)
    return [replace(sample, held_out=sample.key in keys) for sample in samples]


def _placed(report: Report, before: int, own: int, there: int) -> Report:
    """Place the progress of a fit of `own` classes among all fits; classes last equally long."""

    def placed(progress: Progress) -> None:
        left, fraction = progress.seconds_left, (before + own * progress.fraction) / there
        if left is not None and progress.fraction < 1:
            left *= (there - before - own * progress.fraction) / (own * (1 - progress.fraction))
        report(replace(progress, fraction=fraction, seconds_left=left))

    return placed


def _folders(parts: Sequence[Part]) -> Iterator[str]:
    """Yield a name for each part: the pipeline's, numbered from the second of its kind on."""
    for n, part in enumerate(parts):
        same = sum(other.pipeline == part.pipeline for other in parts[:n])
        yield f"{part.pipeline}-{same + 1}" if same else part.pipeline


def _digest(key: str) -> str:
    return hashlib.sha256(f"compared on {key}".encode()).hexdigest()
