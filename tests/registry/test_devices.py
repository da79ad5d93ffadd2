"""A version that was trained on a GPU loads on a machine that has none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from backend.processes.residents import Residents
from backend.registry.folders import Folders
from models.base import ClassSpec
from models.masks.settings import default_settings
from models.pipelines.advcam import AdvCamFitted, ClassModel, Geometry
from tests.models.small_network import small_network

SPEC = ClassSpec("crack")


@pytest.mark.parametrize("bf16", [False, True])
def test_a_version_saved_on_cuda_serves_on_the_cpu(tmp_path: Path, bf16: bool) -> None:
    model = ClassModel("crack", small_network(), default_settings(SPEC))
    trained = AdvCamFitted(Geometry("resnet18", (8, 8), 24, 64, bf16), [model], {}, "cpu")
    folders = Folders(tmp_path)
    folder = folders.save(1, 1, trained.save, {"device": "cuda"})
    assert folders.metadata(1, 1) == {"device": "cuda"}
    written = [path for path in folder.iterdir() if path.name != "metadata.json"]
    names = {path.suffix for path in written}
    assert names == {".json", ".safetensors"}, "neither knows of devices"
    for path in written:
        if path.suffix == ".json":
            assert "cuda" not in json.dumps(json.loads(path.read_text()))
    fitted = Residents(folders, device="cpu").get(1, 1, "advcam")
    assert isinstance(fitted, AdvCamFitted)
    devices = {
        value.device.type
        for network in fitted._resident.values()
        for value in (*network.parameters(), *network.buffers())
    }
    assert devices == {"cpu"}
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    ours, theirs = (f.propose(image, specs=[SPEC]).proposals[0] for f in (fitted, trained))
    assert np.array_equal(ours.mask, theirs.mask) and ours.score == theirs.score
