"""Observations on their way to the guardian: a bounded queue in which each sender has its turn."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from typing import NamedTuple

from quell import metrics
from quell.model.observation import Observation


class Item(NamedTuple):
    observation: Observation
    #: The detector whose word it is, such as sensor.
    origin: str
    #: It has waited for what is not known of its workload, and waits no more.
    is_late: bool = False


class Observations:
    """lost: how many were dropped, by the node that they were about."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queues: OrderedDict[str, deque[Item]] = OrderedDict()
        self._count = 0
        self.lost: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._count

    def put(self, sender: str, items: Iterable[Item]) -> None:
        """sender: who loses its oldest when there are too many and most of them are its own."""
        queue = self._queues.get(sender)
        if queue is None:
            queue = self._queues[sender] = deque()
        before = len(queue)
        queue.extend(items)
        self._count += len(queue) - before
        if not queue:
            del self._queues[sender]
        while self._count > self._limit:
            longest = max(self._queues.values(), key=len)
            # One sender's flood is dropped in one go.
            others = self._count - len(longest)
            for _ in range(max(1, min(len(longest) - others, self._count - self._limit))):
                self._drop(longest.popleft())

    def pop(self) -> Item:
        """The oldest of the sender whose turn it is. KeyError: there is none."""
        sender, queue = self._queues.popitem(last=False)
        item = queue.popleft()
        self._count -= 1
        if queue:
            self._queues[sender] = queue
        return item

    def _drop(self, item: Item) -> None:
        self._count -= 1
        metrics.observations_lost("controller", 1)
        self.lost[item.observation.subject.node or ""] += 1
