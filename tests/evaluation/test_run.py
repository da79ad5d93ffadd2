"""From folders to figures: with a pipeline that learns nothing, and once with a real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import models.base
from backend.cli import app as cli
from backend.errors import LabelclimbError, SettingsError
from backend.evaluation import options as options_module
from backend.evaluation import run as evaluation
from backend.evaluation.options import Options
from backend.evaluation.splits import Wanted
from models.learning.training import PROFILES
from tests.evaluation.making import SIZE, Darkness, folder, surface, write

pytestmark = pytest.mark.training

PROFILE = replace(
    PROFILES["cpu"],
    decoder_widths=(8, 8),
    crop_px=24,
    batch=8,
    max_steps=60,
    learning_rate=4e-3,
    tile_px=64,
    bf16=False,
)
DOCUMENT = Path(__file__).parents[2] / "docs" / "evaluate.md"
ASKED_FOR = (
    "f1", "f1_2px", "precision", "recall", "ods", "ois", "ap", "auprc", "region_f1",
    "instance_recall", "time_saving_estimate", "train_seconds", "seconds_per_image",
    "peak_memory_mib",
)  # fmt: skip


@pytest.fixture
def darkness(monkeypatch: pytest.MonkeyPatch) -> Iterator[Darkness]:
    pipeline = Darkness()
    monkeypatch.setattr(models.base, "names", lambda: ("advcam", "auto", "darkness"))
    monkeypatch.setattr(models.base, "get", lambda name: pipeline)
    return pipeline


def options(root: Path, **changes: Any) -> Options:
    given = {
        "images": root / "images",
        "masks": root / "masks",
        "profile": PROFILE,
        "pipeline": "darkness",
        "class_name": "crack",
        **changes,
    }
    return Options(**given)


def run(root: Path, **changes: Any) -> dict[str, Any]:
    console = Console(file=StringIO(), width=100)
    result = evaluation.run(options(root, **changes), console)
    result["printed"] = console.file.getvalue()  # type: ignore[attr-defined]
    return result


class TestWithDarkness:
    def test_the_figures_are_those_of_the_proposals(
        self, darkness: Darkness, tmp_path: Path
    ) -> None:
        folder(tmp_path, 10)
        result = run(tmp_path)
        tested = [row["name"] for row in result["per_image"]]
        pairs = [surface(int(name)) for name in tested]
        pred = np.concatenate([(image.min(axis=2) < 100).ravel() for image, _ in pairs])
        truth = np.concatenate([t.ravel() for _, t in pairs])
        assert result["f1"] == pytest.approx(2 * (pred & truth).sum() / (pred.sum() + truth.sum()))
        assert result["f1"] > 0.95
        assert result["images"] == {"train": 6, "validation": 1, "test": 3}
        assert result["settings"] == {"darker_than": 100}
        assert result["warnings"] == []

    def test_training_sees_clicks_alone_and_validation_chooses(
        self, darkness: Darkness, tmp_path: Path
    ) -> None:
        folder(tmp_path, 12)
        result = run(tmp_path, wanted=Wanted(6, 2, 4), clicks_per_image=3, seed=7)
        (fit,) = darkness.fits
        learnt = [s for s in fit["samples"] if not s.held_out]
        held_out = [s for s in fit["samples"] if s.held_out]
        assert (len(learnt), len(held_out), fit["seed"]) == (6, 2, 7)
        assert all(not s.masks for s in learnt)
        assert all(set(s.masks) == {"crack"} and s.points for s in held_out)
        for sample in fit["samples"]:
            truth = surface(int(sample.key))[1]
            assert sum(p.positive for p in sample.points) == 3
            assert all(truth[int(p.y_px), int(p.x_px)] == p.positive for p in sample.points)
        tested = {row["name"] for row in result["per_image"]}
        assert not tested & {s.key for s in fit["samples"]}
        assert result["clicks"]["positive"] == 18

    def test_without_validation_no_mask_is_given(self, darkness: Darkness, tmp_path: Path) -> None:
        folder(tmp_path, 6)
        run(tmp_path, wanted=Wanted(validation=0))
        assert all(not s.masks and not s.held_out for s in darkness.fits[0]["samples"])

    def test_what_is_fixed_reaches_the_pipeline(self, darkness: Darkness, tmp_path: Path) -> None:
        folder(tmp_path, 4)
        run(tmp_path, refine="threshold", iterations=2, threshold=0.3)
        (spec,) = darkness.fits[0]["specs"]
        assert (spec.name, spec.refine, spec.iterations, spec.threshold) == (
            "crack", "threshold", 2, 0.3,
        )  # fmt: skip
        run(tmp_path, refine="auto")
        assert darkness.fits[1]["specs"][0].refine is None

    def test_corrected_masks_are_given_to_further_trainings(
        self, darkness: Darkness, tmp_path: Path
    ) -> None:
        folder(tmp_path, 12)
        result = run(tmp_path, wanted=Wanted(6, 2, 4), corrected=(0, 3, 50))
        masks = [sum(bool(s.masks) and not s.held_out for s in f["samples"]) for f in darkness.fits]
        assert masks == [0, 3, 6]
        assert [row["corrected_masks"] for row in result["corrected"]] == [3, 6]
        assert result["corrected"][0]["f1"] == result["f1"]
        assert "with 3 corrected masks: f1" in result["printed"]

    def test_a_pipeline_that_needs_masks_starts_with_the_fewest(
        self, darkness: Darkness, tmp_path: Path
    ) -> None:
        darkness.least_masks = 2
        folder(tmp_path, 12)
        pictures = tmp_path / "pictures"
        result = run(tmp_path, wanted=Wanted(6, 2, 4), corrected=(2, 4), pictures=pictures)
        assert result["corrected_masks"] == 2
        assert [row["corrected_masks"] for row in result["corrected"]] == [2, 4]
        assert len(list(pictures.iterdir())) == 4
        with pytest.raises(LabelclimbError, match="training failed: 0 masks, 2 needed"):
            run(tmp_path)

    def test_a_test_folder_of_its_own(self, darkness: Darkness, tmp_path: Path) -> None:
        folder(tmp_path, 10)
        images, masks = folder(tmp_path / "other", 3, first=20)
        result = run(tmp_path, test_images=images, test_masks=masks)
        assert result["images"] == {"train": 9, "validation": 1, "test": 3}
        assert {row["name"] for row in result["per_image"]} == {"020", "021", "022"}

    def test_the_limit_holds_for_each_folder(self, darkness: Darkness, tmp_path: Path) -> None:
        folder(tmp_path, 10)
        assert sum(run(tmp_path, limit=6)["images"].values()) == 6

    def test_files_and_screen_show_the_same(self, darkness: Darkness, tmp_path: Path) -> None:
        folder(tmp_path, 6)
        json_file, pictures = tmp_path / "new" / "out.json", tmp_path / "pictures"
        result = run(tmp_path, json_file=json_file, pictures=pictures)
        written = json.loads(json_file.read_text())
        assert {**written, "printed": ""} == {**result, "printed": ""}
        assert written["training"]["classes"]["crack"]["loss"] is None  # was not a number
        tested = {row["name"] for row in result["per_image"]}
        assert {path.stem for path in pictures.iterdir()} == tested
        assert f"{result['f1_2px']:.3f}" in result["printed"]

    def test_all_figures_of_the_issue_are_there_and_finite(
        self, darkness: Darkness, tmp_path: Path
    ) -> None:
        folder(tmp_path, 6)
        result = run(tmp_path)
        assert all(np.isfinite(result[name]) for name in ASKED_FOR)
        assert result["peak_memory_mib"] >= result["baseline_memory_mib"] > 50

    def test_a_pipeline_without_heat_is_ranked_by_its_mask(
        self, darkness: Darkness, tmp_path: Path
    ) -> None:
        darkness.with_heat = False
        folder(tmp_path, 6)
        result = run(tmp_path)
        assert result["ods_pooled"] == pytest.approx(result["f1"])


class TestHostileFolders:
    def test_unreadable_images_are_left_out_and_counted(
        self, darkness: Darkness, tmp_path: Path
    ) -> None:
        folder(tmp_path, 9)
        names = [pair.name for pair in evaluation._split(options(tmp_path)).train][:1]
        names += [pair.name for pair in evaluation._split(options(tmp_path)).test][:1]
        for name in names:
            (tmp_path / "images" / f"{name}.png").write_bytes(b"broken")
        result = run(tmp_path)
        assert len(result["left_out"]) == 2
        assert sum(result["images"].values()) == 7
        assert "2 images were left out" in " ".join(result["warnings"])

    def test_masks_of_another_size_are_counted(self, darkness: Darkness, tmp_path: Path) -> None:
        folder(tmp_path, 6)
        for path in (tmp_path / "masks").iterdir():
            write(path, np.kron(surface(int(path.stem))[1], np.ones((2, 2), bool)))
        result = run(tmp_path)
        assert result["resized_masks"] == 6
        assert result["f1"] > 0.95

    def test_inverted_masks_are_suspected(self, darkness: Darkness, tmp_path: Path) -> None:
        folder(tmp_path, 6)
        for path in (tmp_path / "masks").iterdir():
            inverted = ~surface(int(path.stem))[1]
            inverted[:20] = False  # something to click as clean
            write(path, inverted)
        result = run(tmp_path, profile=replace(PROFILE, crop_px=16))
        assert "inverted" in " ".join(result["warnings"])

    def test_where_no_patch_is_clean_smaller_ones_are(
        self, darkness: Darkness, tmp_path: Path
    ) -> None:
        folder(tmp_path, 6)
        result = run(tmp_path, profile=replace(PROFILE, crop_px=320))
        assert result["clicks"]["negative_patch_px"] < SIZE
        assert result["clicks"]["negative"] > 0
        assert "no patch of 320 px is free" in " ".join(result["warnings"])

    def test_black_masks_are_refused(self, darkness: Darkness, tmp_path: Path) -> None:
        folder(tmp_path, 6)
        for path in (tmp_path / "masks").iterdir():
            write(path, np.zeros((SIZE, SIZE), bool))
        with pytest.raises(SettingsError, match="no mask .* shows a defect"):
            run(tmp_path)

    def test_white_masks_leave_no_negatives(self, darkness: Darkness, tmp_path: Path) -> None:
        folder(tmp_path, 6)
        for path in (tmp_path / "masks").iterdir():
            write(path, np.ones((SIZE, SIZE), bool))
        with pytest.raises(LabelclimbError, match="training failed: points of the signs"):
            run(tmp_path)

    def test_nothing_readable_is_said(self, darkness: Darkness, tmp_path: Path) -> None:
        folder(tmp_path, 6)
        for path in (tmp_path / "images").iterdir():
            path.write_bytes(b"broken")
        with pytest.raises(SettingsError, match="no image can be read: .*png"):
            run(tmp_path)

    def test_an_unknown_class_is_said(self, darkness: Darkness, tmp_path: Path) -> None:
        folder(tmp_path / "a" / "b" / "c", 6)
        result = run(tmp_path / "a" / "b" / "c", class_name=None)
        assert result["classes"] == ["defect"]
        assert "--class crack" in " ".join(result["warnings"])


class TestOptions:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"pipeline": "nonsense"}, "unknown pipeline 'nonsense'; known: "),
            ({"refine": "nonsense"}, "unknown refine 'nonsense'; known: .*threshold"),
            ({"test_images": Path("x")}, "give both"),
            ({"test_images": Path("images"), "test_masks": Path("m")}, "what was learnt"),
            ({"json_file": Path()}, "is a folder"),
        ],
    )
    def test_what_cannot_work_is_refused_at_once(self, changes: dict[str, Any], said: str) -> None:
        given = {"images": Path("images"), "masks": Path("masks"), "profile": PROFILE}
        with pytest.raises(SettingsError, match=said):
            Options(**{**given, "pipeline": "advcam", **changes})

    def test_single_parts_overrule_the_split(self) -> None:
        wanted = options_module.wanted_parts("70/8/40", None, "0", "10%")
        assert wanted == Wanted(70, 0, 0.1)
        assert options_module.wanted_parts(None, None, None, None) == Wanted()

    def test_numbers_of_masks(self) -> None:
        assert options_module.numbers("30, 15,15") == (15, 30)
        assert options_module.numbers(None) == ()
        with pytest.raises(SettingsError, match="'many'"):
            options_module.numbers("15,many")

    def test_encoder_weights(self, tmp_path: Path) -> None:
        file = tmp_path / "weights.safetensors"
        file.touch()
        assert options_module.weights(None, "hub") == "hub"
        assert options_module.weights("none", "hub") is None
        assert options_module.weights(str(file), None) == str(file)
        with pytest.raises(SettingsError, match="no such file"):
            options_module.weights("missing", None)
        with pytest.raises(SettingsError, match="unknown profile 'tpu'; known: cpu, gpu"):
            options_module.profile_named("tpu", None)


def test_clicks_train_the_papers_classifier(tmp_path: Path) -> None:
    folder(tmp_path, 14)
    result = run(tmp_path, pipeline="advcam", wanted=Wanted(9, 2, 3), clicks_per_image=4)
    assert result["f1_2px"] > 0.5
    assert result["ods_pooled"] >= result["f1"]
    assert result["settings"]["refine"]
    assert result["train_seconds"] > 0


class TestCommandLine:
    def test_a_whole_call(
        self, darkness: Darkness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder(tmp_path, 8)
        monkeypatch.setenv("SEED", "3")  # the service's own; clicks take --seed alone
        monkeypatch.setenv("PIPELINE", "advcam")
        json_file = tmp_path / "out.json"
        arguments = ["evaluate", "--images", tmp_path / "images", "--masks", tmp_path / "masks"]
        arguments += ["--split", "4/1/3", "--json", json_file, "--device", "cpu", "--class", "rust"]
        answer = CliRunner().invoke(cli.app, [str(a) for a in arguments])
        assert answer.exit_code == 0, answer.output
        result = json.loads(json_file.read_text())
        assert set(ASKED_FOR) <= set(result)
        assert (result["classes"], result["pipeline"], result["seed"]) == (["rust"], "auto", 0)
        assert result["images"] == {"train": 4, "validation": 1, "test": 3}

    def test_mistakes_end_in_words(
        self, darkness: Darkness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PIPELINE", "advcam")
        arguments = ["evaluate", "--images", str(tmp_path / "none"), "--masks", str(tmp_path)]
        answer = CliRunner().invoke(cli.app, arguments)
        assert isinstance(answer.exception, SettingsError)
        assert "none is no folder" in str(answer.exception)


def test_the_document_names_every_option_and_every_key(darkness: Darkness, tmp_path: Path) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    folder(tmp_path, 6)
    result = run(tmp_path)
    keys = set(result) - {"printed"}
    assert not {key for key in keys if f"`{key}`" not in text}
    shown = CliRunner().invoke(cli.app, ["evaluate", "--help"], env={"COLUMNS": "200"}).output
    named = {word for word in shown.split() if word.startswith("--") and word != "--help"}
    assert len(named) > 20
    assert not {option for option in named if f"`{option}`" not in text}
