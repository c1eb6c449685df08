"""Ids are UUIDs of version 7, each made once, in rising order."""

import threading
import uuid

import pytest
from meterkeeper_client import ids
from meterkeeper_client.ids import Ids

pytestmark = pytest.mark.unit

MILLIS = 1_795_000_000_123


def test_an_id_is_a_uuid_of_version_7_that_begins_with_the_time():
    made = Ids().make(MILLIS)

    read = uuid.UUID(made)
    assert str(read) == made
    assert (read.version, read.variant) == (7, uuid.RFC_4122)
    assert read.int >> 80 == MILLIS


def test_ids_rise_while_the_clock_stands_and_when_it_goes_back():
    clock = [MILLIS] * 5_000 + [MILLIS + 1] * 10 + [MILLIS - 60_000] * 5_000
    maker = Ids()

    made = [maker.make(millis) for millis in clock]

    assert sorted(set(made)) == made
    assert {uuid.UUID(each).version for each in made} == {7}


def test_two_makers_do_not_meet_in_a_millisecond():
    made = [Ids().make(MILLIS) for _ in range(1_000)]

    assert len(set(made)) == 1_000


def test_threads_share_a_maker():
    maker = Ids()
    made = [[] for _ in range(8)]

    def work(mine):
        mine.extend(maker.make(MILLIS) for _ in range(2_000))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({each for mine in made for each in mine}) == 16_000
    assert all(mine == sorted(mine) for mine in made)


def test_an_id_is_made_also_while_another_is_in_the_middle():
    maker = Ids()
    maker._lock.acquire()

    made = maker.make(MILLIS)

    assert uuid.UUID(made).version == 7
    assert maker.make(MILLIS) > made


def test_the_last_random_bit_pattern_still_leaves_room_to_count():
    largest = (1 << ids.COUNTED_BITS - ids.SPARE_BITS) - 1

    value = uuid.UUID(ids._text(MILLIS, largest + 1))

    assert (value.version, value.variant, value.int >> 80) == (7, uuid.RFC_4122, MILLIS)
