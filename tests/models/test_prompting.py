"""Clicks and boxes on painted heat: what grows, what stays away, what a denial takes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import Image, Mask
from models.masks.settings import Settings, apply
from models.metrics import f_measure
from models.prompting import score_map
from models.prompting.answer import answer
from models.prompting.prompts import Prompt
from models.prompting.score_map import ScoreMap

SIDE = 120
GREY, BROWN, RED = (150, 150, 150), (120, 70, 40), (240, 20, 20)
PLAIN = Settings("threshold", iterations=1, threshold=0.5, min_area_px=0, closing_px=1)


def box(top: int, left: int, bottom: int, right: int) -> Mask:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


LEFT, RIGHT = box(20, 10, 60, 45), box(20, 65, 60, 110)
BRIDGE = box(38, 45, 42, 65)


def click(x: float, y: float, *, positive: bool = True) -> Prompt:
    return Prompt(((x + 0.5, y + 0.5),), positive)


def rectangle(left: float, top: float, right: float, bottom: float, *, sign: bool = True) -> Prompt:
    return Prompt(((left, top), (right, top), (right, bottom), (left, bottom)), sign)


def painted(*colours: tuple[Mask, tuple[int, int, int]]) -> Image:
    image = np.full((SIDE, SIDE, 3), GREY, dtype=np.uint8)
    for mask, colour in colours:
        image[mask] = colour
    return image


def scored(*levels: tuple[Mask, int], cut: int = 128, gap_px: int = 0) -> ScoreMap:
    found = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for mask, level in levels:
        found[mask] = level
    return ScoreMap(found, cut, closing_px=1, gap_px=gap_px)


def asked(score: ScoreMap, *prompts: Prompt, image: Image | None = None) -> Mask:
    picture = score_map.colours(painted() if image is None else image)
    return answer(score, picture, prompts)


def test_a_click_gives_the_part_under_it_and_a_second_one_adds_another() -> None:
    score = scored((LEFT, 200), (RIGHT, 200))
    assert np.array_equal(asked(score, click(20, 30)), LEFT)
    assert np.array_equal(asked(score, click(20, 30), click(80, 30)), LEFT | RIGHT)


def test_each_part_has_its_own_threshold() -> None:
    """One threshold cannot do: the haze around the hot part is as hot as the faint part itself."""
    haze = box(5, 2, 75, 55)
    score = scored((haze, 50), (LEFT, 250), (RIGHT, 50))
    assert np.array_equal(asked(score, click(20, 30)), LEFT)
    assert np.array_equal(asked(score, click(80, 30)), RIGHT)


def test_another_colour_ends_the_part_where_the_heat_goes_on() -> None:
    score, image = scored((LEFT | BRIDGE | RIGHT, 200)), painted((LEFT | BRIDGE, RED))
    assert np.array_equal(asked(score, click(20, 30), image=image), LEFT | BRIDGE)


def test_a_thin_part_goes_on_over_a_gap_and_a_compact_one_does_not() -> None:
    pieces = box(50, 10, 53, 50) | box(50, 58, 53, 100)
    assert np.array_equal(asked(scored((pieces, 200), gap_px=12), click(20, 51)), pieces)
    assert asked(scored((pieces, 200), gap_px=4), click(20, 51)).sum() == 40 * 3
    assert asked(scored((pieces, 200)), click(20, 51)).sum() == 40 * 3


def test_a_click_beside_a_thin_part_means_it_and_one_far_away_means_nothing() -> None:
    line = box(50, 10, 52, 100)
    assert np.array_equal(asked(scored((line, 200)), click(30, 54)), line)
    assert not asked(scored((line, 200)), click(30, 60)).any()


def test_where_nothing_was_proposed_the_heat_still_answers_if_there_is_any() -> None:
    faint = box(20, 10, 60, 45)
    assert np.array_equal(asked(scored((faint, 40)), click(20, 30)), faint)
    assert not asked(scored((faint, 5)), click(20, 30)).any()


def test_a_denial_takes_what_is_around_it_and_leaves_what_was_clicked() -> None:
    score = scored((LEFT | BRIDGE | RIGHT, 200))
    both = asked(score, click(20, 40))
    assert np.array_equal(both, LEFT | BRIDGE | RIGHT)
    left = asked(score, click(20, 40), click(87, 40, positive=False))
    assert f_measure(left & RIGHT, RIGHT) < 0.35
    assert np.array_equal(left & LEFT, LEFT)


def test_a_denial_takes_more_of_what_looks_like_it() -> None:
    stain = box(20, 65, 60, 75)
    image = painted((LEFT | BRIDGE | RIGHT, BROWN), (stain, RED))
    score = scored((LEFT | BRIDGE | RIGHT, 200))
    wanted = click(100, 40), click(20, 40)
    cut = asked(score, *wanted, click(70, 40, positive=False), image=image)
    plain = asked(score, *wanted, click(70, 40, positive=False))
    assert (cut & stain).sum() < (plain & stain).sum()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_denial_holds_whether_it_comes_before_or_after(order: tuple[int, int]) -> None:
    score = scored((LEFT | BRIDGE | RIGHT, 200))
    prompts = click(20, 40), click(87, 40, positive=False)
    found = asked(score, *(prompts[n] for n in order))
    assert found[40, 20]
    assert not found[40, 87]


def test_of_two_clicks_on_one_spot_the_later_counts() -> None:
    score = scored((LEFT, 200))
    yes, no = click(20, 30), click(21, 30, positive=False)
    assert not asked(score, yes, no).any()
    assert np.array_equal(asked(score, no, yes), LEFT)


def test_a_box_restricts_and_chooses_the_threshold_for_its_inside() -> None:
    score = scored((LEFT, 250), (RIGHT, 60))
    inside = asked(score, rectangle(60, 10, 90, 70))
    assert np.array_equal(inside, RIGHT & box(10, 60, 71, 91))
    assert not asked(score, rectangle(0, 80, 100, 110)).any()


def test_a_click_in_a_box_stays_inside_and_a_negative_box_takes_all() -> None:
    score = scored((LEFT | BRIDGE | RIGHT, 200))
    area, band = box(10, 0, 71, 41), box(20, 10, 60, 110)
    faint = scored((band, 30), (box(20, 10, 60, 25), 250))
    assert np.array_equal(asked(faint, rectangle(0, 10, 40, 70)), box(20, 10, 60, 25))
    within = asked(faint, rectangle(0, 10, 40, 70), click(35, 40))
    assert np.array_equal(within, band & area)
    gone = asked(score, click(20, 40), rectangle(0, 10, 40, 70, sign=False))
    assert np.array_equal(gone, (LEFT | BRIDGE | RIGHT) & ~area)


def test_the_score_map_holds_the_mask_of_every_threshold_of_a_refinement() -> None:
    rng = np.random.default_rng(0)
    heat = cv2.GaussianBlur(rng.uniform(size=(90, 120)).astype(np.float32), (0, 0), 4)
    heat = (heat - heat.min()) / (heat.max() - heat.min())
    image = rng.integers(0, 255, (90, 120, 3)).astype(np.uint8)
    for refine in ("threshold", "guided", "fusion"):
        settings_ = Settings(refine, iterations=1, threshold=0.43, min_area_px=0)
        made = score_map.of(image, heat, settings_)
        assert np.array_equal(made.levels >= made.cut, apply(image, heat, settings_)), refine


def test_the_threshold_of_a_map_is_exact_and_its_grid_coarse() -> None:
    heat = np.linspace(0, 1, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    made = score_map.of(painted(), heat, PLAIN)
    assert abs(made.levels.astype(int) - 255 * heat).max() <= 255 / score_map.THRESHOLDS + 1


PERCENT = st.floats(-1e6, 1e6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.builds(lambda x, y, s: Prompt(((x, y),), s), PERCENT, PERCENT, st.booleans()),
            st.builds(
                lambda a, b, c, d, s: Prompt(((a, b), (c, b), (c, d), (a, d)), s),
                *[PERCENT] * 4,
                st.booleans(),
            ),
        ),
        max_size=8,
    ),
    st.integers(0, 3),
)
def test_any_prompts_give_a_mask_of_hot_pixels(prompts: list[Prompt], seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.uniform(0, 255, (40, 57)).astype(np.float32), (0, 0), 2)
    levels = np.where(noise > 120, noise, 0).astype(np.uint8)
    picture = rng.integers(0, 255, (40, 57, 3)).astype(np.uint8)
    found = answer(ScoreMap(levels, 140, closing_px=1, gap_px=seed), picture, prompts)
    assert found.shape == (40, 57)
    assert (levels[found] > 0).all()
    if not any(prompt.positive for prompt in prompts):
        assert not found.any()
