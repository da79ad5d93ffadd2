"""Payloads that a real Label Studio 1.23.2 sent, trimmed to the fields that matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "payloads"

CONFIG = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image">
    <Label value="crack"/><Label value="spalling"/><Label value="rust"/>
  </BrushLabels>
  <KeyPointLabels name="click" toName="image">
    <Label value="Crack"/>
    <Label value="flake" predicted_values="spalling"/>
    <Label value="nothing here" model_negative="true"/>
    <Label value="landmark"/>
  </KeyPointLabels>
  <RectangleLabels name="rect" toName="image"><Label value="rust"/></RectangleLabels>
  <PolygonLabels name="poly" toName="image"><Label value="crack"/></PolygonLabels>
</View>"""


def load(name: str) -> Any:
    """Return the body of a recorded call."""
    return json.loads((FOLDER / f"{name}.json").read_text())
