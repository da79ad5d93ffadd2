"""What a training learns from and what is held out of it: a plan per class, and its crops.

Nothing is learnt from held-out samples: their points choose the best step, their masks how heat
becomes a mask. Where no sample says that it is held out, a hash of the key picks one in eight, and
a class whose points all lie there learns from all of them.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from models.base import ClassSpec, NotEnoughLabels, Profile, Sample
from models.learning import crops
from models.learning.crops import Clicks, Wanted
from models.learning.sampling import CropSource
from models.learning.selection import HeldOut

HELD_OUT_IN = 8  # one sample in eight, where none is named

Generator = np.random.Generator


@dataclass(frozen=True)
class ClassPlan:
    """The points of one class: those to learn and those to choose the best step by.

    unseen: keys of the samples that this class learns nothing from.
    """

    spec: ClassSpec
    learn: Clicks
    held_out: Clicks
    unseen: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Material:
    """The crops that belong to a plan."""

    source: CropSource
    held_out: HeldOut


def ordered(samples: Sequence[Sample]) -> list[Sample]:
    """Sort by key, so that results do not depend on the order; raises ValueError for equal keys."""
    counts = Counter(sample.key for sample in samples)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} keys name several samples, {twice[0]!r} one of them")
    return sorted(samples, key=lambda sample: sample.key)


def plan(
    samples: Sequence[Sample], specs: Sequence[ClassSpec], crop_px: int, seed: int
) -> tuple[list[ClassPlan], dict[str, str]]:
    """Plan the classes that can be trained; the others, by name, with the reason why not."""
    plans: list[ClassPlan] = []
    skipped: dict[str, str] = {}
    for spec in specs:
        try:
            plans.append(_plan(samples, spec, crop_px, seed))
        except NotEnoughLabels as error:
            skipped[spec.name] = str(error)
    return plans, skipped


def cut(samples: Sequence[Sample], plans: Sequence[ClassPlan], profile: Profile) -> list[Material]:
    """Cut the crops of all plans, decoding each image once and within one bound on memory."""
    wanted = [
        want
        for one in plans
        for want in (
            Wanted(one.learn.positives, crops.CLICK_REACH),
            Wanted(one.learn.negatives, crops.JITTER),
            Wanted(one.held_out.positives, 0.0),
            Wanted(one.held_out.negatives, 0.0),
        )
    ]
    made = crops.cut_out(samples, wanted, profile.crop_px)
    return [
        Material(CropSource(there, clean, profile.crops_per_click), (unseen_there, unseen_clean))
        for there, clean, unseen_there, unseen_clean in zip(*[iter(made)] * 4, strict=True)
    ]


def held_out(samples: Sequence[Sample]) -> frozenset[int]:
    """Return the indices of held-out samples: those that say so, or by hash where none does."""
    named = frozenset(n for n, sample in enumerate(samples) if sample.held_out)
    return named or frozenset(n for n, sample in enumerate(samples) if is_held_out(sample.key))


def is_held_out(key: str) -> bool:
    """Tell whether the points of this sample choose the best step instead of being learnt."""
    digest = hashlib.sha256(f"best step of {key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_IN == 0


def _plan(samples: Sequence[Sample], spec: ClassSpec, crop_px: int, seed: int) -> ClassPlan:
    rng = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
    out = held_out(samples)
    try:
        learn = _clicks(samples, spec, crop_px, rng, set(range(len(samples))) - out)
    except NotEnoughLabels:
        if any(sample.held_out for sample in samples):
            raise
        out, learn = frozenset(), _clicks(samples, spec, crop_px, rng, range(len(samples)))
    try:
        chosen = _clicks(samples, spec, crop_px, rng, out)
    except NotEnoughLabels:
        chosen = Clicks((), ())
    unseen = tuple(samples[n].key for n in sorted(out))
    return ClassPlan(spec, learn, chosen, unseen, int(rng.integers(2**31)))


def _clicks(
    samples: Sequence[Sample],
    spec: ClassSpec,
    crop_px: int,
    rng: Generator,
    among: Collection[int],
) -> Clicks:
    return crops.collect(samples, spec.name, crop_px, rng, among=among)
