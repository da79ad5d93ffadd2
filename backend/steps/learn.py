"""What one annotation teaches, with the proposals that its annotator saw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from backend.labelstudio import results, rle
from backend.labelstudio.config import LabelConfig
from backend.loop import interactions, weak_labels
from backend.loop.interactions import Proposal
from backend.records import Annotation, Interaction, ProposedRegion, VerifiedMask, WeakLabel
from backend.store import proposals, versions
from models.base import Mask


@dataclass(frozen=True)
class Learned:
    """Everything that the store keeps of an annotation beside its own text."""

    interactions: Sequence[Interaction] = ()
    weak_labels: Sequence[WeakLabel] = ()
    masks: Sequence[VerifiedMask] = ()


def from_annotation(tx: Connection, annotation: Annotation, config: LabelConfig) -> Learned:
    """Compare an annotation with the proposals that it came from; raises InvalidPayload.

    Those are the proposals of the version whose region ids it holds; without any such id, of the
    newest version that had proposed something for the task when the annotation was begun.
    """
    if not interactions.speaks(annotation):
        return Learned()
    regions = results.regions(annotation.result, config)
    present = frozenset(region.id for region in regions)
    version = _version_seen(tx, annotation, present)
    shown = _shown(tx, annotation, version)
    size = _size(regions, shown, annotation)
    proposed = _by_class(shown, config)
    final = _final(results.class_masks(annotation.result, config), size)
    clicks = results.clicks(annotation.result, config)
    alone = interactions.is_click_only(
        clicks=len(clicks), regions=len(regions), proposals=len(shown)
    )
    taught = weak_labels.learn(
        annotation,
        classes=config.classes,
        proposals=proposed,
        final=final,
        clicks=clicks,
        present=present,
        size=size,
        click_only=alone,
    )
    done = interactions.derive(
        annotation,
        classes=config.classes,
        proposals=proposed,
        final=final,
        present=present,
        version=version,
        click_only=alone,
    )
    verified = [_verified(annotation, name, mask) for name, mask in taught.verified.items()]
    return Learned(done, taught.weak_labels, verified)


def _version_seen(tx: Connection, annotation: Annotation, present: frozenset[str]) -> int | None:
    """Return the number of the version whose proposals the annotator had before them."""
    known = proposals.by_region_ids(tx, present).values()
    numbers = {r.number for r in known if r.task == annotation.task}
    if numbers:
        return max(numbers)
    begun_at = annotation.created_at or annotation.updated_at
    for version in sorted(versions.list(tx, annotation.project), key=lambda v: -v.number):
        existed = version.created_at <= begun_at and version.state != "rejected"
        if existed and annotation.task in proposals.tasks_done(
            tx, annotation.project, version.number
        ):
            return version.number
    return None


def _shown(tx: Connection, annotation: Annotation, number: int | None) -> list[ProposedRegion]:
    if number is None:
        return []
    found: list[ProposedRegion] = proposals.of_task(tx, annotation.project, annotation.task, number)
    return found


def _size(
    regions: Sequence[results.Region], shown: Sequence[ProposedRegion], annotation: Annotation
) -> tuple[int, int] | None:
    """Return (height, width) of the image as our proposals, the regions, or any item says it."""
    if shown:
        return shown[0].height_px, shown[0].width_px
    if regions:
        return regions[0].height_px, regions[0].width_px
    sizes = (_declared(item) for item in annotation.result)
    return next((size for size in sizes if size is not None), None)


def _declared(item: Mapping[str, object]) -> tuple[int, int] | None:
    height_px, width_px = item.get("original_height"), item.get("original_width")
    return (
        (height_px, width_px) if isinstance(height_px, int) and isinstance(width_px, int) else None
    )


def _by_class(shown: Sequence[ProposedRegion], config: LabelConfig) -> dict[str, Proposal]:
    by_class: defaultdict[str, list[ProposedRegion]] = defaultdict(list)
    for region in shown:
        by_class[region.class_name].append(region)
    return {
        name: Proposal(mask, frozenset(region.region_id for region in by_class[name]))
        for name, mask in _as_displayed(shown, config).items()
    }


def _as_displayed(shown: Sequence[ProposedRegion], config: LabelConfig) -> dict[str, Mask]:
    """Return the masks that the annotator had on screen: an outline or a box is coarser."""
    return results.class_masks(results.prediction_result(shown, config), config)


def _final(masks: Mapping[str, Mask], size: tuple[int, int] | None) -> dict[str, Mask]:
    """Leave out masks of another size than the image: they cannot be compared with anything."""
    return {name: mask for name, mask in masks.items() if size is None or mask.shape == size}


def _verified(annotation: Annotation, class_name: str, mask: Mask) -> VerifiedMask:
    height_px, width_px = mask.shape
    return VerifiedMask(
        project=annotation.project,
        task=annotation.task,
        annotation=annotation.id,
        class_name=class_name,
        height_px=height_px,
        width_px=width_px,
        rle=rle.to_bytes(rle.encode(mask)),
    )
