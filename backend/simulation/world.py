"""A labelled folder as a world to be replayed: trained, ranked and judged as the service does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import numpy as np

import strategies.base
from backend.errors import LabelclimbError
from backend.loop import edit_time, ranking
from backend.loop.ordering import pooling
from backend.loop.ranking import Known
from backend.records import Task, TaskEvidence
from backend.simulation import labels
from backend.simulation.costs import Cost
from backend.simulation.labels import PROJECT, Shown, Taught
from backend.simulation.options import CONTROL, Contender
from backend.simulation.scenes import Scenes
from backend.steps.proposing.propose import task_evidence
from models import metrics
from models.base import ClassSpec, Fitted, Mask, Pipeline, Profile, Sample
from models.learning.training import TrainingDiverged
from models.masks.correction import TOLERANCE_PX, correction
from models.metrics import Matches
from strategies.base import Trial
from strategies.simulate import Done

Finished = Done[Taught]


@dataclass(frozen=True)
class Setting:
    """What all replays of a seed share; the same scenes and pipeline serve all seeds.

    held_out: samples that choose settings; test: tasks that are judged. seed: of trainings and
    orders.
    """

    scenes: Scenes
    pipeline: Pipeline
    spec: ClassSpec
    profile: Profile
    device: str
    cost: Cost
    held_out: tuple[Sample, ...]
    test: tuple[int, ...]
    seed: int


class Version:
    """A trained version, which looks at each task once; earlier: evidence of those before it."""

    def __init__(
        self,
        setting: Setting,
        number: int,
        fitted: Fitted,
        earlier: Sequence[Mapping[int, TaskEvidence]],
        trials: tuple[Trial, ...] = (),
    ) -> None:
        self.number, self.fitted, self.trials = number, fitted, trials
        self.earlier = tuple(earlier)
        self._setting = setting
        self._masks: dict[int, Any] = {}
        self._evidence: dict[int, TaskEvidence] = {}

    @property
    def evidence(self) -> Mapping[int, TaskEvidence]:
        """Return the evidence of all tasks that it has looked at."""
        return self._evidence

    def shown(self, task: int) -> Shown:
        """Return what is on screen when the task is opened."""
        shape = self._setting.scenes.truth(task).shape
        if task not in self._masks:
            mask, found = self._proposed(task)
            self._masks[task], self._evidence[task] = np.packbits(mask), found
        packed = np.unpackbits(self._masks[task], count=shape[0] * shape[1])
        return Shown(self.number, packed.reshape(shape).astype(bool), self._evidence[task])

    def mask(self, task: int) -> Mask:
        """Return the proposed mask of a task that nobody will open."""
        return self._proposed(task)[0]

    def _proposed(self, task: int) -> tuple[Mask, TaskEvidence]:
        proposal = self.fitted.propose(self._setting.scenes.image(task), specs=[self._setting.spec])
        record = Task(PROJECT, task, "")
        mask = np.zeros(self._setting.scenes.truth(task).shape, dtype=np.bool_)
        for one in proposal.proposals:
            mask |= one.mask
        return mask, task_evidence(proposal, record, self.number)


@dataclass
class FolderWorld:
    """One strategy on one seed; notes: what it had to be served by, and why."""

    setting: Setting
    contender: Contender
    notes: set[str] = field(default_factory=set)
    acting: str = ""

    def correct(self, state: Version | None, task: int) -> Finished:
        """Open the task, pay its seconds, and derive what it teaches."""
        setting = self.setting
        shown = None if state is None else state.shown(task)
        truth = setting.scenes.truth(task)
        seconds = setting.cost.seconds(shown, truth)
        final = labels.final_mask(shown, truth)
        sample = Sample(f"{task:06}", partial(setting.scenes.image, task), ())
        name = setting.spec.name
        return Done(task, seconds, labels.taught(task, name, shown, final, seconds, sample))

    def learn(self, before: Version | None, done: Sequence[Finished]) -> Version:
        """Train from the version before; raises LabelclimbError with the reason when it fails."""
        setting = self.setting
        samples = [*(one.label.sample for one in done), *setting.held_out]
        try:
            fitted = setting.pipeline.fit(
                samples,
                specs=[setting.spec],
                profile=setting.profile,
                seed=setting.seed,
                device=setting.device,
                report=lambda _: None,
                warm_start=None if before is None else before.fitted,
            )
        except (ValueError, TrainingDiverged) as error:
            raise LabelclimbError(f"the training on {len(done)} tasks failed: {error}") from error
        if before is None:
            return Version(setting, 1, fitted, ())
        earlier = [before.evidence, *before.earlier][: pooling.MEMBERS - 1]
        after = Version(setting, before.number + 1, fitted, earlier, before.trials)
        after.trials = (*before.trials, *self._trial(before, after, done))
        return after

    def rank(
        self, state: Version, waiting: Sequence[int], done: Sequence[Finished]
    ) -> Sequence[int]:
        """Order the waiting tasks by `loop.ranking`, with what the service would know."""
        evidence: Mapping[int, TaskEvidence] = {}
        if self.contender.strategy != CONTROL:  # which looks at nothing
            evidence = {task: state.shown(task).evidence for task in waiting}
        known = Known(
            past=edit_time.winsorised([i for one in done for i in one.label.interactions]),
            past_evidence=[e for one in done if (e := one.label.evidence) is not None],
            committee=state.earlier,
            finished=len(done),
            trials=state.trials,
        )
        ranked = ranking.rank(
            waiting,
            evidence,
            known,
            strategy=self.contender.strategy,
            seed=self.setting.seed,
            options=self.contender.options,
        )
        if ranked.note and evidence:
            self.notes.add(ranked.note)
        self.acting = ranked.strategy
        return ranked.order

    def judge(self, state: Version) -> float:
        """Return the F-measure of all test images together, with TOLERANCE_PX."""
        setting = self.setting
        found = (
            metrics.matches(state.mask(task), setting.scenes.truth(task), TOLERANCE_PX)
            for task in setting.test
        )
        return reduce(lambda sum_, one: sum_ + one, found, Matches()).f_measure

    def _trial(
        self, before: Version, after: Version, done: Sequence[Finished]
    ) -> tuple[Trial, ...]:
        """Return what the acting strategy was worth, for one that chooses among others."""
        chooses = hasattr(strategies.base.get(self.contender.strategy), "acting")
        if not chooses or not self.setting.held_out:
            return ()
        shown = [(one.label.evidence, one.seconds) for one in done]
        own = [s for e, s in shown if e is not None and e.number == before.number]
        gain = self._held_out_cost_s(before) - self._held_out_cost_s(after)
        return (Trial(self.acting, gain, sum(own) / 60),)

    def _held_out_cost_s(self, version: Version) -> float:
        """Return the mean predicted correction of the held-out masks, as the gate judges."""
        name, spec = self.setting.spec.name, self.setting.spec
        costs = []
        for sample in self.setting.held_out:
            proposal = version.fitted.propose(sample.load(), specs=[spec]).proposals
            truth = sample.masks[name]()
            mask = proposal[0].mask if proposal else np.zeros_like(truth)
            costs.append(correction(mask, truth).cost_s)
        return float(np.mean(costs))


def held_out(
    scenes: Scenes, tasks: Sequence[int], class_name: str, seconds: Callable[[Mask], float]
) -> tuple[Sample, ...]:
    """Return the samples that choose settings: finished by hand, never learnt from."""
    found = []
    for task in tasks:
        truth = scenes.truth(task)
        sample = Sample(f"{task:06}", partial(scenes.image, task), (), held_out=True)
        found.append(labels.taught(task, class_name, None, truth, seconds(truth), sample).sample)
    return tuple(found)
