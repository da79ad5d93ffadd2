"""What one annotation teaches, with the proposals that its annotator saw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from backend.labelstudio import image_choices, results, rle
from backend.labelstudio.config import LabelConfig
from backend.labelstudio.results import Region
from backend.loop import interactions, regions, weak_labels
from backend.loop.regions import Drawn, Part
from backend.records import Annotation, Interaction, ProposedRegion, VerifiedMask, WeakLabel
from backend.store import proposals, tasks, versions
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
    present = frozenset(region.id for region in results.regions(annotation.result, config))
    version = _version_seen(tx, annotation, present)
    shown = _shown(tx, annotation, version)
    task = tasks.get(tx, annotation.project, annotation.task)
    natural = (task.height_px, task.width_px) if task and task.height_px and task.width_px else None
    return compare(annotation, config, shown, version, natural=natural)


def compare(
    annotation: Annotation,
    config: LabelConfig,
    shown: Sequence[ProposedRegion],
    version: int | None,
    natural: tuple[int, int] | None = None,
) -> Learned:
    """Return what an annotation says of the proposals on screen; raises InvalidPayload.

    natural: (height, width) of the image in px, where neither proposals nor the annotation tell.
    Pixels of another size than the image cannot be compared with anything, and a part that is left
    out would look rejected: such an annotation as a whole is refused.
    """
    if not interactions.speaks(annotation):
        return Learned()
    size = _size(shown, annotation, config) or natural
    proposed, final = _drawn(annotation, config, shown, size)
    judged = interactions.judge(config.classes, proposed, final)
    clicks = results.clicks(annotation.result, config)
    alone = interactions.is_click_only(clicks=len(clicks), regions=len(final), proposals=len(shown))
    taught = weak_labels.learn(
        annotation,
        classes=config.classes,
        judged=judged,
        final=final,
        clicks=clicks,
        size=size,
        chosen=_chosen(annotation, config),
        click_only=alone,
    )
    done = interactions.derive(annotation, judged, version=version, click_only=alone)
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
        if existed and proposals.has(tx, annotation.project, version.number, annotation.task):
            return version.number
    return None


def _shown(tx: Connection, annotation: Annotation, number: int | None) -> list[ProposedRegion]:
    if number is None:
        return []
    found: list[ProposedRegion] = proposals.of_task(tx, annotation.project, annotation.task, number)
    return found


def _chosen(annotation: Annotation, config: LabelConfig) -> frozenset[str]:
    """Return the classes that a person says are in the image; an untouched choice says nothing."""
    touched = [item for item in annotation.result if item.get("origin") != "prediction"]
    return image_choices.said(touched, config).present


def _size(
    shown: Sequence[ProposedRegion], annotation: Annotation, config: LabelConfig
) -> tuple[int, int] | None:
    """Return (height, width) of the image as our proposals, the regions, or any item says it."""
    if shown:
        return shown[0].height_px, shown[0].width_px
    found = results.regions(annotation.result, config)
    if found:
        return found[0].height_px, found[0].width_px
    sizes = (_declared(item) for item in annotation.result)
    return next((size for size in sizes if size is not None), None)


def _declared(item: Mapping[str, object]) -> tuple[int, int] | None:
    height_px, width_px = item.get("original_height"), item.get("original_width")
    return (
        (height_px, width_px) if isinstance(height_px, int) and isinstance(width_px, int) else None
    )


def _drawn(
    annotation: Annotation,
    config: LabelConfig,
    shown: Sequence[ProposedRegion],
    size: tuple[int, int] | None,
) -> tuple[dict[str, Drawn], dict[str, Drawn]]:
    """Return by class what was proposed and what the annotation holds; {} without any region.

    A region that came back as it was sent is decoded once.
    """
    if size is None:
        return {}, {}
    height_px, width_px = size
    found = results.regions(annotation.result, config, height_px=height_px, width_px=width_px)
    sent = {one.region_id: one.rle for one in shown if _is_brush(one, config)}
    proposed = list(_as_displayed(shown, config))
    decoded = {part.id: part for _, part in proposed if part.id in sent}
    final = [(region.class_name, _part(region, sent, decoded)) for region in found]
    return _by_class(proposed, size), _by_class(final, size)


def _as_displayed(
    shown: Sequence[ProposedRegion], config: LabelConfig
) -> Iterator[tuple[str, Part]]:
    """Yield class and pixels that the annotator had on screen: an outline or a box is coarser."""
    known = [one for one in shown if one.class_name in config.classes]
    for one in known:
        if _is_brush(one, config):
            mask = rle.decode_mask(one.rle, one.height_px, one.width_px)
            yield one.class_name, regions.part(one.region_id, mask)
    others = [one for one in known if not _is_brush(one, config)]
    for region in results.regions(results.prediction_result(others, config), config):
        yield region.class_name, regions.part(region.id, region.mask)


def _is_brush(one: ProposedRegion, config: LabelConfig) -> bool:
    known = one.class_name in config.classes
    return known and config.output(one.class_name).tag == "BrushLabels"


def _part(region: Region, sent: Mapping[str, bytes], decoded: Mapping[str, Part]) -> Part:
    """Return the pixels of a region; the same code as we sent means the same pixels."""
    is_changed = region.origin == "prediction-changed"
    known = decoded.get(region.id) if region.kind == "brush" and "rle" in region.value else None
    if known is not None and rle.to_bytes(region.value["rle"]) == sent[region.id]:
        return replace(known, is_changed=is_changed)
    return regions.part(region.id, region.mask, is_changed=is_changed)


def _by_class(parts: Iterable[tuple[str, Part]], size: tuple[int, int]) -> dict[str, Drawn]:
    by_class: defaultdict[str, list[Part]] = defaultdict(list)
    for class_name, part in parts:
        by_class[class_name].append(part)
    return {name: regions.drawn(found, size) for name, found in by_class.items()}


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
