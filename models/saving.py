"""Networks and settings of a version in a folder: safetensors for the one, JSON for the other."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS_FILE, SETTINGS_FILE = "weights.safetensors", "version.json"
PIXELS_FILE = "pixels.safetensors"
TRAINING_ONLY = (PIXELS_FILE,)  # names of files without which a version still proposes


def write(
    folder: Path, about: Mapping[str, Any], networks: Sequence[nn.Module], names: Sequence[str]
) -> None:
    """Write networks, called `names` in messages, and JSON about them into an empty folder.

    about: JSON-able without NaN, with "pipeline" and "format". Raises ValueError, before anything
    is written, for weights that are not finite.
    """
    text = json.dumps(about, allow_nan=False, indent=1)
    weights: dict[str, Tensor] = {}
    for index, (network, name) in enumerate(zip(networks, names, strict=True)):
        for key, value in network.state_dict().items():
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{key} of {name!r} is not finite; train again")
            weights[f"{index}.{key}"] = value.contiguous()
    save_file(weights, folder / WEIGHTS_FILE)
    (folder / SETTINGS_FILE).write_text(text, encoding="utf-8")


def read(folder: Path, pipeline: str, formats: Collection[int]) -> dict[str, Any]:
    """Read what was written about a version; raises ValueError for another pipeline or format."""
    about: dict[str, Any] = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    if about.get("pipeline") != pipeline or about.get("format") not in formats:
        known = " or ".join(map(str, sorted(formats)))
        raise ValueError(
            f"{folder} holds {about.get('pipeline')!r} format {about.get('format')!r}, not "
            f"{pipeline!r} format {known}; load it with the release that wrote it"
        )
    return about


def read_weights(folder: Path) -> list[dict[str, Tensor]]:
    """Read the state of each network, in the order in which they were written."""
    networks: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(folder / WEIGHTS_FILE).items():
        index, _, name = key.partition(".")
        networks.setdefault(int(index), {})[name] = value
    return [networks[index] for index in sorted(networks)]
