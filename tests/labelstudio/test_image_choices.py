"""Choices of a whole image: predicted from the regions, read from what people chose."""

from __future__ import annotations

import pytest

from backend.errors import InvalidPayload
from backend.labelstudio import config, image_choices, results
from backend.labelstudio.image_choices import Said
from backend.records import ProposedRegion

XML = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="crack"/><Label value="rust"/>
<Label value="moss"/></BrushLabels>
<Choices name="state" toName="image"><Choice value="cracked" model_class="crack"/>
<Choice value="rusty" predicted_values="rust"/>
<Choice value="no damage" model_negative="true"/><Choice value="blurred"/></Choices></View>"""
ONE = config.parse(XML)
SEVERAL = config.parse(XML.replace('name="state"', 'name="state" choice="multiple"'))


def region(class_name, score, n=1):
    return ProposedRegion(f"v1-7-{n}", 3, 7, 1, class_name, 4, 6, b"", score)


def chosen(regions, label_config):
    return [
        (item["value"]["choices"], item.get("score"))
        for item in image_choices.predicted(regions, label_config, "v1-7-x")
    ]


RUST_BEFORE_CRACK = [region("crack", 0.3), region("rust", 0.8, 2), region("crack", 0.6, 3)]


@pytest.mark.parametrize(
    ("regions", "one", "several"),
    [
        (RUST_BEFORE_CRACK, (["rusty"], 0.8), (["rusty", "cracked"], 0.8)),
        ([region("crack", 0.3)], (["cracked"], 0.3), (["cracked"], 0.3)),
        ([], (["no damage"], None), (["no damage"], None)),
    ],
)
def test_the_surest_class_or_all_of_them_or_the_choice_that_denies(regions, one, several):
    assert chosen(regions, ONE) == [one]
    assert chosen(regions, SEVERAL) == [several]


def test_a_class_without_a_choice_is_no_reason_to_deny_damage():
    assert chosen([region("moss", 0.9)], ONE) == []


def test_without_a_negative_choice_a_clean_image_gets_none():
    bare = config.parse(XML.replace('model_negative="true"', ""))
    assert chosen([], bare) == []


def test_an_item_has_the_form_that_label_studio_takes():
    (item,) = image_choices.predicted([region("crack", 0.5)], ONE, "v1-7-x")
    assert item == {
        "id": "v1-7-x-state",
        "type": "choices",
        "from_name": "state",
        "to_name": "image",
        "value": {"choices": ["cracked"]},
        "score": 0.5,
    }
    results.validate([item], ONE)
    for wrong in (
        {**item, "value": {"choices": ["unknown"]}},
        {**item, "value": {"choices": []}},
        {**item, "value": {"choices": "cracked"}},
        {**item, "to_name": "other"},
    ):
        with pytest.raises(InvalidPayload, match="expected some of"):
            results.validate([wrong], ONE)


def test_what_people_chose():
    def said(*choices, **fields):
        value = {"choices": list(choices)}
        item = {"id": "c", "type": "choices", "from_name": "state", "value": value, **fields}
        return image_choices.said([item], ONE)

    assert said("no damage") == Said(nothing=True)
    assert said("cracked", "rusty") == Said(frozenset({"crack", "rust"}))
    assert said("cracked", "no damage") == Said(frozenset({"crack"})), "a contradiction"
    assert said("blurred") == Said()
    assert said("no damage", from_name="other") == Said()
    assert said("no damage", value={}) == said("no damage", type="taxonomy") == Said()
