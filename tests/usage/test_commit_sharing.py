"""Small requests share commits, and whatever befalls one of them befalls no other."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import DataError, OperationalError, connection
from django.utils import timezone

from billing.models import Source
from tests.usage.conftest import report
from usage import commit_sharing
from usage.commit_sharing import CommitSharing
from usage.models import IngestBatch, UsageEvent
from usage.reports import CONFLICT, Refusal, Stored

pytestmark = [
    pytest.mark.integration,
    pytest.mark.postgres,
    pytest.mark.django_db(transaction=True),
]

WAIT = 20


class Commits:
    """Requests of several threads; the first one's commit is held until `go_on`."""

    def __init__(self, monkeypatch):
        self.sharing = CommitSharing()
        self.sizes: list[list[int]] = []
        self._threads = ThreadPoolExecutor(8)
        self._is_first_under_way = threading.Event()
        self._go_on = threading.Event()
        self._accept = commit_sharing.accept
        self.fail = lambda _: None
        monkeypatch.setattr(commit_sharing, "accept", self._held)

    def _held(self, *, source_id, reports, now):
        if not self._is_first_under_way.is_set():
            self._is_first_under_way.set()
            assert self._go_on.wait(WAIT)
        self.sizes.append([source_id, len(reports)])
        self.fail(reports)
        return self._accept(source_id=source_id, reports=reports, now=now)

    def post(self, source, *reports):
        def run():
            try:
                return self.sharing.store(source_id=source.pk, reports=reports)
            finally:
                connection.close()

        return self._threads.submit(run)

    def hold(self, source):
        """Post one request that is being committed until `go_on`."""
        first = self.post(source, report("first", at=timezone.now()))
        assert self._is_first_under_way.wait(WAIT)
        return first

    def go_on(self, *, waiting):
        """Let the first commit end once so many wait behind it."""
        for _ in range(WAIT * 1_000):
            if len(self.sharing._waiting) == waiting:
                break
            threading.Event().wait(0.001)
        assert len(self.sharing._waiting) == waiting
        self._go_on.set()


@pytest.fixture
def commits(monkeypatch, meters):
    commits = Commits(monkeypatch)
    yield commits
    commits._go_on.set()
    commits._threads.shutdown()


@pytest.fixture
def other(db) -> Source:
    return Source.objects.create(name="other")


def test_requests_that_come_during_a_commit_share_the_next(commits, source, other):
    now = timezone.now()
    first = commits.hold(source)
    second = commits.post(source, report("a", at=now), report("b", at=now))
    third = commits.post(other, report("a", at=now))
    fourth = commits.post(source, report("c", at=now), Refusal("id", "is required"))
    commits.go_on(waiting=3)

    assert first.result(WAIT) == [Stored.ACCEPTED]
    assert second.result(WAIT) == [Stored.ACCEPTED, Stored.ACCEPTED]
    assert third.result(WAIT) == [Stored.ACCEPTED]
    assert fourth.result(WAIT) == [Stored.ACCEPTED, Refusal("id", "is required")]
    assert commits.sizes == [[source.pk, 1], [source.pk, 4], [other.pk, 1]]
    assert sorted(IngestBatch.objects.values_list("source_id", "event_count")) == [
        (source.pk, 1),
        (source.pk, 3),
        (other.pk, 1),
    ]


def test_one_event_in_two_requests_of_a_commit_is_stored_once(commits, source):
    now = timezone.now()
    commits.hold(source)
    asked = [commits.post(source, report("a", at=now, input_tokens=tokens)) for tokens in (1, 1, 2)]
    commits.go_on(waiting=3)

    outcomes = [each.result(WAIT)[0] for each in asked]
    # Which of them comes first is theirs to race for.
    assert outcomes.count(Stored.ACCEPTED) == 1
    assert Stored.DUPLICATE in outcomes or outcomes.count(CONFLICT) == 2
    assert UsageEvent.objects.filter(event_id="a").count() == 1


def test_what_fails_together_is_tried_alone_so_that_only_the_bad_one_fails(commits, source):
    """A value that only the database refuses sinks none of its neighbours."""

    def fail(reports):
        if any(each.event_id == "bad" for each in reports):
            raise DataError("a value PostgreSQL does not take")

    commits.fail = fail
    now = timezone.now()
    commits.hold(source)
    good = [commits.post(source, report(name, at=now)) for name in ("a", "b")]
    bad = commits.post(source, report("bad", at=now))
    commits.go_on(waiting=3)

    assert [each.result(WAIT) for each in good] == [[Stored.ACCEPTED]] * 2
    with pytest.raises(DataError):
        bad.result(WAIT)
    assert set(UsageEvent.objects.values_list("event_id", flat=True)) == {"first", "a", "b"}


def test_a_commit_that_fails_leaves_the_next_requests_to_be_stored(commits, source):
    def fail(_):
        raise OperationalError("the database is away")

    now = timezone.now()
    first = commits.hold(source)
    waiting = [commits.post(source, report(name, at=now)) for name in ("a", "b")]
    commits.fail = fail
    commits.go_on(waiting=2)
    for each in (first, *waiting):
        with pytest.raises(OperationalError):
            each.result(WAIT)
    assert not UsageEvent.objects.exists()

    commits.fail = lambda _: None
    again = commits.post(source, report("a", at=now))

    assert again.result(WAIT) == [Stored.ACCEPTED]


def test_a_writer_that_dies_strands_nobody(commits, source):
    class Killed(BaseException):
        pass

    def fail(reports):
        if len(reports) > 1:
            raise Killed

    commits.fail = fail
    now = timezone.now()
    commits.hold(source)
    waiting = [commits.post(source, report(name, at=now)) for name in ("a", "b", "c")]
    commits.go_on(waiting=3)

    ends = [each.exception(WAIT) for each in waiting]
    assert [type(end) for end in ends if end is not None] == [Killed]
    assert UsageEvent.objects.count() == 3
    assert commits.post(source, report("d", at=now)).result(WAIT) == [Stored.ACCEPTED]


def test_a_group_is_bounded_and_the_rest_follows(commits, source, monkeypatch):
    monkeypatch.setattr(commit_sharing, "GROUP_EVENTS", 3)
    now = timezone.now()
    commits.hold(source)
    waiting = [
        commits.post(source, report(f"{name}1", at=now), report(f"{name}2", at=now))
        for name in "abc"
    ]
    commits.go_on(waiting=3)

    assert [each.result(WAIT) for each in waiting] == [[Stored.ACCEPTED] * 2] * 3
    assert [size for _, size in commits.sizes] == [1, 2, 2, 2]


def test_a_large_request_and_every_one_when_sharing_is_off_has_its_own_commit(
    commits, source, settings
):
    settings.USAGE_SHARED_COMMIT_EVENTS = 1
    now = timezone.now()
    commits.hold(source)

    large = commits.post(source, report("a", at=now), report("b", at=now))

    assert large.result(WAIT) == [Stored.ACCEPTED] * 2
    settings.USAGE_SHARED_COMMIT_EVENTS = 0
    assert commits.post(source, report("c", at=now)).result(WAIT) == [Stored.ACCEPTED]
    commits.go_on(waiting=0)
