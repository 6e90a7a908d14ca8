"""Conversations are bounded in number, and put away when nobody uses them."""

import threading

import numpy as np
import pytest
from PIL import Image

from psa_paddle.utils.media import Clip
from psa_paddle.web.conversations import Conversation, Conversations, TooMany
from psa_paddle.web.limits import Limits
from psa_paddle.web.uploads import Medium
from psa_paddle.web.worker import Full, Left, Worker

PICTURE = Medium("a.jpg", Image.new("RGB", (28, 28)))
VIDEO = Medium("a.mp4", Clip(np.zeros((2, 28, 28, 3), np.uint8), 1.0))


@pytest.fixture
def busy():
    """Makes a conversation that something is worked on for."""
    worker = Worker("test", 9)

    def make(conversation):
        conversation.job = worker.submit(lambda job: [job.report("decode", 1, 2) for _ in iter(int, 1)])
        return conversation

    yield make
    worker.close()


def test_one_video_or_some_pictures():
    pictures, video = Conversation(), Conversation()
    for _ in range(3):
        pictures.show(PICTURE, 3)
    video.show(VIDEO, 3)
    for conversation, medium in ((pictures, PICTURE), (pictures, VIDEO), (video, VIDEO), (video, PICTURE)):
        with pytest.raises(TooMany):
            conversation.show(medium, 3)
    pictures.answered()
    assert (len(pictures.seen), pictures.waiting) == (3, []) and len(video.shown) == 1
    with pytest.raises(TooMany):
        pictures.show(PICTURE, 3)


def test_starting_anew_shows_the_same():
    conversation = Conversation(history=[{}])
    conversation.show(PICTURE, 4)
    conversation.answered()
    again = conversation.again()
    assert again.waiting == [PICTURE] and not again.seen and not again.history and again.key != conversation.key


def test_the_one_that_was_idle_longest_goes():
    kept = Conversations(Limits(conversations=2))
    first, second = kept.of("a"), kept.of("b")
    assert kept.find("a") is first is kept.of("a")
    kept.of("c")
    assert kept.find("b") is None and kept.find("a") is first and len(kept) == 2
    assert kept.of("b") is not second and kept.find("c") is None


def test_those_that_are_worked_on_stay(busy):
    kept = Conversations(Limits(conversations=2))
    busy(kept.of("a")), busy(kept.of("b"))
    with pytest.raises(Full):
        kept.of("c")
    kept.drop("a")
    kept.of("c")


def test_caches_are_fewer_than_conversations(busy):
    kept = Conversations(Limits(conversations=9, caches=2))
    for name in "abc":
        kept.of(name)
    for name in "ab":
        kept.make_room(kept.find(name))
        kept.find(name).session = object()
    kept.make_room(kept.find("b"))  # it has one
    assert len(kept) == 3
    kept.make_room(kept.find("c"))
    assert kept.find("a") is None and kept.find("b") is not None
    kept.find("c").session = object()
    busy(kept.find("b")), busy(kept.find("c"))
    with pytest.raises(Full):
        kept.make_room(kept.of("d"))


def test_what_is_shown_is_bounded_together(busy):
    kept, size = Conversations(Limits(media_bytes=3 * PICTURE.bytes)), PICTURE.bytes
    assert size == 28 * 28 * 3 and VIDEO.bytes == 2 * size
    for name in "abc":
        kept.make_place(kept.of(name), Medium(name, PICTURE.shown))
        kept.of(name).show(Medium(name, PICTURE.shown), 4)
    kept.of("d")
    kept.make_place(kept.of("c"), VIDEO)
    assert [name for name in "abcd" if kept.find(name)] == ["c", "d"]
    again = kept.put("e", kept.of("c").again())  # the same picture, once
    busy(kept.of("c"))
    kept.make_place(again, VIDEO)
    with pytest.raises(Full):
        kept.make_place(again, Medium("large", Image.new("RGB", (56, 56))))


def test_what_one_shows_is_not_put_away_for_more_of_it():
    kept = Conversations(Limits(media_bytes=2 * PICTURE.bytes))
    first, _ = kept.of("a"), kept.of("b")
    first.show(PICTURE, 4)
    with pytest.raises(Full):
        kept.make_place(first, VIDEO)
    assert kept.find("a") is first and kept.find("b") is not None


def test_a_visitor_who_leaves_ends_what_is_worked_on(busy):
    kept = Conversations(Limits())
    job = busy(kept.of("a")).job
    kept.drop("a")
    kept.drop("a")
    with pytest.raises(Left):
        job.result()
    other = busy(kept.of("b")).job
    kept.put("b", Conversation())
    with pytest.raises(Left):
        other.result()


def test_idle_ones_are_put_away(busy):
    kept = Conversations(Limits(idle_seconds=10))
    old, working = kept.of("old"), busy(kept.of("working"))
    kept.of("new")
    old.used = working.used = old.used - 11
    kept.sweep()
    assert kept.find("old") is None and kept.find("working") is working and len(kept) == 2
    kept.close()
    assert len(kept) == 0 and working.job.left


def test_limits_let_something_through():
    with pytest.raises(ValueError, match="video seconds must be at least 1"):
        Limits(video_seconds=0)
    assert (Limits().upload_bytes, Limits().stored_bytes, Limits().media_bytes) == (200 << 20, 1 << 30, 1 << 30)
    assert Limits(waiting=0).waiting == 0 and Limits(upload_bytes=5 << 30).stored_bytes == 5 << 30


def test_visitors_come_from_several_threads():
    kept, errors = Conversations(Limits(conversations=3)), []

    def come(name):
        try:
            for i in range(200):
                kept.of(f"{name}{i % 5}")
                kept.sweep()
                kept.drop(f"{name}{i % 3}")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=come, args=name) for name in "abcd"]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors and len(kept) <= 3
