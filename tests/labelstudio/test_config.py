import re

import pytest

from backend.errors import LabelConfigError
from backend.labelstudio import config
from models.base import ClassSpec
from tests.labelstudio import payloads


def view(inside, image='<Image name="img" value="$photo"/>'):
    return f"<View>{image}{inside}</View>"


def brush(labels, attributes=""):
    return view(f'<BrushLabels name="b" toName="img" {attributes}>{labels}</BrushLabels>')


def test_the_config_of_a_real_project():
    found = config.parse(payloads.load("annotation_updated")["project"]["label_config"])
    assert (found.image_name, found.data_key) == ("image", "image")
    assert found.classes == ("crack", "spalling", "rust")
    assert [(c.tag, c.name, c.smart) for c in found.controls] == [
        ("BrushLabels", "brush", False),
        ("KeyPointLabels", "kp", True),
        ("RectangleLabels", "rect", True),
        ("PolygonLabels", "poly", False),
        ("Choices", "quality", False),
    ]
    assert [label.value for label in found.controls[-1].labels] == ["ok", "defect", "unclear"]
    assert found.brush("rust").name == "brush"
    assert found.polygon("rust").name == "poly"
    assert found.output("rust").name == "brush"
    assert found.specs == config.specs(found) == tuple(map(ClassSpec, found.classes))


def test_the_example_of_the_error_message_can_be_served():
    found = config.parse(config.EXAMPLE)
    assert found.classes == ("crack",)
    assert found.clicks[0].positive == {"crack": "crack"}
    assert found.clicks[0].negative == {"nothing here"}


def test_clicks_match_by_predicted_values_equality_then_case():
    (clicks,) = config.parse(payloads.CONFIG).clicks
    assert clicks.positive == {"Crack": "crack", "flake": "spalling"}
    assert clicks.negative == {"nothing here"}


def test_equality_wins_over_case():
    both = (
        '<BrushLabels name="b" toName="img"><Label value="CRACK"/><Label value="crack"/>'
        '</BrushLabels><KeyPointLabels name="k" toName="img"><Label value="crack"/>'
        "</KeyPointLabels>"
    )
    assert config.parse(view(both)).clicks[0].positive == {"crack": "crack"}


def test_classes_come_from_all_region_controls_once():
    found = config.parse(payloads.CONFIG)
    assert found.classes == ("crack", "spalling", "rust")
    polygons_first = view(
        '<PolygonLabels name="p" toName="img"><Label value="x"/><Label value="y"/></PolygonLabels>'
        '<BrushLabels name="b" toName="img"><Label value="y"/></BrushLabels>'
    )
    found = config.parse(polygons_first)
    assert set(found.classes) == {"x", "y"}
    assert (found.output("y").tag, found.output("x").tag) == ("BrushLabels", "PolygonLabels")
    assert found.brush("x") is None


def test_an_alias_is_what_annotations_hold():
    found = config.parse(brush('<Label value="Crack (wide)" alias="crack"/>'))
    assert found.classes == ("crack",)


def test_settings_of_the_label_win_over_those_of_the_control():
    found = config.parse(
        brush(
            '<Label value="crack" model_threshold="0.4" model_refine="fusion" '
            'model_max_regions="3"/>'
            '<Label value="rust" model_score_threshold="0.9"/>',
            'model_threshold="0.7" model_iterations="2" model_min_area_px="50" '
            'model_pipeline="advcam" model_output="brush" model_closing_px="9" '
            'model_max_regions="5" model_tolerance_px="2.5"',
        )
    )
    crack, rust = found.settings["crack"], found.settings["rust"]
    common = {"iterations": 2, "min_area_px": 50, "closing_px": 9, "pipeline": "advcam"}
    assert crack.spec == ClassSpec("crack", "fusion", threshold=0.4, **common)
    assert rust.spec == ClassSpec("rust", None, threshold=0.7, **common)
    assert (crack.score_threshold, rust.score_threshold) == (None, 0.9)
    assert crack.output == "brush"
    assert (crack.max_regions, rust.max_regions, crack.tolerance_px) == (3, 5, 2.5)
    assert found.specs == (crack.spec, rust.spec)


def test_each_class_names_its_own_pipeline():
    labels = '<Label value="crack" model_pipeline="segmenter"/><Label value="rust"/>'
    found = config.parse(brush(labels, 'model_pipeline="auto"'))
    assert [spec.pipeline for spec in found.specs] == ["segmenter", "auto"]


def test_settings_of_the_brush_win_over_those_of_the_polygon():
    polygon = '<PolygonLabels name="p" toName="img"><Label value="crack" {}/></PolygonLabels>'
    painted = '<BrushLabels name="b" toName="img"><Label value="crack" {}/></BrushLabels>'
    low, high = 'model_threshold="0.1"', 'model_threshold="0.9"'
    both = config.parse(view(polygon.format(low) + painted.format(high)))
    assert both.settings["crack"].spec.threshold == 0.9
    one = config.parse(view(polygon.format(low) + painted.format("")))
    assert one.settings["crack"].spec.threshold == 0.1


def test_model_output_chooses_the_control():
    with_polygon = payloads.CONFIG.replace(
        '<PolygonLabels name="poly"', '<PolygonLabels name="poly" model_output="polygon"'
    )
    found = config.parse(with_polygon)
    assert found.output("crack").name == "poly"
    assert found.output("spalling").name == "brush"


@pytest.mark.parametrize(
    ("attribute", "value", "allowed"),
    [
        ("model_threshold", "1.5", "0 to 1"),
        ("model_threshold", "nan", "0 to 1"),
        ("model_threshold", "high", "0 to 1"),
        ("model_score_threshold", "-0.1", "0 to 1"),
        ("model_iterations", "0", "1 to 100"),
        ("model_iterations", "2.5", "1 to 100"),
        ("model_min_area_px", "-1", "from 0"),
        ("model_closing_px", "-1", "0 to 1000"),
        ("model_closing_px", "1001", "0 to 1000"),
        ("model_refine", "magic", "one of .*fusion"),
        ("model_pipeline", "magic", "one of .*advcam"),
        ("model_output", "polygon", "one of brush"),
        ("model_output", "video", "one of brush"),
        ("model_max_regions", "0", "1 to 1000"),
        ("model_tolerance_px", "-1", "0 to 1000"),
    ],
)
@pytest.mark.parametrize("on_label", [True, False])
def test_unusable_settings_are_named_with_value_and_range(attribute, value, allowed, on_label):
    said = f'{attribute}="{value}"'
    label = f'<Label value="crack" {said if on_label else ""}/>'
    with pytest.raises(LabelConfigError, match=f"'crack' has {attribute}=\"{value}\".*{allowed}"):
        config.parse(brush(label, "" if on_label else said))


BOMB = '<!DOCTYPE v [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><View>&b;</View>'
OUTSIDE = '<!DOCTYPE v [<!ENTITY a SYSTEM "file:///etc/passwd">]><View>&a;</View>'


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        ("", "not XML"),
        ("crack, rust", "not XML"),
        ("<View><Image></View>", "not XML"),
        ("\x00", "not XML"),
        ("<Image name='a' value='$a'/>", "outermost tag is <Image>"),
        ("<View/>", "no <Image>"),
        ("<View>" + " " * config.MAX_CHARACTERS + "</View>", "at most"),
        ("<!DOCTYPE View><View/>", "document type or entities"),
        (BOMB, "document type or entities"),
        (OUTSIDE, "document type or entities"),
        (view(""), "nothing to propose"),
        (
            view('<Choices name="c" toName="img"><Choice value="a"/></Choices>'),
            "nothing to propose",
        ),
        (view('<BrushLabels name="b" toName="other"><Label value="a"/></BrushLabels>'), "img"),
        (view('<BrushLabels name="b" toName="img"></BrushLabels>'), "nothing to propose"),
        (brush("<Label/>"), "<Label> has no value"),
        (
            view(
                '<BrushLabels name="b" toName="i"><Label value="a"/></BrushLabels>',
                '<Image name="i" value="http://x/y.jpg"/>',
            ),
            "expected a key",
        ),
    ],
)
def test_unservable_configs_say_what_is_missing_and_show_one_that_works(xml, says):
    with pytest.raises(LabelConfigError, match=says) as caught:
        config.parse(xml)
    found = config.explain(xml)
    assert str(caught.value) == f"{found.problem}. One that can:\n{found.working}"
    assert len(str(caught.value)) < 1500
    assert config.parse(found.working).classes


def working(xml):
    """Return the config made of one that cannot be served, parsed."""
    found = config.explain(xml)
    assert found.problem
    return config.parse(found.working)


def test_the_cure_keeps_images_labels_and_other_controls():
    photo = '<Header value="Look"/><View style="display:flex"><Image name="img" value="$photo"/>'
    asked = (
        '<Choices name="c" toName="img"><Choice value="rust"/><Choice value="fine" '
        'model_negative="true"/></Choices></View>'
    )
    found = working(view(photo + asked, ""))
    assert (found.image_name, found.data_key, found.classes) == ("img", "photo", ("rust",))
    assert found.brush("rust").name == "brush"
    assert found.choices[0].positive == {"rust": "rust"}
    clicks = '<KeyPointLabels name="brush" toName="img"><Label value="a" alias="b"/>'
    found = working(view(clicks + "</KeyPointLabels>"))
    assert (found.classes, found.brush("b").name) == (("b",), "brush2")
    assert working(view("")).classes == ("defect",)
    assert working("<View><Image name='x' value='$y'/></View>").data_key == "y"
    served = working("<View><Image name='x' value='$y'/><Image name='i' value='http://a'/></View>")
    assert (served.image_name, served.data_key) == ("x", "y")


@pytest.mark.parametrize(
    ("controls", "says", "classes"),
    [
        (
            '<BrushLabels name="b" toName="pic"><Label value="a"/></BrushLabels>',
            'name="b"> has toName="pic"; the image is img',
            ("a",),
        ),
        (
            '<BrushLabels name="b" toName="img" value="$labels"/>',
            r'takes its labels from each task \(value="\$labels"\).*write them as <Label',
            ("defect",),
        ),
        ('<BrushLabels toName="img"><Label value="a"/></BrushLabels>', "has no name", ("a",)),
        ('<PolygonLabels name="p" toName="img"/>', 'name="p"> has no <Label>', ("defect",)),
        (
            '<Labels name="l" toName="img"><Label value="a"/><Label value="b"/></Labels>'
            '<Brush name="b" toName="img"/>',
            "<Labels> beside <Brush> is not served; <BrushLabels> is both",
            ("a", "b"),
        ),
        (
            '<EllipseLabels name="e" toName="img"><Label value="a"/></EllipseLabels>',
            r"no <BrushLabels>, .* with toName of an image \(img\)",
            ("a",),
        ),
    ],
)
def test_the_tag_that_is_missing_is_named_and_mended(controls, says, classes):
    with pytest.raises(LabelConfigError, match=f"{says}.*so there is nothing to propose"):
        config.parse(view(controls))
    assert working(view(controls)).classes == classes


def test_the_cure_of_a_large_config_is_short():
    many = "".join(f'<Choice value="defect number {n}"/>' for n in range(1000))
    xml = view(f'<Choices name="c" toName="img">{many}</Choices>')
    assert len(config.explain(xml).working) < 4000
    assert working(xml).classes == tuple(f"defect number {n}" for n in range(20))


def test_several_pages_in_one_task_are_refused_in_words():
    pages = '<Image name="img" valueList="$pages"/>'
    with pytest.raises(LabelConfigError, match="valueList: tasks of several pages"):
        config.parse(
            view('<BrushLabels name="b" toName="img"><Label value="a"/></BrushLabels>', pages)
        )


def test_a_good_config_has_nothing_to_be_said_about():
    assert config.explain(config.EXAMPLE) == config.Explanation()


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        (
            brush('<Label value="a" model_treshold="0.3"/>'),
            "model_treshold.*was model_threshold meant",
        ),
        (
            brush('<Label value="a"/>', 'Model_Output="brush"'),
            "Model_Output.*was model_output meant",
        ),
        (brush('<Label value="a"/>', 'model-negative="true"'), "was model_negative meant"),
        (brush('<Label value="a" model_xyzzy="1"/>'), "model_xyzzy.*known are model_closing_px,"),
        (
            view(
                '<BrushLabels name="b" toName="img"><Label value="a"/></BrushLabels>',
                '<Image name="img" value="$photo" model_threshold="0.3"/>',
            ),
            "<Image> has model_threshold, which has no effect there; write it on a label",
        ),
        (
            view(
                '<BrushLabels name="b" toName="two"><Label value="a"/></BrushLabels>',
                '<Image name="one" value="$x"/><Image name="two" value="$y"/>',
            ),
            r"2 images \(one, two\); only 'two' is served, the first with labels to draw",
        ),
        (
            brush('<Label value="a"/>').replace(
                "</View>",
                '<KeyPointLabels name="k" toName="img"><Label value="other"/></KeyPointLabels>'
                "</View>",
            ),
            "clicks with 'other' teach nothing",
        ),
        (
            view('<PolygonLabels name="p" toName="img"><Label value="Hairline"/></PolygonLabels>'),
            "'Hairline' is shown as polygons",
        ),
        (
            view('<RectangleLabels name="r" toName="img"><Label value="a"/></RectangleLabels>'),
            "'a' is shown as boxes",
        ),
    ],
)
def test_what_may_surprise_is_said(xml, says):
    found = config.explain(xml)
    assert (found.problem, found.working) == (None, None)
    assert re.search(says, " ".join(found.warnings))
    assert len(found.warnings) == 1


def test_an_unusable_attribute_is_a_problem_without_another_config():
    found = config.explain(brush('<Label value="a" model_threshold="2"/>'))
    assert 'model_threshold="2"; expected a number from 0 to 1' in found.problem
    assert found.working is None


def test_choices_speak_of_the_classes_that_they_name():
    choices = (
        '<Choices name="c" toName="img" choice="multiple"><Choice value="Crack"/>'
        '<Choice value="red" model_class="rust"/><Choice value="flake" predicted_values="x,moss"/>'
        '<Choice value="fine" alias="ok" model_negative="true"/><Choice value="blurred"/></Choices>'
        '<Choices name="quality" toName="img"><Choice value="good"/></Choices>'
        '<Choices name="r" toName="img" perRegion="true"><Choice value="rust"/></Choices>'
    )
    labels = '<Label value="crack"/><Label value="rust"/><Label value="moss"/>'
    found = config.parse(brush(labels).replace("</View>", choices + "</View>"))
    (only,) = found.choices
    assert only.positive == {"Crack": "crack", "red": "rust", "flake": "moss"}
    assert (only.negative, only.several, only.control.name) == ({"ok"}, True, "c")


def test_a_class_is_found_in_a_version_by_its_name_or_predicted_values():
    labels = '<Label value="Riss" predicted_values="fissure, crack"/><Label value="rust"/>'
    found = config.parse(brush(labels + '<Label value="moss"/>'))
    assert found.trained_names(["crack", "rust"]) == {"Riss": "crack", "rust": "rust"}
    assert found.trained_names(["crack", "Riss"]) == {"Riss": "Riss"}


def test_labels_are_found_in_nested_views_beside_styles():
    nested = (
        "<Style>.a {color: red}</Style><View className='a'><View>"
        '<BrushLabels name="b" toName="img"><Label value="a" hotkey="1" background="#f00"/>'
        "</BrushLabels></View></View>"
    )
    assert config.parse(view(nested)).classes == ("a",)


def test_deeply_nested_configs_do_not_crash():
    depth = 50_000
    xml = "<View>" * depth + "</View>" * depth
    with pytest.raises(LabelConfigError):
        config.parse(xml)


def test_an_unknown_class_has_no_output():
    with pytest.raises(LabelConfigError, match="no class 'moss'; it has crack"):
        config.parse(config.EXAMPLE).output("moss")


@pytest.mark.parametrize(
    ("number", "name"),
    [
        ('<Number name="model_iterations" toName="img"/>', "model_iterations"),
        ('<Number name="n" toName="img" model_iterations="true"/>', "n"),
        ('<Number name="n" toName="img"/>', None),
        ('<Number name="model_iterations" toName="other"/>', None),
    ],
)
def test_a_number_may_say_how_often_heat_is_climbed(number, name):
    found = config.parse(brush('<Label value="a"/>').replace("</View>", number + "</View>"))
    assert found.iterations_control == name
