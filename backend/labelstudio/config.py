"""Label configs: which image, which controls, which classes, and their settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree  # type: ignore[import-untyped]

from backend.errors import LabelConfigError
from backend.labelstudio import advice, attributes
from backend.labelstudio.attributes import ClassSettings, Output
from models.base import ClassSpec
from models.masks.settings import is_thin

Tag = Literal["BrushLabels", "PolygonLabels", "RectangleLabels", "KeyPointLabels", "Choices"]

EXAMPLE = advice.EXAMPLE
MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 100  # tags within tags

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

    @property
    def other_names(self) -> tuple[str, ...]:
        """Names of the class that it means, beside its value: `model_class`, `predicted_values`."""
        said = self.attributes.get("model_class")
        return (said, *self.predicted_values) if said else self.predicted_values


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
class ImageChoices:
    """What the choices of a Choices control say of a whole image.

    positive: choice -> class that is there; negative: choices that deny all classes;
    several: whether more than one may be chosen.
    """

    control: Control
    positive: Mapping[str, str]
    negative: frozenset[str]
    several: bool


@dataclass(frozen=True)
class Explanation:
    """What there is to say of a label config.

    problem: why it cannot be served, with the fix; None when it can be. working: a config made of
    it that can, where that is the fix. warnings: what is served otherwise than it looks.
    """

    problem: str | None = None
    working: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelConfig:
    """A label config that can be served; `data_key` is the key of the image in a task's data.

    iterations_control: name of the <Number> by which people say how often heat is climbed.
    """

    image_name: str
    data_key: str
    controls: tuple[Control, ...]
    iterations_control: str | None = None

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The classes to propose: labels of brush, polygon and rectangle controls, in order."""
        return tuple(
            dict.fromkeys(label.value for c in self._region_controls for label in c.labels)
        )

    @cached_property
    def settings(self) -> Mapping[str, ClassSettings]:
        """The settings of each class, from attributes of its labels and controls."""
        return {name: self._settings(name) for name in self.classes}

    @property
    def specs(self) -> tuple[ClassSpec, ...]:
        """The classes as pipelines want them."""
        return tuple(self.settings[name].spec for name in self.classes)

    @cached_property
    def clicks(self) -> tuple[Clicks, ...]:
        """The meaning of each KeyPointLabels control; labels that fit no class are left out."""
        return tuple(
            Clicks(c, *_meaning(c, self.classes))
            for c in self.controls
            if c.tag == "KeyPointLabels"
        )

    @cached_property
    def choices(self) -> tuple[ImageChoices, ...]:
        """The Choices controls that speak of classes; those of single regions do not."""
        own = [c for c in self.controls if c.tag == "Choices" and not _is_partial(c)]
        found = [ImageChoices(c, *_meaning(c, self.classes), _is_multiple(c)) for c in own]
        return tuple(one for one in found if one.positive)

    def trained_names(self, trained: Iterable[str]) -> dict[str, str]:
        """Return {class: the name under which a version knows it} of the classes that it knows.

        That is the class itself, else the first of its labels' predicted values that no other
        class has.
        """
        free = set(trained)
        found = {name: name for name in self.classes if name in free}
        free -= found.keys()
        for name in self.classes:
            labels = [label for c in self._having(name) if (label := c.label(name))]
            asked = [other for label in labels for other in label.other_names if other in free]
            if name not in found and asked:
                found[name] = asked[0]
                free.remove(asked[0])
        return found

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

    def _settings(self, class_name: str) -> ClassSettings:
        controls = tuple(self._having(class_name))
        labels = [label.attributes for c in controls if (label := c.label(class_name))]
        tags = {control.tag for control in controls}
        return attributes.settings(
            class_name,
            [*labels, *(control.attributes for control in controls)],
            [output for output, tag in _OUTPUTS.items() if tag in tags],
        )

    def _having(self, class_name: str) -> Iterator[Control]:
        return (c for c in self._region_controls if c.label(class_name))

    def _first(self, tag: Tag, class_name: str) -> Control | None:
        return next((c for c in self._having(class_name) if c.tag == tag), None)


class _NotServable(Exception):
    """What a config lacks, in words that follow "it cannot be served:"."""


def parse(label_config_xml: str) -> LabelConfig:
    """Parse a label config; raises LabelConfigError that says what is missing, with a cure."""
    explanation, config = _examined(label_config_xml)
    if config is None:
        shown = f". One that can:\n{explanation.working}" if explanation.working else ""
        raise LabelConfigError(f"{explanation.problem}{shown}")
    return config


def explain(label_config_xml: str) -> Explanation:
    """Say whether a config can be served, what would mend it, and what may surprise."""
    explanation, config = _examined(label_config_xml)
    if config is None:
        return explanation
    return Explanation(warnings=tuple(_warnings(_root(label_config_xml), config)))


def specs(config: LabelConfig) -> tuple[ClassSpec, ...]:
    """Return the classes of a config as pipelines want them."""
    return config.specs


def _examined(xml: str) -> tuple[Explanation, LabelConfig | None]:
    root = None
    try:
        root = _root(xml)
        return Explanation(), _checked(_config(root))
    except _NotServable as error:
        problem = f"this label config cannot be served: {error}"
        return Explanation(problem, advice.working(root)), None
    except LabelConfigError as error:
        return Explanation(str(error)), None


def _config(root: Element) -> LabelConfig:
    images = [tag for tag in root.iter("Image") if tag.get("name")]
    if not images:
        raise _NotServable("it has no <Image> with a name")
    controls = tuple(_controls(root))
    for image in images:
        own = tuple(c for c in controls if c.to_name == image.get("name"))
        if any(c.tag in _OUTPUTS.values() and c.labels for c in own):
            name = str(image.get("name"))
            return LabelConfig(name, _data_key(image), own, _iterations_control(root, name))
    raise _NotServable(advice.why_nothing(root))


def _iterations_control(root: Element, image: str) -> str | None:
    """Return the name of a <Number> on the image that is called so or has the attribute."""
    numbers = (e for e in root.iter("Number") if e.get("toName") == image and e.get("name"))
    asked = (e for e in numbers if "model_iterations" in (e.get("name"), *e.attrib))
    return next((str(element.get("name")) for element in asked), None)


def _warnings(root: Element, config: LabelConfig) -> Iterator[str]:
    yield from attributes.warnings(root)
    images = [str(image.get("name")) for image in root.iter("Image") if image.get("name")]
    if len(images) > 1:
        yield (
            f"it has {len(images)} images ({', '.join(images)}); only {config.image_name!r} is "
            "served, the first with labels to draw"
        )
    for clicks in config.clicks:
        for label in clicks.control.labels:
            if label.value not in clicks.positive and label.value not in clicks.negative:
                yield (
                    f"clicks with {label.value!r} teach nothing: no class has that name; write "
                    'predicted_values="CLASS", or model_negative="true" for "nothing here"'
                )
    for name in config.classes:
        shown = config.output(name).tag
        if shown == "PolygonLabels" and is_thin(name):
            yield (
                f"{name!r} is shown as polygons, which follow thin and branching defects badly; "
                "give it a <BrushLabels>"
            )
        if shown == "RectangleLabels":
            yield (
                f"{name!r} is shown as boxes, and boxes teach little of what is inside; "
                "give it a <BrushLabels>"
            )


def _root(xml: str) -> Element:
    if len(xml) > MAX_CHARACTERS:
        raise _NotServable(f"it has {len(xml)} characters; at most {MAX_CHARACTERS} are read")
    try:
        root: Element = ElementTree.fromstring(xml, forbid_dtd=True)
    except DefusedXmlException as error:
        raise _NotServable("it declares a document type or entities, which are refused") from error
    except (ParseError, ValueError) as error:
        raise _NotServable(f"it is not XML ({error})") from error
    if root.tag != "View":
        raise _NotServable(f"its outermost tag is <{root.tag[:40]}>, not <View>")
    level, depth = [root], 0
    while level:
        level, depth = [child for element in level for child in element], depth + 1
    if depth > MAX_DEPTH:
        raise _NotServable(f"its tags are nested {depth} deep; at most {MAX_DEPTH} are read")
    return root


def _data_key(image: Element) -> str:
    value = image.get("value", "")
    if image.get("valueList") and not value:
        raise _NotServable(
            f'<Image name="{image.get("name")}"> has a valueList: tasks of several pages are not '
            "served; give each page a task of its own"
        )
    if not value.startswith("$") or len(value) == 1:
        raise _NotServable(f'<Image> has value={value!r}; expected a key of the data, as "$image"')
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
        raise _NotServable(f"a <{element.tag}> has no value")
    predicted = (name.strip() for name in element.get("predicted_values", "").split(","))
    return Label(value, tuple(name for name in predicted if name), dict(element.attrib))


def _checked(config: LabelConfig) -> LabelConfig:
    for class_name in config.settings:
        config.output(class_name)
    return config


def _meaning(control: Control, classes: Iterable[str]) -> tuple[dict[str, str], frozenset[str]]:
    """Return {label: class that it shows} and the labels that deny all classes."""
    found = {label.value: _class_of(label, classes) for label in control.labels}
    negative = frozenset(label.value for label in control.labels if label.negative)
    return {
        label: name for label, name in found.items() if name and label not in negative
    }, negative


def _class_of(label: Label, classes: Iterable[str]) -> str | None:
    """Match by what the label says it means, then by equality, then without regard to case."""
    for wanted in (*label.other_names, label.value):
        if wanted in classes:
            return wanted
    same = (name for name in classes if name.casefold() == label.value.casefold())
    return next(same, None)


def _is_partial(control: Control) -> bool:
    """Whether its choices speak of a region, or of a page, and not of the image."""
    said = (control.attributes.get(name, "") for name in ("perRegion", "perItem"))
    return any(text.casefold() == "true" for text in said)


def _is_multiple(control: Control) -> bool:
    return control.attributes.get("choice", "single") == "multiple"
