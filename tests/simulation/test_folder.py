"""Simulations on folders: with a pipeline worked out by hand, hostile folders, budgets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import models.base
from backend.errors import LabelclimbError, SettingsError
from backend.evaluation.folders import read_folder
from backend.evaluation.splits import parse_split
from backend.loop.ordering.describing import LOOK_S
from backend.simulation import costs, scenes
from backend.simulation import options as options_module
from backend.simulation import run as simulation
from backend.simulation.options import CONTROL, Options
from backend.simulation.world import FolderWorld, Setting
from models.base import ClassSpec
from models.learning.training import PROFILES
from models.masks.correction import draw_s
from models.metrics import Matches, matches
from strategies import simulate
from tests.evaluation.making import folder, surface, write
from tests.simulation.played import Growing

STRATEGIES = "entropy,edit_time,coreset"


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Growing]:
    pipeline = Growing()
    monkeypatch.setattr(models.base, "names", lambda: ("growing", "pixel_head"))
    monkeypatch.setattr(models.base, "get", lambda name: pipeline)
    return pipeline


def run(root: Path, strategies: str = STRATEGIES, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "images": root / "images",
        "masks": root / "masks",
        "contenders": options_module.contenders(strategies),
        "profile": PROFILES["cpu"],
        "budget_s": 120.0,
        "class_name": "crack",
        "pipeline": "growing",
        "seeds": 2,
        "rounds": 3,
        "first": 2,
        "wanted": parse_split("10/2/4"),
    }
    console = Console(file=StringIO(), width=200)
    result = simulation.run(Options(**{**given, **changes}), console)
    result["printed"] = console.file.getvalue()  # type: ignore[attr-defined]
    return result


def of(result: dict[str, Any], strategy: str) -> dict[str, Any]:
    (found,) = [one for one in result["strategies"] if one["strategy"] == strategy]
    return dict(found)


def test_random_order_is_always_beside_and_the_best_comes_first(
    growing: Growing, tmp_path: Path
) -> None:
    folder(tmp_path, 16)
    result = run(tmp_path, "entropy")
    assert {one["strategy"] for one in result["strategies"]} == {CONTROL, "entropy"}
    means = [one["mean_value"]["mean"] for one in result["strategies"]]
    assert means == sorted(means, reverse=True)
    assert "gain" not in of(result, CONTROL)
    assert of(result, "entropy")["in_words"] in result["printed"]


def test_all_strategies_of_a_seed_start_from_the_same_version(
    growing: Growing, tmp_path: Path
) -> None:
    folder(tmp_path, 16)
    result = run(tmp_path)
    for seed in (0, 1):
        starts = {
            (tuple(own["tasks"][0]), own["seconds"][0], own["values"][0])
            for one in result["strategies"]
            for own in one["runs"]
            if own["seed"] == seed
        }
        assert len(starts) == 1
    first = {tuple(own["tasks"][0]) for own in of(result, CONTROL)["runs"]}
    assert len(first) == 2  # another seed, other first tasks


def test_the_first_tasks_cost_a_look_and_the_drawing(growing: Growing, tmp_path: Path) -> None:
    images, _ = folder(tmp_path, 16)
    result = run(tmp_path, CONTROL, seeds=1)
    own = of(result, CONTROL)["runs"][0]

    pairs = read_folder(images, tmp_path / "masks", max_pixels=10**6)
    truths = [surface(int(pairs[task - 1].name))[1] for task in own["tasks"][0]]
    assert own["seconds"][0] == pytest.approx(sum(LOOK_S + draw_s(truth) for truth in truths))


def test_the_value_is_that_of_the_proposals(growing: Growing, tmp_path: Path) -> None:
    """After n tasks the first 6 n columns are right: so much of the pooled truth is found."""
    images, masks = folder(tmp_path, 16)
    result = run(tmp_path, CONTROL, seeds=1)
    own = of(result, CONTROL)["runs"][0]

    pairs = read_folder(images, masks, max_pixels=10**6)[12:]
    done = np.cumsum([len(tasks) for tasks in own["tasks"]])
    for count, value in zip(done, own["values"], strict=True):
        total = Matches()
        for pair in pairs:
            _, truth = surface(int(pair.name))
            found = truth.copy()
            found[:, 6 * count :] = False
            total += matches(found, truth, 2)
        assert value == pytest.approx(total.f_measure)


def test_the_budget_is_kept_and_what_is_learnt_grows(growing: Growing, tmp_path: Path) -> None:
    folder(tmp_path, 16)
    result = run(tmp_path, budget_s=100.0)
    for one in result["strategies"]:
        for own in one["runs"]:
            assert own["seconds"] == sorted(own["seconds"]) and own["seconds"][-1] <= 100
            done = [task for tasks in own["tasks"] for task in tasks]
            assert len(done) == len(set(done)) and set(done) <= set(range(1, 11))
    sizes = [sum(not s.held_out for s in fit["samples"]) for fit in growing.fits]
    assert min(sizes) == 2 and max(sizes) > 2
    assert all(sum(s.held_out for s in fit["samples"]) == 2 for fit in growing.fits)


def test_trainings_start_from_the_version_before(growing: Growing, tmp_path: Path) -> None:
    folder(tmp_path, 16)
    run(tmp_path, CONTROL, seeds=1)
    columns = [fit["warm_start"] and fit["warm_start"].columns for fit in growing.fits]
    done = [sum(not s.held_out for s in fit["samples"]) for fit in growing.fits]
    assert columns == [None, *(6 * count for count in done[:-1])]


def test_the_same_seed_gives_the_same_curve_whatever_runs_beside(
    growing: Growing, tmp_path: Path
) -> None:
    folder(tmp_path, 16)
    first = run(tmp_path, "entropy,coreset")
    again = run(tmp_path, "coreset,edit_time,entropy")
    for name in (CONTROL, "entropy", "coreset"):
        assert of(first, name) == of(again, name)
    fewer = run(tmp_path, "entropy", seeds=1)
    assert of(fewer, "entropy")["runs"] == of(first, "entropy")["runs"][:1]


def test_each_seed_has_its_own_order_and_its_own_trainings(
    growing: Growing, tmp_path: Path
) -> None:
    images, masks = folder(tmp_path, 16)
    pairs = read_folder(images, masks, max_pixels=10**6)
    found = scenes.Scenes(scenes.numbered(pairs, 1), None)
    orders = []
    for seed in (0, 1):
        setting = Setting(
            scenes=found,
            pipeline=growing,
            spec=ClassSpec("crack"),
            profile=PROFILES["cpu"],
            device="cpu",
            cost=costs.stated(),
            held_out=(),
            test=(16,),
            seed=seed,
        )
        world = FolderWorld(setting, options_module.contenders(CONTROL)[0])
        start = simulate.begin(world, [1, 2])
        orders.append(list(world.rank(start.state, range(3, 15), start.done)))
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]) == list(range(3, 15))
    run(tmp_path, CONTROL, seeds=3)
    assert {fit["seed"] for fit in growing.fits[2:]} == {0, 1, 2}


def test_strategies_really_order_differently(growing: Growing, tmp_path: Path) -> None:
    folder(tmp_path, 16)
    result = run(tmp_path, "edit_time:order=hard_first,edit_time:order=easy_first", seeds=1)
    hard, easy = (of(result, f"edit_time:order={end}_first") for end in ("hard", "easy"))
    assert hard["runs"][0]["tasks"][1] != easy["runs"][0]["tasks"][1]


def test_one_seed_claims_nothing(growing: Growing, tmp_path: Path) -> None:
    folder(tmp_path, 16)
    entry = of(run(tmp_path, "entropy", seeds=1), "entropy")
    assert entry["verdict"] == "one seed shows nothing" and entry["gain"]["low"] is None


def test_an_accepted_proposal_costs_a_look_and_stays_as_it_was(
    growing: Growing, tmp_path: Path
) -> None:
    """After 12 tasks all 72 columns are found: what follows is accepted."""
    folder(tmp_path, 30)
    result = run(
        tmp_path, CONTROL, seeds=1, wanted=parse_split("20/2/4"), budget_s=5000.0, first=12
    )
    own = of(result, CONTROL)["runs"][0]
    rest = sum(len(tasks) for tasks in own["tasks"][1:])
    assert rest == 8
    assert own["seconds"][-1] - own["seconds"][0] == pytest.approx(8 * LOOK_S)


def test_without_evidence_a_note_says_what_ordered(growing: Growing, tmp_path: Path) -> None:
    folder(tmp_path, 16)
    entry = of(run(tmp_path, "committee", seeds=1, rounds=1), "committee")
    assert entry["notes"] and "instead of committee" in entry["notes"][0]


def test_the_autopilot_learns_what_its_arms_were_worth(growing: Growing, tmp_path: Path) -> None:
    folder(tmp_path, 16)
    result = run(tmp_path, "autopilot", seeds=1, rounds=4, budget_s=150.0)
    entry = of(result, "autopilot")
    assert len(entry["runs"][0]["tasks"]) >= 4
    assert entry["notes"] == []


class TestHostile:
    def test_images_without_masks(self, growing: Growing, tmp_path: Path) -> None:
        folder(tmp_path, 6)
        (tmp_path / "masks" / "003.png").unlink()
        with pytest.raises(SettingsError, match=r"1 of 6 images of .* have no mask"):
            run(tmp_path)

    def test_an_empty_folder(self, growing: Growing, tmp_path: Path) -> None:
        folder(tmp_path, 1)
        (tmp_path / "images" / "000.png").unlink()
        with pytest.raises(SettingsError, match="holds no"):
            run(tmp_path)

    def test_black_masks(self, growing: Growing, tmp_path: Path) -> None:
        folder(tmp_path, 16)
        for file in (tmp_path / "masks").iterdir():
            write(file, np.zeros((72, 72), dtype=bool))
        with pytest.raises(SettingsError, match="no mask of the 10 images to annotate shows"):
            run(tmp_path)

    def test_broken_images_are_left_out_and_named(self, growing: Growing, tmp_path: Path) -> None:
        images, masks = folder(tmp_path, 16)

        broken = read_folder(images, masks, max_pixels=10**6)[0]
        broken.image.write_bytes(b"no image")
        result = run(tmp_path, CONTROL, seeds=1)
        assert result["images"]["pool"] == 9
        assert broken.image.name in result["left_out"][0] and "left out" in result["printed"]

    def test_too_few_images_to_split(self, growing: Growing, tmp_path: Path) -> None:
        folder(tmp_path, 5)
        with pytest.raises(SettingsError, match="5 images cannot be split"):
            run(tmp_path)

    def test_a_budget_below_the_first_tasks(self, growing: Growing, tmp_path: Path) -> None:
        folder(tmp_path, 16)
        with pytest.raises(SettingsError, match=r"first tasks take \d+ s of the budget of 5 s"):
            run(tmp_path, budget_s=5.0)

    def test_a_training_that_cannot_start(self, growing: Growing, tmp_path: Path) -> None:
        folder(tmp_path, 16)
        for file in (tmp_path / "masks").iterdir():
            write(file, np.ones((72, 72), dtype=bool))
        with pytest.raises(LabelclimbError, match="training on 2 tasks failed: points of one sign"):
            run(tmp_path)


class TestOptions:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("astrology", "unknown strategy 'astrology'"),
            ("edit_time:order=lazy", "option order is 'lazy'"),
            ("edit_time:order", "'order' is not NAME=VALUE"),
        ],
    )
    def test_wrong_strategies_are_named(self, text: str, message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            options_module.contenders(text)

    def test_strategies_are_read_once_each_the_control_first(self) -> None:
        found = options_module.contenders(
            " entropy, random_order ,hybrid:entropy=1:coreset=2,entropy"
        )
        assert [one.label for one in found] == [
            "random_order", "entropy", "hybrid:entropy=1:coreset=2",
        ]  # fmt: skip
        assert found[2].options == {"entropy": 1.0, "coreset": 2.0}

    @pytest.mark.parametrize("name", ["seeds", "rounds", "first", "budget_s"])
    def test_nothing_may_be_nothing(self, name: str, growing: Growing, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=f"{name} is 0; give more"):
            run(tmp_path, **{name: 0})


def test_curves_are_written_as_json_and_png(growing: Growing, tmp_path: Path) -> None:
    folder(tmp_path, 16)
    file, picture = tmp_path / "out" / "curves.json", tmp_path / "pictures" / "curves.png"
    result = run(tmp_path, json_file=file, png_file=picture)
    written = json.loads(file.read_text())
    assert written["strategies"] == json.loads(json.dumps(result["strategies"]))
    assert picture.read_bytes().startswith(b"\x89PNG")
    curve = of(written, "entropy")["curve"]
    assert len(curve["seconds"]) == len(curve["mean"]) == 41
    assert all(
        low <= least <= mean <= most <= high
        for low, least, mean, most, high in zip(
            *(curve[name] for name in ("low", "least", "mean", "most", "high")), strict=True
        )
    )
