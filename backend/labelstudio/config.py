"""Label configs: which image, which controls, which classes, and their settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree  # type: ignore[import-untyped]

import models.base
from backend.errors import LabelConfigError
from models.base import ClassSpec

Tag = Literal["BrushLabels", "PolygonLabels", "RectangleLabels", "KeyPointLabels", "Choices"]
Output = Literal["brush", "polygon", "rectangle"]

MAX_CHARACTERS = 1_000_000
EXAMPLE = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="brush" toName="image">
    <Label value="crack"/>
  </BrushLabels>
  <KeyPointLabels name="click" toName="image">
    <Label value="crack"/>
    <Label value="nothing here" model_negative="true"/>
  </KeyPointLabels>
</View>"""

_TAGS: tuple[Tag, ...] = get_args(Tag)
_OUTPUTS: Mapping[Output, Tag] = {
    "brush": "BrushLabels",
    "polygon": "PolygonLabels",
    "rectangle": "RectangleLabels",
}


@dataclass(frozen=True)
class Label:
    """A label or choice; `value` is what annotations hold (the alias, where there is one)."""

    value: str
    predicted_values: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def negative(self) -> bool:
        """Whether a click with it says "nothing here", of all classes."""
        return self.attributes.get("model_negative", "").casefold() == "true"


@dataclass(frozen=True)
class Control:
    """A control tag on the image; `smart` ones also serve prompts of interactive tools."""

    tag: Tag
    name: str
    to_name: str
    labels: tuple[Label, ...]
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """Return the `type` of its regions and the key of their labels, as "brushlabels"."""
        return self.tag.lower()

    @property
    def smart(self) -> bool:
        """Whether interactive tools may use it."""
        return self.attributes.get("smart", "").casefold() == "true"

    def label(self, value: str) -> Label | None:
        """Return its label of this value."""
        return next((label for label in self.labels if label.value == value), None)


@dataclass(frozen=True)
class Clicks:
    """What clicks with a KeyPointLabels control mean.

    positive: label -> class; negative: labels that deny all classes.
    """

    control: Control
    positive: Mapping[str, str]
    negative: frozenset[str]


@dataclass(frozen=True)
class ClassSettings:
    """What the config's attributes say of a class; None = not said.

    score_threshold: proposals below it are not to be shown; in [0, 1].
    output: which control shows proposals.
    """

    spec: ClassSpec
    score_threshold: float | None = None
    output: Output | None = None


@dataclass(frozen=True)
class LabelConfig:
    """A label config that can be served; `data_key` is the key of the image in a task's data."""

    image_name: str
    data_key: str
    controls: tuple[Control, ...]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The classes to propose: labels of brush, polygon and rectangle controls, in order."""
        return tuple(
            dict.fromkeys(label.value for c in self._region_controls for label in c.labels)
        )

    @cached_property
    def settings(self) -> Mapping[str, ClassSettings]:
        """The settings of each class, from attributes of its labels and controls."""
        return {name: _settings(name, tuple(self._having(name))) for name in self.classes}

    @property
    def specs(self) -> tuple[ClassSpec, ...]:
        """The classes as pipelines want them."""
        return tuple(self.settings[name].spec for name in self.classes)

    @cached_property
    def clicks(self) -> tuple[Clicks, ...]:
        """The meaning of each KeyPointLabels control; labels that fit no class are left out."""
        return tuple(_clicks(c, self.classes) for c in self.controls if c.tag == "KeyPointLabels")

    def control(self, name: str) -> Control | None:
        """Return the control of this name."""
        return next((c for c in self.controls if c.name == name), None)

    def brush(self, class_name: str) -> Control | None:
        """Return the BrushLabels control that has the class."""
        return self._first("BrushLabels", class_name)

    def polygon(self, class_name: str) -> Control | None:
        """Return the PolygonLabels control that has the class."""
        return self._first("PolygonLabels", class_name)

    def output(self, class_name: str) -> Control:
        """Return the control that shows proposals: `model_output`, else brush, polygon, rectangle.

        Raises LabelConfigError for an unknown class.
        """
        wanted = self.settings[class_name].output if class_name in self.settings else None
        order = [_OUTPUTS[wanted]] if wanted else list(_OUTPUTS.values())
        for tag in order:
            if control := self._first(tag, class_name):
                return control
        known = ", ".join(self.classes)
        raise LabelConfigError(f"the label config has no class {class_name!r}; it has {known}")

    @property
    def _region_controls(self) -> Iterator[Control]:
        return (c for tag in _OUTPUTS.values() for c in self.controls if c.tag == tag)

    def _having(self, class_name: str) -> Iterator[Control]:
        return (c for c in self._region_controls if c.label(class_name))

    def _first(self, tag: Tag, class_name: str) -> Control | None:
        return next((c for c in self._having(class_name) if c.tag == tag), None)


def parse(label_config_xml: str) -> LabelConfig:
    """Parse a label config; raises LabelConfigError that says what is missing or unusable."""
    root = _root(label_config_xml)
    images = [tag for tag in root.iter("Image") if tag.get("name")]
    if not images:
        raise _unusable("it has no <Image> with a name")
    controls = tuple(_controls(root))
    for image in images:
        own = tuple(c for c in controls if c.to_name == image.get("name"))
        if any(c.tag in _OUTPUTS.values() and c.labels for c in own):
            return _checked(LabelConfig(str(image.get("name")), _data_key(image), own))
    names = ", ".join(str(image.get("name")) for image in images)
    raise _unusable(
        "it has no <BrushLabels>, <PolygonLabels> or <RectangleLabels> with labels and with "
        f"toName of an image ({names}), so there is nothing to propose"
    )


def specs(config: LabelConfig) -> tuple[ClassSpec, ...]:
    """Return the classes of a config as pipelines want them."""
    return config.specs


def _unusable(what: str) -> LabelConfigError:
    return LabelConfigError(f"this label config cannot be served: {what}. One that can:\n{EXAMPLE}")


def _root(xml: str) -> Element:
    if len(xml) > MAX_CHARACTERS:
        raise _unusable(f"it has {len(xml)} characters; at most {MAX_CHARACTERS} are read")
    try:
        root: Element = ElementTree.fromstring(xml, forbid_dtd=True)
    except DefusedXmlException as error:
        raise _unusable("it declares a document type or entities, which are refused") from error
    except (ParseError, ValueError) as error:
        raise _unusable(f"it is not XML ({error})") from error
    if root.tag != "View":
        raise _unusable(f"its outermost tag is <{root.tag[:40]}>, not <View>")
    return root


def _data_key(image: Element) -> str:
    value = image.get("value", "")
    if not value.startswith("$") or len(value) == 1:
        raise _unusable(f'<Image> has value={value!r}; expected a key of the data, as "$image"')
    return value[1:]


def _controls(root: Element) -> Iterator[Control]:
    for element in root.iter():
        tag = next((tag for tag in _TAGS if tag == element.tag), None)
        if tag is not None and element.get("name") and element.get("toName"):
            labels = tuple(_label(e) for e in element.iter() if e.tag in ("Label", "Choice"))
            attributes = dict(element.attrib)
            yield Control(tag, attributes["name"], attributes["toName"], labels, attributes)


def _label(element: Element) -> Label:
    value = element.get("alias") or element.get("value")
    if not value:
        raise _unusable(f"a <{element.tag}> has no value")
    predicted = (name.strip() for name in element.get("predicted_values", "").split(","))
    return Label(value, tuple(name for name in predicted if name), dict(element.attrib))


def _checked(config: LabelConfig) -> LabelConfig:
    for class_name in config.settings:
        config.output(class_name)
    return config


def _clicks(control: Control, classes: Iterable[str]) -> Clicks:
    found = {label.value: _class_of(label, classes) for label in control.labels}
    negative = frozenset(label.value for label in control.labels if label.negative)
    positive = {label: name for label, name in found.items() if name and label not in negative}
    return Clicks(control, positive, negative)


def _class_of(label: Label, classes: Iterable[str]) -> str | None:
    """Match by predicted values, then by equality, then without regard to case."""
    for wanted in (*label.predicted_values, label.value):
        if wanted in classes:
            return wanted
    same = (name for name in classes if name.casefold() == label.value.casefold())
    return next(same, None)


def _settings(class_name: str, controls: tuple[Control, ...]) -> ClassSettings:
    labels = [label.attributes for c in controls if (label := c.label(class_name))]
    sources = [*labels, *(control.attributes for control in controls)]

    def read(attribute: str, convert: Callable[[str], Any], allowed: str) -> Any:
        texts = (source[attribute] for source in sources if attribute in source)
        text = next(texts, None)
        return None if text is None else _convert(class_name, attribute, text, convert, allowed)

    spec = ClassSpec(
        class_name,
        refine=_choice(read, "model_refine", _refinements),
        iterations=read("model_iterations", _integer(1, 100), "a whole number from 1 to 100"),
        threshold=read("model_threshold", _fraction, "a number from 0 to 1"),
        min_area_px=read("model_min_area_px", _integer(0, 10**9), "a whole number from 0"),
        closing_px=read("model_closing_px", _integer(0, 1000), "a whole number from 0 to 1000"),
        pipeline=_choice(read, "model_pipeline", models.base.names),
    )
    tags = {c.tag for c in controls}
    return ClassSettings(
        spec,
        score_threshold=read("model_score_threshold", _fraction, "a number from 0 to 1"),
        output=_choice(read, "model_output", lambda: [o for o, t in _OUTPUTS.items() if t in tags]),
    )


def _convert(
    class_name: str, attribute: str, text: str, convert: Callable[[str], Any], allowed: str
) -> Any:
    try:
        return convert(text)
    except ValueError as error:
        raise LabelConfigError(
            f'class {class_name!r} has {attribute}="{text[:80]}"; expected {allowed}'
        ) from error


def _fraction(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise ValueError("out of range")
    return value


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
