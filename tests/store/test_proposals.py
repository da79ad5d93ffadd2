from __future__ import annotations

from backend.store import Store, proposals, publishing, schema, tasks
from tests.store.examples import evidence, region, task


def test_proposals_come_back_with_their_masks_and_evidence(store: Store) -> None:
    regions = [region(region_id=f"v1-10-{n}", rle=bytes([n])) for n in (1, 2, 10)]
    with store.transaction() as tx:
        assert proposals.save(tx, 7, 10, 1, regions, evidence())
        assert proposals.of_task(tx, 7, 10, 1) == regions
        assert proposals.evidence(tx, 7, 1) == {10: evidence()}
        assert proposals.tasks_done(tx, 7, 1) == {10}
        assert proposals.of_task(tx, 7, 10, 2) == []
        assert proposals.evidence(tx, 7, 2) == {}


def test_saving_twice_keeps_the_first(store: Store) -> None:
    other = region(region_id="v1-10-2", score=0.1)
    with store.transaction() as tx:
        proposals.save(tx, 7, 10, 1, [region()], evidence())
        assert not proposals.save(tx, 7, 10, 1, [other], evidence(embedding=(9.0,)))
        assert proposals.of_task(tx, 7, 10, 1) == [region()]
        assert proposals.evidence(tx, 7, 1) == {10: evidence()}


def test_a_task_with_nothing_proposed_is_done_too(store: Store) -> None:
    with store.transaction() as tx:
        proposals.save(tx, 7, 11, 1, [], evidence(task=11))
        assert proposals.tasks_done(tx, 7, 1) == {11}
        assert proposals.of_task(tx, 7, 11, 1) == []


def test_regions_are_found_by_their_ids_unknown_ones_left_out(store: Store) -> None:
    with store.transaction() as tx:
        proposals.save(tx, 7, 10, 1, [region()], evidence())
        asked = ["v1-10-1", "xYz", *(str(n) for n in range(1000))]
        assert proposals.by_region_ids(tx, asked) == {"v1-10-1": region()}
        assert proposals.by_region_ids(tx, []) == {}


def test_no_region_id_is_ever_given_twice_even_when_task_ids_are(store: Store) -> None:
    with store.transaction() as tx:
        tasks.upsert(tx, [task()])
        assert proposals.next_index(tx, 1, 10) == 1
        minted = [region(region_id=f"v1-10-{n}") for n in (1, 2, 11)]
        proposals.save(tx, 7, 10, 1, minted, evidence())
        assert proposals.next_index(tx, 1, 10) == 12
        assert proposals.next_index(tx, 2, 10) == 1
        tasks.upsert(tx, [task(image="/data/other.jpg")])
        assert proposals.next_index(tx, 1, 10) == 12
        again = region(region_id="v1-10-12")
        assert proposals.save(tx, 7, 10, 1, [again], evidence())
        assert proposals.of_task(tx, 7, 10, 1) == [again]
        tasks.delete(tx, 7, [10])
        assert proposals.next_index(tx, 1, 10) == 13


def test_only_what_is_asked_for_of_the_evidence_is_read(store: Store) -> None:
    with store.transaction() as tx:
        for task in (10, 11, 12):
            own = evidence(task=task)
            assert proposals.save(tx, 7, task, 1, [], own)
        found = proposals.evidence(tx, 7, 1, only=[10, 12, 99], embeddings=False)
        assert found == {task: evidence(task=task, embedding=()) for task in (10, 12)}
        assert proposals.evidence(tx, 7, 1, only=[]) == {}
        assert proposals.evidence(tx, 7, 1, only=[11]) == {11: evidence(task=11)}


def test_passes_come_back_byte_for_byte_and_older_rows_have_none(store: Store) -> None:
    drawn = bytes(range(0, 252, 21))  # (6, 2, 1)
    with store.transaction() as tx:
        proposals.save(tx, 7, 10, 1, [], evidence(passes=6, samples=drawn))
        proposals.save(tx, 7, 11, 1, [], evidence(task=11))
        keys = ("classes", "tile_probs", "stats", "embedding")
        old = {name: getattr(evidence(), name) for name in keys}  # as the first release wrote it
        one = schema.proposals.c.task == 11
        tx.execute(schema.proposals.update().where(one).values(evidence=old))
        found = proposals.evidence(tx, 7, 1)
        assert found[10] == evidence(passes=6, samples=drawn)
        assert (found[11].passes, found[11].samples) == (0, b"")
        assert proposals.evidence(tx, 7, 1, only=[10], samples=False) == {10: evidence()}


def test_regions_of_several_tasks_are_read_together(store: Store) -> None:
    with store.transaction() as tx:
        for task, count in ((10, 11), (11, 2), (12, 0)):
            own = [region(region_id=f"v1-{task}-{n + 1}", task=task) for n in range(count)]
            proposals.save(tx, 7, task, 1, own, evidence(task=task))
        found = proposals.of_tasks(tx, 7, [12, 10], 1)
        assert found == {12: [], 10: proposals.of_task(tx, 7, 10, 1)}
        assert [one.region_id for one in found[10]] == [f"v1-10-{n}" for n in range(1, 12)]


def test_any_number_of_tasks_is_claimed_and_none_twice(store: Store) -> None:
    wanted = {task: task / 70_000 for task in range(70_000)}
    with store.transaction() as tx:
        publishing.record(tx, 7, "v1", {5: 0.5})
        assert publishing.claim(tx, 7, "v1", {}) == {}
        claimed = publishing.claim(tx, 7, "v1", wanted)
        assert claimed == {task: wanted[task] for task in wanted if task != 5}
        assert publishing.of(tx, 7, "v1") == {**claimed, 5: 0.5}
        publishing.release(tx, 7, "v1", range(600))
        assert list(publishing.claim(tx, 7, "v1", {9: 0.5, 599: 0.5, 600: 0.5})) == [9, 599]


def test_published_priorities_are_kept_by_name(store: Store) -> None:
    with store.transaction() as tx:
        publishing.record(tx, 7, "v1", {10: 0.25, 11: 0.5})
        publishing.record(tx, 7, "v1", {11: 0.75})
        publishing.record(tx, 7, "v2", {10: 1.0})
        publishing.record(tx, 8, "v3", {10: 1.0})
        publishing.record(tx, 7, "v4", {})
        assert publishing.of(tx, 7, "v1") == {10: 0.25, 11: 0.75}
        assert publishing.names(tx, 7) == ["v1", "v2"]
        publishing.forget(tx, 7, "v1")
        assert publishing.of(tx, 7, "v1") == {}
        assert publishing.names(tx, 7) == ["v2"]
