"""One thread, a bounded line, and jobs that end when nobody waits."""

import asyncio
import threading

import pytest

from psa_paddle.web.worker import Full, Left, Worker


@pytest.fixture
def worker():
    worker = Worker("test", 2)
    yield worker
    worker.close()


def until(event):
    """Work that goes on, and reports, until it may end."""

    def work(job):
        while not event.wait(0.005):
            job.report("decode", 1, 9)
        return "done"

    return work


def test_jobs_are_done_in_order_by_one_thread(worker):
    threads = set()

    def work(job):
        threads.add(threading.current_thread().name)
        return len(threads)

    jobs = [worker.submit(work) for _ in range(3)]
    assert [job.result() for job in jobs] == [1, 1, 1] and threads == {"test_0"}


def test_the_line_is_bounded_and_moves_on(worker):
    end = threading.Event()
    jobs = [worker.submit(until(end)) for _ in range(3)]
    assert [job.ahead for job in jobs] == [0, 1, 2]
    with pytest.raises(Full):
        worker.submit(until(end))
    jobs[1].leave()
    assert [job.ahead for job in jobs] == [0, 0, 1]
    fourth = worker.submit(until(end))
    end.set()
    assert jobs[2].result() == fourth.result() == "done"
    with pytest.raises(Left):
        jobs[1].result()


def test_a_job_that_was_left_ends_at_its_next_report(worker):
    running = worker.submit(until(threading.Event()))
    while not running.stage:
        pass
    running.leave()
    with pytest.raises(Left):
        running.result()
    assert worker.submit(lambda job: 1).result() == 1


def test_an_error_is_the_jobs_own(worker):
    failed = worker.submit(lambda job: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failed.result()
    assert worker.submit(lambda job: 2).result() == 2


def test_following_ends_with_the_job_and_shows_what_changes(worker):
    end, seen = threading.Event(), []

    async def follow():
        job = worker.submit(until(end))
        async for _ in job.follow():
            seen.append(job.stage)
            if seen[-1] == "decode":
                end.set()
        return job.result()

    assert asyncio.run(follow()) == "done" and seen[-1] == "decode"


def test_a_follower_that_goes_away_takes_the_job_with_it(worker):
    async def follow():
        job = worker.submit(until(threading.Event()))
        news = job.follow()
        await anext(news)
        await news.aclose()
        return job

    with pytest.raises(Left):
        asyncio.run(follow()).result()


def test_there_is_a_sign_of_life_where_nothing_changes(worker, monkeypatch):
    monkeypatch.setattr("psa_paddle.web.worker.BEAT", 0.05)
    monkeypatch.setattr("psa_paddle.web.worker.TICK", 0.01)
    end, beats = threading.Event(), []

    async def follow():
        async for _ in worker.submit(lambda job: end.wait()).follow():
            beats.append(1)
            if len(beats) == 4:
                end.set()

    asyncio.run(follow())
    assert len(beats) >= 4


def test_close_stops_what_runs_and_forgets_what_waits():
    worker = Worker("test", 2)
    jobs = [worker.submit(until(threading.Event())) for _ in range(3)]
    worker.close()
    for job in jobs:
        with pytest.raises(Left):
            job.result()
