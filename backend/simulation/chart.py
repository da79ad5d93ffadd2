"""Learning curves as a PNG: a panel per strategy, each with random order beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend.simulation.options import CONTROL

COLUMNS = 3
PANEL_INCHES = (3.3, 2.5)
DPI = 80
COLOUR, CONTROL_COLOUR = "#d9480f", "#868e96"


def draw(result: Mapping[str, Any], file: Path) -> None:
    """Write the curves: lines are means over seeds, bands reach from the lowest to the highest."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    entries = result["strategies"]
    control = next(one for one in entries if one["strategy"] == CONTROL)
    others = [one for one in entries if one is not control] or [control]
    columns = min(COLUMNS, len(others))
    rows = -(-len(others) // columns)
    size = PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows + 0.5
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for panel, entry in zip(panels.flat, others, strict=False):
        _line(panel, control, CONTROL_COLOUR)
        if entry is not control:
            _line(panel, entry, COLOUR)
        panel.set_title(f"{entry['strategy']}\n{entry.get('verdict', '')}", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.25)
    for place, panel in enumerate(panels.flat):
        panel.tick_params(labelbottom=place + columns >= len(others))  # none of ours is below
        if place >= len(others):
            panel.set_axis_off()
    figure.supxlabel("human minutes (simulated)", fontsize=8)
    figure.supylabel(result["axis"], fontsize=8)
    figure.suptitle(result["title"], fontsize=9)
    figure.savefig(file, format="png", metadata={"Software": ""})


def _line(panel: Any, entry: Mapping[str, Any], colour: str) -> None:
    found = entry["curve"]
    minutes = [second / 60 for second in found["seconds"]]
    panel.fill_between(minutes, found["least"], found["most"], color=colour, alpha=0.2, linewidth=0)
    panel.plot(minutes, found["mean"], color=colour, linewidth=1.5, label=entry["strategy"])
    panel.legend(fontsize=6, loc="lower right", frameon=False)
