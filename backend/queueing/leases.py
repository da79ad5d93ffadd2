"""The right to be alone at something: short, and renewed by a thread while its holder lives."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from backend.errors import QueueError

RENEWALS = 4  # in the time after which a lease ends that nobody renews


class Lease:
    """What `Queues.lock` gives to its holder.

    renew: makes the lease last `ttl_s` from now; False when another may have it already, and
    QueueError when nobody can say.
    taken: who holds the lease does not give way: this is called, by the renewing thread, when
    another has taken it, and renewing goes on, as the other one ends some day. None: a lease that
    another may have had is lost for good.
    """

    def __init__(
        self,
        name: str,
        ttl_s: float,
        renew: Callable[[], bool],
        taken: Callable[[], None] | None = None,
    ) -> None:
        self._name = name
        self._ttl_s = ttl_s
        self._renew = renew
        self._taken = taken
        self._is_taken = False
        self._lost = threading.Event()
        self._ends_at = time.monotonic() + ttl_s

    def check(self) -> None:
        """Return while the lease is held; raises QueueError when another may have it."""
        if self._lost.is_set() or time.monotonic() >= self._ends_at:
            raise QueueError(
                f"the lease of {self._name!r} was lost, as this process or Redis hung for "
                f"{self._ttl_s:g} s; it is tried again later"
            )

    @contextlib.contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the lease while the block runs."""
        ended = threading.Event()
        thread = threading.Thread(target=self._keep, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _keep(self, ended: threading.Event) -> None:
        while not self._lost.is_set() and not ended.wait(self._ttl_s / RENEWALS):
            asked_at = time.monotonic()
            with contextlib.suppress(QueueError):  # Redis may come back before the lease ends
                if self._renew():
                    self._ends_at, self._is_taken = asked_at + self._ttl_s, False
                elif self._taken is None:
                    self._lost.set()
                elif not self._is_taken:
                    self._is_taken = True
                    self._taken()
