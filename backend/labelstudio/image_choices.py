"""Choices of a whole image: what the regions of a proposal say, and what people chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.errors import InvalidPayload
from backend.labelstudio.config import Control, ImageChoices, LabelConfig
from backend.records import ProposedRegion


@dataclass(frozen=True)
class Said:
    """What a person said of the whole image: classes that are there; whether there is none."""

    present: frozenset[str] = frozenset()
    nothing: bool = False


def predicted(
    proposed: Sequence[ProposedRegion], config: LabelConfig, id_prefix: str
) -> list[dict[str, Any]]:
    """Return one item per Choices control that speaks of classes.

    A class is as sure as the surest of its regions. One choice: that of the surest class; several:
    those of all classes with a region. Without any region, the choice that denies all classes;
    controls that have none stay empty. Ids are the prefix and the control's name.
    """
    sure: dict[str, float] = {}
    for region in proposed:
        sure[region.class_name] = max(region.score, sure.get(region.class_name, 0.0))
    return [item for one in config.choices if (item := _item(one, sure, id_prefix)) is not None]


def _item(
    choices: ImageChoices, sure: Mapping[str, float], id_prefix: str
) -> dict[str, Any] | None:
    found = [choice for choice, name in choices.positive.items() if name in sure]
    found.sort(key=lambda choice: -sure[choices.positive[choice]])
    chosen = found if choices.several else found[:1]
    if not sure:
        chosen = sorted(choices.negative)[:1]
    if not chosen:
        return None
    control = choices.control
    item: dict[str, Any] = {
        "id": f"{id_prefix}-{control.name}",
        "type": control.type,
        "from_name": control.name,
        "to_name": control.to_name,
        "value": {control.type: chosen},
    }
    return {**item, "score": sure[choices.positive[chosen[0]]]} if found else item


def said(result: Sequence[Mapping[str, Any]], config: LabelConfig) -> Said:
    """Return what an annotation's choices say of the image; contradictions deny nothing."""
    present: set[str] = set()
    nothing = False
    by_name = {choices.control.name: choices for choices in config.choices}
    for item in result:
        choices = by_name.get(str(item.get("from_name")))
        if choices is None or item.get("type") != choices.control.type:
            continue
        value = item.get("value")
        chosen = value.get("choices") if isinstance(value, Mapping) else None
        for choice in chosen if isinstance(chosen, list) else []:
            nothing = nothing or choice in choices.negative
            if choice in choices.positive:
                present.add(choices.positive[choice])
    return Said(frozenset(present), nothing and not present)


def validate(item: Mapping[str, Any], place: int, control: Control) -> None:
    """Raise InvalidPayload for choices that the config does not have."""
    chosen = item.get("value", {}).get(control.type)
    known = [label.value for label in control.labels]
    usable = isinstance(chosen, list) and chosen and all(choice in known for choice in chosen)
    if not usable or item.get("to_name") != control.to_name:
        raise InvalidPayload(
            f"result[{place}] chooses {chosen!r} for {item.get('to_name')!r}; expected some of "
            f"{known} for {control.to_name!r}"
        )
