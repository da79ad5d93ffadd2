"""Why a label config cannot be served, and one made of it that can."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

REGION_TAGS = ("BrushLabels", "PolygonLabels", "RectangleLabels")
GENERIC_TOOLS = ("Brush", "Polygon", "Rectangle", "Ellipse", "KeyPoint")
LONGEST = 4000  # characters; a larger config is shown as its image and the missing control alone
MOST_LABELS = 20  # shown of a config that is too large
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

_KEPT = ("value", "alias", "background", "hotkey")  # of a label that moves to another control


def why_nothing(root: Element) -> str:
    """Say, of a config with images, why nothing can be proposed in any of them."""
    images = [str(image.get("name")) for image in root.iter("Image") if image.get("name")]
    reasons = [reason for tag in _region_tags(root) if (reason := _why_not(tag, images))]
    generic = sorted({e.tag for e in root.iter() if e.tag in GENERIC_TOOLS})
    if any(root.iter("Labels")) and generic:
        reasons.append(
            f"<Labels> beside <{generic[0]}> is not served; "
            "<BrushLabels> is both: a brush that holds the labels itself"
        )
    if not reasons:
        reasons.append(
            "it has no <BrushLabels>, <PolygonLabels> or <RectangleLabels> "
            f"with toName of an image ({', '.join(images)})"
        )
    return "; ".join(reasons) + ", so there is nothing to propose"


def working(root: Element | None) -> str:
    """Return a config that can be served, as near to the given one as can be.

    Its images, labels and other controls stay; a control for masks is added. None: EXAMPLE.
    """
    if root is None or root.tag != "View":
        return EXAMPLE
    root = copy.deepcopy(root)
    image = _mended_image(root)
    _remove(root, (e for e in root.iter() if e.tag in ("Label", "Choice") and not _value(e)))
    brush = None
    if all(_why_not(control, [str(image.get("name"))]) for control in _region_tags(root)):
        labels = _labels(root)
        useless = (*REGION_TAGS, "Labels", *GENERIC_TOOLS)
        _remove(root, (e for e in root.iter() if e.tag in useless))
        brush = _brush(root, str(image.get("name")), labels)
        root.append(brush)
    whole = _text(root)
    if len(whole) <= LONGEST:
        return whole
    return _text(_short(image, brush if brush is not None else next(_usable(root, image))))


def _why_not(control: Element, images: Sequence[str]) -> str | None:
    """Say why a control cannot show proposals in one of the images, None when it can."""
    here = f'<{control.tag} name="{control.get("name", "")}">'
    if not control.get("name"):
        return f"<{control.tag}> has no name"
    if control.get("toName") not in images:
        return (
            f'{here} has toName="{control.get("toName", "")}"; the image is {" or ".join(images)}'
        )
    if any(_value(label) for label in control.iter("Label")):
        return None
    if control.get("value", "").startswith("$"):
        return (
            f'{here} takes its labels from each task (value="{control.get("value")}"); classes '
            "have to be known before the tasks, so write them as <Label value=...>"
        )
    return f"{here} has no <Label>"


def _region_tags(root: Element) -> list[Element]:
    return [element for element in root.iter() if element.tag in REGION_TAGS]


def _usable(root: Element, image: Element) -> Iterator[Element]:
    name = str(image.get("name"))
    return (control for control in _region_tags(root) if not _why_not(control, [name]))


def _mended_image(root: Element) -> Element:
    """Return the image to be served, with a name and a key of the data."""
    images = list(root.iter("Image"))
    good = [i for i in images if i.get("name") and len(i.get("value", "")) > 1 and _is_key(i)]
    served = [i for i in good if next(_usable(root, i), None) is not None]
    found = next(iter([*served, *good, *images]), None)
    if found is None:
        found = Element("Image")
        root.insert(0, found)
    if not found.get("name"):
        found.set("name", "image")
    if not _is_key(found):
        found.set("value", "$image")
    return found


def _is_key(image: Element) -> bool:
    return image.get("value", "").startswith("$") and len(image.get("value", "")) > 1


def _labels(root: Element) -> list[Element]:
    """Return the labels that a new control should have: of those that draw, else of others."""
    drawing = [e for e in root.iter() if e.tag in (*REGION_TAGS, "Labels")]
    others = [e for e in root.iter() if e.tag.endswith("Labels")]
    for controls in (drawing, others, list(root.iter("Choices"))):
        found = {value: label for label in _positive(controls) if (value := _value(label))}
        if found:
            return [Element("Label", _attributes(label)) for label in found.values()]
    return [Element("Label", {"value": "defect"})]


def _positive(controls: Iterable[Element]) -> Iterator[Element]:
    for control in controls:
        for label in control.iter():
            negative = label.get("model_negative", "").casefold() == "true"
            if label.tag in ("Label", "Choice") and not negative:
                yield label


def _attributes(label: Element) -> dict[str, str]:
    return {name: text for name in _KEPT if (text := label.get(name))}


def _value(label: Element) -> str | None:
    return label.get("alias") or label.get("value") or None


def _remove(root: Element, elements: Iterable[Element]) -> None:
    gone = set(elements)
    for parent in list(root.iter()):
        parent[:] = [child for child in parent if child not in gone]


def _brush(root: Element, image: str, labels: Sequence[Element]) -> Element:
    taken = {element.get("name") for element in root.iter()}
    names = (f"brush{n}" if n > 1 else "brush" for n in itertools.count(1))
    name = next(name for name in names if name not in taken)
    brush = Element("BrushLabels", {"name": name, "toName": image})
    brush.extend(labels)
    return brush


def _short(image: Element, control: Element) -> Element:
    """Return the least that can be served: the image and one control."""
    view = Element("View")
    names = {name: str(image.get(name)) for name in ("name", "value")}
    SubElement(view, "Image", names)
    small = SubElement(view, control.tag, {n: control.get(n, "") for n in ("name", "toName")})
    valued = [label for label in control.iter("Label") if _value(label)]
    small.extend(Element("Label", _attributes(label)) for label in valued[:MOST_LABELS])
    return view


def _text(root: Element) -> str:
    indent(root)
    return tostring(root, encoding="unicode").strip()
