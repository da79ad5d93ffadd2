"""From probabilities to proposals: masks, regions and evidence, the same for every pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from models import evidence
from models.base import ClassProposal, ClassSpec, HeatMap, Image, TaskProposal
from models.masks import confidence
from models.masks.confidence import Confidence
from models.masks.settings import Settings, apply, resolve
from models.passes import Cells

RULE_THRESHOLD = 0.5  # of a probability, where a spec asks for a refinement and nothing else


class Judged(Protocol):
    """What a version has chosen for a class."""

    @property
    def settings(self) -> Settings:
        """How heat becomes a mask."""

    @property
    def confidence(self) -> Confidence:
        """How sure regions are."""


def task_proposal(
    image: Image,
    specs: Sequence[ClassSpec],
    heats: Sequence[HeatMap],
    models: Mapping[str, Judged],
    embeddings: Sequence[npt.NDArray[np.float32]],
    passes: Sequence[Cells],
    *,
    window_px: int,
    heat: bool,
) -> TaskProposal:
    """Propose for one image from the probabilities (H, W) of each spec's class.

    embeddings: (D,) each, joined in the evidence; passes: of each spec's class; heat: whether
    proposals carry theirs.
    """
    probs = [evidence.window_probs(own, window_px) for own in heats]
    proposals = []
    for spec, own, windows in zip(specs, heats, probs, strict=True):
        model, score = models[spec.name], float(windows.max())
        mask = apply(image, own, resolve(model.settings, spec, threshold=RULE_THRESHOLD))
        regions = confidence.regions(mask, own, score, model.confidence)
        proposals.append(ClassProposal(spec.name, mask, score, own if heat else None, regions))
    stats = {
        made.class_name: evidence.proposal_stats(made.mask, own)
        for made, own in zip(proposals, heats, strict=True)
    }
    names = [spec.name for spec in specs]
    samples = [evidence.window_samples(own, image.shape[:2], window_px) for own in passes]
    seen = evidence.gather(names, probs, embeddings, stats, samples)
    return TaskProposal(tuple(proposals), seen)


def score_of(heat: HeatMap, window_px: int) -> float:
    """(H, W) -> how sure the class is present: the largest window probability."""
    return float(evidence.window_probs(heat, window_px).max())
