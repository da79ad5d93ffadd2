"""The `model_*` attributes of labels and controls: what they may say, and what is misspelt."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree.ElementTree import Element

import models.base
from backend.errors import LabelConfigError
from models.base import ClassSpec
from models.masks.grouping import MOST_AT_ALL

Output = Literal["brush", "polygon", "rectangle"]

OF_CLASSES = (
    "model_closing_px",
    "model_iterations",
    "model_max_regions",
    "model_min_area_px",
    "model_output",
    "model_pipeline",
    "model_refine",
    "model_score_threshold",
    "model_threshold",
    "model_tolerance_px",
)
KNOWN = (*OF_CLASSES, "model_class", "model_negative")
_BEARERS = ("Label", "Choice", "Choices", "Number")


@dataclass(frozen=True)
class ClassSettings:
    """What the config's attributes say of a class; None = not said.

    score_threshold: proposals below it are not to be shown; in [0, 1].
    output: which control shows proposals.
    max_regions: how many regions of the class an image shows at most.
    tolerance_px: how far a polygon may leave the mask's outline.
    """

    spec: ClassSpec
    score_threshold: float | None = None
    output: Output | None = None
    max_regions: int | None = None
    tolerance_px: float | None = None


def settings(
    class_name: str, sources: Sequence[Mapping[str, str]], outputs: Sequence[Output]
) -> ClassSettings:
    """Read the settings of a class; the first of `sources` that has an attribute decides it.

    outputs: what `model_output` may be. Raises LabelConfigError with class, value and range.
    """

    def read(attribute: str, convert: Callable[[str], Any], allowed: object) -> Any:
        texts = (source[attribute] for source in sources if attribute in source)
        text = next(texts, None)
        return None if text is None else _convert(class_name, attribute, text, convert, allowed)

    spec = ClassSpec(
        class_name,
        refine=_choice(read, "model_refine", _refinements),
        iterations=read("model_iterations", _integer(1, 100), "a whole number from 1 to 100"),
        threshold=read("model_threshold", _number(0, 1), "a number from 0 to 1"),
        min_area_px=read("model_min_area_px", _integer(0, 10**9), "a whole number from 0"),
        closing_px=read("model_closing_px", _integer(0, 1000), "a whole number from 0 to 1000"),
        pipeline=_choice(read, "model_pipeline", models.base.names),
    )
    return ClassSettings(
        spec,
        score_threshold=read("model_score_threshold", _number(0, 1), "a number from 0 to 1"),
        output=_choice(read, "model_output", lambda: outputs),
        max_regions=read(
            "model_max_regions",
            _integer(1, MOST_AT_ALL),
            f"a whole number from 1 to {MOST_AT_ALL}",
        ),
        tolerance_px=read("model_tolerance_px", _number(0, 1000), "a number from 0 to 1000"),
    )


def warnings(root: Element) -> Iterator[str]:
    """Say which `model_*` attributes of a config nobody reads, with the nearest that somebody does.

    They are not refused: another version or another backend may know them.
    """
    for element in root.iter():
        for name in element.attrib:
            if not name.casefold().startswith(("model_", "model-")):
                continue
            where = f"<{element.tag}> has {name}"
            if name not in KNOWN:
                near = difflib.get_close_matches(name.casefold(), KNOWN, n=1)
                meant = f"; was {near[0]} meant?" if near else f"; known are {', '.join(KNOWN)}"
                yield f"{where}, which is not known and has no effect{meant}"
            elif element.tag not in _BEARERS and not element.tag.endswith("Labels"):
                yield f"{where}, which has no effect there; write it on a label or its control"


def _convert(
    class_name: str, attribute: str, text: str, convert: Callable[[str], Any], allowed: object
) -> Any:
    try:
        return convert(text)
    except ValueError as error:
        raise LabelConfigError(
            f'class {class_name!r} has {attribute}="{text[:80]}"; expected {allowed}'
        ) from error


def _number(least: float, most: float) -> Callable[[str], float]:
    def convert(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and least <= value <= most):
            raise ValueError("out of range")
        return value

    return convert


def _integer(least: int, most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError("out of range")
        return value

    return convert


def _choice(read: Callable[..., Any], attribute: str, names: Callable[[], Iterable[str]]) -> Any:
    def convert(text: str) -> str:
        if text not in names():
            raise ValueError("unknown name")
        return text

    return read(attribute, convert, _OneOf(names))


class _OneOf:
    """The allowed names, looked up only when a message needs them."""

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        self.names = names

    def __format__(self, _: str) -> str:
        return "one of " + ", ".join(self.names())


def _refinements() -> tuple[str, ...]:
    from models import refine

    return tuple(refine.names())
