"""Sharing commits: small requests that come while one is being committed go into the next together.

A commit costs as much for one event as for a hundred. Nothing waits for company: a request that
finds no commit under way makes its own at once, and every answer still follows its own durable
commit. The threads of a process share; each process has its own queue.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from django.conf import settings
from django.db import Error, connection
from django.utils import timezone

from billing import steps
from usage.ingestion import accept
from usage.reports import Outcome, Refusal, ReportedEvent

GROUP_EVENTS = 500
"""So many events go into one shared commit: more would make all of them wait for the last."""


@dataclass(eq=False, slots=True)
class _Request:
    """One request's events, and what its thread is told when it is woken."""

    source_id: int
    reports: Sequence[ReportedEvent | Refusal]
    outcomes: list[Outcome] | None = None
    leads: bool = False
    """Woken to make the next commit, and not because it is in one."""
    woken: threading.Event = field(default_factory=threading.Event)


class CommitSharing:
    """The requests of a process that wait for a commit, and whether one is being made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[_Request] = deque()
        self._is_committing = False

    def store(self, *, source_id: int, reports: Sequence[ReportedEvent | Refusal]) -> list[Outcome]:
        """Store a request's events durably, with those of others where that is cheaper.

        What fails for a group is tried again for each of it alone, so that nobody is refused for
        a neighbour's sake; a repetition of what a lost connection left open is a duplicate.

        Raises:
            django.db.Error: nothing of the request is known to be stored.
        """
        request = _Request(source_id, reports)
        if len(reports) > settings.USAGE_SHARED_COMMIT_EVENTS:
            return _store([request])[0]
        with self._lock:
            request.leads = not self._is_committing
            if request.leads:
                self._is_committing = True
            else:
                self._waiting.append(request)
        if not request.leads:
            request.woken.wait()
        if request.leads:
            self._commit_next(request)
        return _store([request])[0] if request.outcomes is None else request.outcomes

    def _commit_next(self, leader: _Request) -> None:
        """Commit the leader's events with those that wait, and hand the lead on."""
        group = [leader]
        with self._lock:
            count = len(leader.reports)
            while self._waiting and count + len(self._waiting[0].reports) <= GROUP_EVENTS:
                group.append(self._waiting.popleft())
                count += len(group[-1].reports)
        try:
            # Only when all is committed: before, nothing is true of any of them.
            for request, outcomes in zip(group, _store(group), strict=True):
                request.outcomes = outcomes
        except Error:
            # Each is tried alone, in its own thread; one that is alone already has failed.
            if len(group) == 1:
                raise
            connection.close_if_unusable_or_obsolete()
        finally:
            # Whatever happened here, nobody is left asleep.
            with self._lock:
                following = self._waiting.popleft() if self._waiting else None
                self._is_committing = following is not None
            for request in group[1:]:
                request.woken.set()
            if following is not None:
                following.leads = True
                following.woken.set()


def _store(requests: Sequence[_Request]) -> list[list[Outcome]]:
    """Store the events of all these requests in one commit; return each one's outcomes."""
    # By source, in one order everywhere, so that two groups with the same events cannot deadlock.
    by_source: dict[int, list[int]] = {}
    for index in sorted(range(len(requests)), key=lambda index: requests[index].source_id):
        by_source.setdefault(requests[index].source_id, []).append(index)
    told: dict[int, list[Outcome]] = {}
    with steps.commit("usage.ingestion.store", durable=True):
        now = timezone.now()
        for source_id, indexes in by_source.items():
            reports = [report for index in indexes for report in requests[index].reports]
            outcomes = iter(accept(source_id=source_id, reports=reports, now=now))
            for index in indexes:
                told[index] = list(islice(outcomes, len(requests[index].reports)))
    return [told[index] for index in range(len(requests))]


commits = CommitSharing()
"""This process's."""
