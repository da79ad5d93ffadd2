"""What a person sees of an evaluation: progress while it runs, a table at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import rich.progress
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.base import Progress, Report

T = TypeVar("T")

ROWS = (  # name in the JSON, what it says
    ("f1", "pixel F1, all pixels of all images together"),
    ("f1_2px", "the same with 2 px tolerance"),
    ("f1_per_image", "mean of the images' F1"),
    ("f1_2px_per_image", "the same with 2 px tolerance"),
    ("precision", "share of proposed pixels that are right"),
    ("recall", "share of true pixels that are proposed"),
    ("ods", "best mean F1 at one threshold"),
    ("ods_pooled", "best F1 of all pixels at one threshold"),
    ("ois", "mean of the images' best F1"),
    ("ap", "average precision, 255 thresholds"),
    ("auprc", "area under precision-recall, all levels"),
    ("region_f1", "F1 of 32 px patches (SCNet)"),
    ("instance_recall", "defects covered to at least a half"),
    ("time_saving_estimate", "estimate (ours): share of drawing time saved"),
    ("train_seconds", "training, wall clock"),
    ("seconds_per_image", "mean of one proposal"),
    ("peak_memory_mib", "largest memory of the process"),
)


class Bars:
    """The bars of one evaluation."""

    def __init__(self, progress: rich.progress.Progress) -> None:
        self._progress = progress

    def over(self, items: Sequence[T], what: str) -> Iterator[T]:
        """Yield the items under a bar."""
        return iter(self._progress.track(items, description=what))

    @contextmanager
    def training(self, what: str) -> Iterator[Report]:
        """Give a report for a training, shown as a bar."""
        bar = self._progress.add_task(what, total=1.0)

        def report(now: Progress) -> None:
            figures = [now.stage]
            if now.loss is not None:
                figures.append(f"loss {now.loss:.3f}")
            if now.f_measure is not None:
                figures.append(f"click F1 {now.f_measure:.2f}")
            shown = f"{what} ({', '.join(figures)})"
            self._progress.update(bar, completed=now.fraction, description=shown)

        yield report
        self._progress.update(bar, completed=1.0, description=what)


@contextmanager
def bars(console: Console) -> Iterator[Bars]:
    """Show bars until the block ends."""
    with rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeElapsedColumn(),
        console=console,
    ) as progress:
        yield Bars(progress)


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print the figures, the settings that were chosen, and what to be aware of."""
    images = result["images"]
    title = (
        f"{escape(', '.join(result['classes']))}: {images['train']} clicked images, "
        f"{images['validation']} to choose by, {images['test']} tested"
    )
    table = Table("figure", "value", "meaning", title=title)
    for name, meaning in ROWS:
        table.add_row(name, text_of(result[name]), meaning)
    console.print(table)
    for row in result["corrected"]:
        console.print(
            f"with {row['corrected_masks']} corrected masks: f1 {text_of(row['f1'])}, "
            f"f1_2px {text_of(row['f1_2px'])}, time saved (estimate) "
            f"{text_of(row['time_saving_estimate'])}"
        )
    console.print(f"settings: {escape(str(result['settings']))}")
    for warning in result["warnings"]:
        console.print(f"[yellow]note:[/yellow] {escape(warning)}")


def text_of(value: float | None) -> str:
    """Return a figure for the table."""
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
