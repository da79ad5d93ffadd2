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
            '<Label value="crack" model_threshold="0.4" model_refine="fusion"/>'
            '<Label value="rust" model_score_threshold="0.9"/>',
            'model_threshold="0.7" model_iterations="2" model_min_area_px="50" '
            'model_pipeline="advcam" model_output="brush" model_closing_px="9"',
        )
    )
    crack, rust = found.settings["crack"], found.settings["rust"]
    common = {"iterations": 2, "min_area_px": 50, "closing_px": 9, "pipeline": "advcam"}
    assert crack.spec == ClassSpec("crack", "fusion", threshold=0.4, **common)
    assert rust.spec == ClassSpec("rust", None, threshold=0.7, **common)
    assert (crack.score_threshold, rust.score_threshold) == (None, 0.9)
    assert crack.output == "brush"
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
    assert config.EXAMPLE in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_deeply_nested_configs_do_not_crash():
    depth = 50_000
    xml = "<View>" * depth + "</View>" * depth
    with pytest.raises(LabelConfigError):
        config.parse(xml)


def test_an_unknown_class_has_no_output():
    with pytest.raises(LabelConfigError, match="no class 'moss'; it has crack"):
        config.parse(config.EXAMPLE).output("moss")
