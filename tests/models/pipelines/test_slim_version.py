"""What pruning takes from an old version is missed by trainings alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.pipelines.pixel_head import PIPELINE, PixelHeadFitted, PixelHeads
from models.saving import TRAINING_ONLY
from tests.models.clicked_spots import MOSS, RUST, SAMPLES, Clicked, fit, picture
from tests.models.surfaces import same

pytestmark = pytest.mark.training

METHOD = PixelHeads(steps=20, warm_steps=10)


def test_a_slim_pixel_head_proposes_the_same_and_can_be_trained_on(
    encoder_weights: str, tmp_path: Path
) -> None:
    whole: PixelHeadFitted = fit(encoder_weights, method=METHOD, specs=(RUST, MOSS))
    whole.save(tmp_path)
    bytes_before = sum(path.stat().st_size for path in tmp_path.iterdir())
    for name in TRAINING_ONLY:
        (tmp_path / name).unlink()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < bytes_before
    slim = PIPELINE.load(tmp_path, device="cpu")
    image, _ = picture(99)
    specs = (RUST, MOSS)
    assert same(slim.propose(image, specs=specs), whole.propose(image, specs=specs))
    corrected = [*SAMPLES, Clicked().sample(7)]
    after_slim = fit(encoder_weights, corrected, method=METHOD, warm_start=slim)
    after_whole = fit(encoder_weights, corrected, method=METHOD, warm_start=whole)
    assert same(after_slim.propose(image, specs=(RUST,)), after_whole.propose(image, specs=(RUST,)))
