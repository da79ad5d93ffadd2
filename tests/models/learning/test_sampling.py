"""What batches show: balance, weight, hardness, and the same in any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pytest

from models.base import Sample
from models.learning import crops, sampling
from models.learning.crops import Ints, Surroundings
from models.learning.sampling import Ahead, Batch, CropSource, Draw, Supply

CROP = 16


def around(places: Sequence[tuple[int, int]], weights: Sequence[float] = ()) -> Surroundings:
    """Points x, y of one image of 60 x 80 whose pixels say where they are: (row, column, 7)."""
    rows, columns = np.indices((60, 80))
    image = np.dstack((rows, columns, np.full_like(rows, 7))).astype(np.uint8)
    clicks = [
        crops.Click(0, x, y, weight)
        for (x, y), weight in zip(places, weights or [1.0] * len(places), strict=True)
    ]
    picture = Sample("1", lambda: image, ())
    return crops.surroundings([picture], clicks, CROP, crops.CLICK_REACH)


SPOTS = [(10, 10), (30, 10), (50, 10)]
CLEAN = [(70, 50), (20, 50)]


def supply(
    *sources: CropSource, seed: int = 0, mining: float = 0.0, scale_jitter: float = 1.0
) -> Supply:
    rng = np.random.default_rng(seed)
    chosen = sources or (CropSource(around(SPOTS), around(CLEAN), 5),)
    return Supply(chosen, rng, mining=mining, scale_jitter=scale_jitter)


def counted(made: Supply, batches: int, size: int, group: int) -> list[int]:
    """How often each point of a group is drawn."""
    chosen = [draw.chosen[draw.groups == group] for draw in drawn(made, batches, size)]
    return [int(count) for count in np.bincount(np.concatenate(chosen))]


def drawn(made: Supply, batches: int, size: int) -> list[Draw]:
    return [made.draw(size) for _ in range(batches)]


def at_points(batch: Batch) -> Ints:
    """Rows and columns that the pixels at the points say: (B, 2)."""
    rows, columns = batch.points.T
    return batch.pixels[np.arange(len(batch.points)), rows, columns, :2].astype(np.int64)


def clicked(draw: Draw) -> Ints:
    """Rows and columns that were clicked: (B, 2)."""
    pairs = zip(draw.groups, draw.chosen, strict=True)
    return np.array([(SPOTS, CLEAN)[group][n][::-1] for group, n in pairs])


def test_a_round_shows_each_positive_its_crops_and_half_of_a_batch_is_clean() -> None:
    made = supply()
    draws = drawn(made, 5, 6)  # 15 positives: one round
    shown = [made.cut(draw) for draw in draws]
    assert all(batch.labels.tolist() == [1, 1, 1, 0, 0, 0] for batch in shown)
    seen = np.concatenate([batch.pixels[:3] for batch in shown]).astype(int)
    holds = [((seen[..., 0] == y) & (seen[..., 1] == x)).any(axis=(1, 2)).sum() for x, y in SPOTS]
    assert holds == [5, 5, 5]


def test_batches_say_where_their_points_are() -> None:
    made = supply()
    draw = made.draw(40)
    batch = made.cut(draw)
    assert at_points(batch).tolist() == clicked(draw).tolist()


def test_zoomed_crops_keep_their_points() -> None:
    made = supply(scale_jitter=1.25)
    draw = made.draw(200)
    assert 0.8 <= draw.zooms.min() < 0.85 < 1.2 < draw.zooms.max() <= 1.25
    batch = made.cut(draw)
    assert np.abs(at_points(batch) - clicked(draw)).max() <= 1


def test_negative_crops_stay_on_their_clean_patch() -> None:
    made = supply(CropSource(around(SPOTS), around([(60, 40)]), 5))
    clean = made.cut(made.draw(160)).pixels[80:].astype(int)
    middles = clean[..., :2].mean(axis=(1, 2))
    assert (np.abs(middles - (40, 60)) <= 0.5 + 1).all()  # jitter of 0.06 x 16 px


@pytest.mark.parametrize("group", [0, 1])
def test_points_are_drawn_by_weight(group: int) -> None:
    light_and_heavy = around([(10, 10), (60, 40)], [1.0, 3.0])
    made = supply(CropSource(light_and_heavy, light_and_heavy, 4))
    light, heavy = counted(made, 8, 8, group)  # four rounds
    assert (light, heavy) == (8, 24)


def test_classes_and_signs_take_turns_when_a_batch_does_not_hold_them_all() -> None:
    sources = [CropSource(around(SPOTS[: n + 1]), around(CLEAN), 5) for n in range(3)]
    made = supply(*sources)
    draws = drawn(made, 3, 4)
    assert np.bincount(np.concatenate([draw.groups for draw in draws])).tolist() == [2] * 6
    batch = made.cut(draws[0])
    assert (batch.classes.tolist(), batch.labels.tolist()) == ([0, 0, 1, 1], [1, 0, 1, 0])


@pytest.mark.parametrize("group", [0, 1])
def test_what_the_network_gets_wrong_is_drawn_more_often(group: int) -> None:
    def shown(mining: float) -> list[int]:
        four = around([(10, 10), (30, 10), (50, 10), (70, 10)])
        made = supply(CropSource(four, four, 8), mining=mining)
        for draw in drawn(made, 8, 8):  # a round, and what it taught
            hard = (draw.chosen == 2) & (draw.groups == group)
            made.learn(draw, np.where(hard, 9.0, 0.0).astype(np.float32))
        return counted(made, 80, 8, group)  # ten rounds without news

    assert shown(0.0) == [80, 80, 80, 80]
    counts = shown(1.0)
    # Hardness ends near 3, the bound, for the one and near 0 for the others: 4 to 1.
    assert counts[2] / sum(counts) == pytest.approx(4 / 7, abs=0.03)


def test_a_mislabelled_point_does_not_take_over() -> None:
    four = around([(10, 10), (30, 10), (50, 10), (70, 10)])
    made = supply(CropSource(four, four, 8), mining=1.0)
    for draw in drawn(made, 20, 8):
        made.learn(draw, np.where(draw.chosen == 2, 1e6, 0.0).astype(np.float32))
    counts = counted(made, 40, 8, 1)
    assert counts[2] < 0.62 * sum(counts)


def test_systematic_draws_are_as_even_as_whole_numbers_allow() -> None:
    shares = np.array([0.1, 1.0, 2.0, 0.5, 3.4])
    for seed in range(20):
        drawn = sampling.systematic(shares, 33, np.random.default_rng(seed))
        counts = np.bincount(drawn, minlength=5)
        assert np.all(np.abs(counts - 33 * shares / shares.sum()) < 1)
    assert sampling.systematic(np.ones(1), 3, np.random.default_rng(0)).tolist() == [0, 0, 0]


def test_the_same_seed_gives_the_same_batches() -> None:
    one, other, third = (
        made.cut(made.draw(8)).pixels for made in (supply(seed=seed) for seed in (3, 3, 4))
    )
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)


def test_batches_cut_in_any_order_are_the_same() -> None:
    made = supply(scale_jitter=1.2)
    draws = drawn(made, 4, 6)
    there, back = ([made.cut(draw) for draw in order] for order in (draws, draws[::-1]))
    pairs = zip(there, back[::-1], strict=True)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in pairs)


def test_results_come_in_order_and_jobs_are_taken_only_so_far_ahead() -> None:
    taken: list[int] = []

    def jobs() -> Iterator[Callable[[], int]]:
        for n in range(6):
            taken.append(n)
            yield partial(int, n)

    seen = [(result, len(taken)) for result in Ahead(jobs(), 2, lambda: 0.0)]
    assert seen == [(0, 3), (1, 4), (2, 5), (3, 6), (4, 6), (5, 6)]


def test_waiting_is_measured_and_an_error_in_a_thread_arrives() -> None:
    now = [0.0]

    def slow(seconds: float) -> float:
        now[0] += seconds
        return seconds

    turn = threading.Semaphore(0)

    def jobs() -> Iterator[Callable[[], float]]:
        def held() -> float:
            turn.acquire(timeout=5)
            return slow(2.0)

        yield held

    def clock() -> float:
        moment = now[0]
        turn.release()
        return moment

    ahead = Ahead(jobs(), 1, clock)
    assert list(ahead) == [2.0]
    assert ahead.waited_s == 2.0
    with pytest.raises(ZeroDivisionError):
        list(Ahead(iter([lambda: 1 / 0]), 1, clock))
