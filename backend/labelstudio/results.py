"""Annotation results: regions to masks and clicks, proposals to regions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from backend.errors import InvalidPayload
from backend.labelstudio import image_choices, outlines, rle, shapes
from backend.labelstudio.config import Control, LabelConfig
from backend.records import ProposedRegion
from models.base import Mask

Kind = Literal["brush", "polygon", "rectangle"]
Origin = Literal["manual", "prediction", "prediction-changed"]
Item = Mapping[str, Any]

MAX_PIXELS = 1 << 28  # a declared size beyond it is an error or an attack
MAX_CROSSINGS = 1 << 24  # polygon edges times rows

_KINDS: Mapping[str, Kind] = {
    "brushlabels": "brush",
    "polygonlabels": "polygon",
    "rectanglelabels": "rectangle",
}
_ORIGINS: Mapping[Any, Origin] = {
    "manual": "manual",
    "prediction": "prediction",
    "prediction-changed": "prediction-changed",
}


@dataclass(frozen=True)
class Region:
    """One area of one class that an annotation holds; regions keep a proposal's id.

    origin: None when the API wrote it without; score: the proposal's, None for drawn ones.
    value: as Label Studio wrote it; `mask` is decoded when it is first asked for.
    """

    id: str
    class_name: str
    kind: Kind
    origin: Origin | None
    height_px: int
    width_px: int
    score: float | None
    value: Item

    @cached_property
    def mask(self) -> Mask:
        """The (H, W) mask at natural size; raises InvalidPayload naming the region."""
        try:
            return _mask(self.kind, self.value, self.height_px, self.width_px)
        except InvalidPayload as error:
            raise InvalidPayload(f"region {self.id!r} ({self.kind}): {error}") from error


@dataclass(frozen=True)
class Click:
    """A weak click, in pixels of the upright image; class None: it denies all classes."""

    class_name: str | None
    x_px: float
    y_px: float
    positive: bool


def regions(
    result: Sequence[Item],
    config: LabelConfig,
    *,
    height_px: int | None = None,
    width_px: int | None = None,
) -> list[Region]:
    """Return the regions of an annotation's result, in its order; one per label of a region.

    Left out: other controls, per-region values, labels that the config does not have (any more),
    rectangles that prompted an interactive tool. `height_px` and `width_px`, the image's natural
    size, win over the size that the result declares. Raises InvalidPayload for a malformed one.
    """
    found: list[Region] = []
    for place, item in enumerate(result):
        control = _control(item, place, config)
        if control is None or control.type not in _KINDS or _is_prompt(item, control, config):
            continue
        found += _regions(item, place, control, _size(item, place, height_px, width_px))
    return found


def class_masks(
    result: Sequence[Item],
    config: LabelConfig,
    *,
    height_px: int | None = None,
    width_px: int | None = None,
) -> dict[str, Mask]:
    """Return the union of the regions of each class that has any; raises as `regions`."""
    masks: dict[str, Mask] = {}
    for region in regions(result, config, height_px=height_px, width_px=width_px):
        before = masks.get(region.class_name)
        if before is not None and before.shape != region.mask.shape:
            raise InvalidPayload(
                f"region {region.id!r} is of size {region.mask.shape[::-1]}, others of the same "
                f"class are {before.shape[::-1]}; all must have the image's natural size"
            )
        masks[region.class_name] = region.mask if before is None else before | region.mask
    return masks


def clicks(result: Sequence[Item], config: LabelConfig) -> list[Click]:
    """Return the weak clicks of an annotation, in its order.

    Prompts of interactive tools (they carry `is_positive`) are no clicks, and labels without a
    class mean nothing. Raises InvalidPayload for a malformed click.
    """
    meanings = {c.control.name: c for c in config.clicks}
    found: list[Click] = []
    for place, item in enumerate(result):
        control = _control(item, place, config)
        if control is None or control.name not in meanings or "is_positive" in item:
            continue
        meaning = meanings[control.name]
        x_px, y_px = _point(item, place)
        for label in _labels(item, control):
            if label in meaning.negative:
                found.append(Click(None, x_px, y_px, positive=False))
            elif label in meaning.positive:
                found.append(Click(meaning.positive[label], x_px, y_px, positive=True))
    return found


def prediction_result(
    proposed: Sequence[ProposedRegion],
    config: LabelConfig,
    *,
    size: tuple[int, int] | None = None,
) -> list[dict[str, Any]]:
    """Return the `result` of a prediction: one region per proposal, ids as given, natural size.

    Classes that the config no longer has, and empty outlines, are left out. A polygon shows holes
    and parts (see `outlines`), a rectangle the bounding box. Raises InvalidPayload instead of
    giving out what would break Label Studio's editor (see `validate`).
    """
    shown = [p for p in proposed if p.class_name in config.classes]
    items = [item for p in shown if (item := _proposal(p, config)) is not None]
    validate(items, config, size=size)
    return items


def validate(result: Any, config: LabelConfig, *, size: tuple[int, int] | None = None) -> None:
    """Raise InvalidPayload when a prediction's result would not be shown right.

    Label Studio stores anything: a broken RLE makes Submit impossible, equal ids corrupt data.
    size: (height, width) in px of the upright image, where it is known.
    """
    if not isinstance(result, list):
        raise InvalidPayload(f"result is {type(result).__name__}; expected a list of regions")
    seen: set[Any] = set()
    for place, item in enumerate(result):
        control = _control(item, place, config)
        region_id = item.get("id")
        if not isinstance(region_id, str) or not region_id or region_id in seen:
            raise InvalidPayload(f"result[{place}].id is {region_id!r}; expected a unique text")
        seen.add(region_id)
        if control is not None and control.tag == "Choices":
            image_choices.validate(item, place, control)
        else:
            _validate_one(item, place, control, config, size)


def _validate_one(
    item: Item,
    place: int,
    control: Control | None,
    config: LabelConfig,
    size: tuple[int, int] | None,
) -> None:
    if control is None or control.type not in _KINDS or item.get("to_name") != config.image_name:
        known = [(c.name, c.type) for c in config.controls if c.type in _KINDS]
        raise InvalidPayload(
            f"result[{place}] has from_name {item.get('from_name')!r}, type {item.get('type')!r} "
            f"and to_name {item.get('to_name')!r}; expected one of {known} on {config.image_name!r}"
        )
    declared = _size(item, place, None, None)
    if size is not None and declared != size:
        raise InvalidPayload(
            f"result[{place}] is {declared[1]} x {declared[0]} px, the upright image is "
            f"{size[1]} x {size[0]} px: Label Studio would draw stripes"
        )
    score = item.get("score")
    if score is not None and not (shapes.number(score) and 0 <= score <= 1):
        raise InvalidPayload(f"result[{place}].score is {score!r}; expected a number from 0 to 1")
    found = _regions(item, place, control, declared)
    if len(found) != 1:
        raise InvalidPayload(
            f"result[{place}].value.{control.type} is {item['value'].get(control.type)!r}; "
            f"expected one of {[label.value for label in control.labels]}"
        )
    _validate_value(found[0], place)


def _validate_value(region: Region, place: int) -> None:
    if region.kind == "brush" and region.value.get("format") != "rle":
        raise InvalidPayload(f"result[{place}].value.format is not 'rle'")
    _ = region.mask
    if region.kind != "brush" and not shapes.is_inside(region.value):
        raise InvalidPayload(
            f"result[{place}].value reaches out of the image; expected percents from 0 to 100, and "
            "a width and height above 0"
        )


def _regions(item: Item, place: int, control: Control, size: tuple[int, int]) -> list[Region]:
    region_id, score = item.get("id"), item.get("score")
    if not isinstance(region_id, str) or not region_id:
        raise InvalidPayload(f"result[{place}].id is {region_id!r}; expected a text")
    _refuse_rotation(item, place)
    return [
        Region(
            id=region_id,
            class_name=label,
            kind=_KINDS[control.type],
            origin=_ORIGINS.get(item.get("origin")),
            height_px=size[0],
            width_px=size[1],
            score=float(score) if shapes.number(score) else None,
            value=item["value"],
        )
        for label in _labels(item, control)
    ]


def _control(item: Item, place: int, config: LabelConfig) -> Control | None:
    """Return the control that wrote the item; None when it is not ours or only a region's value."""
    if not isinstance(item, Mapping) or not isinstance(item.get("value", {}), Mapping):
        raise InvalidPayload(f"result[{place}] is no region: an object with an object `value`")
    control = config.control(str(item.get("from_name")))
    return control if control is not None and control.type == item.get("type") else None


def _labels(item: Item, control: Control) -> list[str]:
    """Return the labels that the config knows; a region may have none yet."""
    labels = item.get("value", {}).get(control.type)
    known = labels if isinstance(labels, list) else []
    return [label for label in known if isinstance(label, str) and control.label(label)]


def _is_prompt(item: Item, control: Control, config: LabelConfig) -> bool:
    """Whether a rectangle was drawn for an interactive tool: saved when nobody accepted an answer.

    Where a class can be painted, a smart rectangle control serves prompts.
    """
    if control.tag != "RectangleLabels" or not control.smart:
        return False
    drawn = item.get("origin") == "manual" and item.get("score") is None
    labels = _labels(item, control)
    return drawn and any(config.brush(name) or config.polygon(name) for name in labels)


def _size(item: Item, place: int, height_px: int | None, width_px: int | None) -> tuple[int, int]:
    height = _extent(height_px or item.get("original_height"), f"result[{place}].original_height")
    width = _extent(width_px or item.get("original_width"), f"result[{place}].original_width")
    if height * width > MAX_PIXELS:
        raise InvalidPayload(
            f"result[{place}] declares {width} x {height} px; at most {MAX_PIXELS} px are decoded"
        )
    return height, width


def _extent(value: Any, path: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidPayload(f"{path} is {value!r}; expected pixels")
    return value


def _refuse_rotation(item: Item, place: int) -> None:
    """Coordinates of a turned image are relative to the turned one; we know only the upright."""
    if item.get("image_rotation", 0) not in (0, None, 360):
        raise InvalidPayload(
            f"result[{place}].image_rotation is {item['image_rotation']!r}; only upright images "
            "are learned from: turn the image back in Label Studio and submit again"
        )


def _point(item: Item, place: int) -> tuple[float, float]:
    """Return x, y in pixels, inside the image."""
    _refuse_rotation(item, place)
    value = item.get("value", {})
    x, y = value.get("x"), value.get("y")
    if not (shapes.number(x) and shapes.number(y)):
        raise InvalidPayload(f"result[{place}].value has x={x!r}, y={y!r}; expected percents")
    height_px, width_px = _size(item, place, None, None)
    return _inside(x / 100 * width_px, width_px), _inside(y / 100 * height_px, height_px)


def _inside(position_px: float, extent_px: int) -> float:
    return float(min(max(position_px, 0.0), np.nextafter(extent_px, 0)))


def _mask(kind: Kind, value: Item, height_px: int, width_px: int) -> Mask:
    if kind == "brush":
        if "rle" not in value:
            raise InvalidPayload("it has no `rle`")
        return rle.decode_mask(value["rle"], height_px, width_px)
    if kind == "polygon":
        points = shapes.points(value.get("points"))
        if points is None or len(points) * height_px > MAX_CROSSINGS:
            raise InvalidPayload("its `points` are not at least three (and not too many) [x, y]")
        return shapes.from_polygon(points, height_px, width_px)
    _require_numbers(value, ("x", "y", "width", "height"))
    return shapes.from_rectangle(value, height_px, width_px)


def _require_numbers(value: Item, names: Iterable[str]) -> None:
    wrong = {name: value.get(name) for name in names if not shapes.number(value.get(name))}
    if not shapes.number(value.get("rotation", 0)):
        wrong["rotation"] = value["rotation"]
    if wrong:
        raise InvalidPayload(f"it has {wrong}; expected numbers")


def _proposal(proposed: ProposedRegion, config: LabelConfig) -> dict[str, Any] | None:
    control = config.output(proposed.class_name)
    value = _value(proposed, control, config.settings[proposed.class_name].tolerance_px)
    if value is None:
        return None
    return {
        "id": proposed.region_id,
        "type": control.type,
        "from_name": control.name,
        "to_name": control.to_name,
        "original_width": proposed.width_px,
        "original_height": proposed.height_px,
        "image_rotation": 0,
        "value": {**value, control.type: [proposed.class_name]},
        "score": proposed.score,
    }


def _value(
    proposed: ProposedRegion, control: Control, tolerance_px: float | None
) -> dict[str, Any] | None:
    if control.tag == "BrushLabels":
        return {"format": "rle", "rle": rle.from_bytes(proposed.rle)}
    mask = rle.decode_mask(proposed.rle, proposed.height_px, proposed.width_px)
    if control.tag == "RectangleLabels":
        return dict(shapes.to_rectangle(mask)) if mask.any() else None
    outline = outlines.to_polygon(mask, tolerance_px=tolerance_px)
    return {"points": outline, "closed": True} if outline else None
