import pytest

from keras_alexnet.serving.client.connection import CallFailed, Retries


class Clock:
    """Time passes by sleeping, and by each try."""

    def __init__(self, try_seconds=0.0):
        self.now = 100.0
        self.slept = []
        self.left = []
        self.try_seconds = try_seconds

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def attempt(self, *failures):
        remaining = list(failures)

        def attempt(seconds):
            self.left.append(seconds)
            self.now += self.try_seconds
            if remaining:
                raise remaining.pop(0)
            return "answer"

        return attempt

    def rule(self, random=1.0, **options):
        return Retries(sleep=self.sleep, clock=lambda: self.now, random=lambda: random, **options)


def transient(count=1, **options):
    return [CallFailed("busy", is_transient=True, **options) for _ in range(count)]


def test_delays_double_up_to_the_largest():
    clock = Clock()
    rule = clock.rule(limit=7, deadline=1000)
    assert rule.run(clock.attempt(*transient(7))) == ("answer", 7)
    assert clock.slept == [0.5, 1, 2, 4, 8, 10, 10]


def test_half_of_a_delay_is_chance():
    clock = Clock()
    clock.rule(random=0.0, limit=2).run(clock.attempt(*transient(2)))
    assert clock.slept == [0.25, 0.5]
    slept = []
    for _ in range(20):
        Retries(sleep=slept.append).run(Clock().attempt(*transient()))
    assert len(set(slept)) > 1
    assert 0.25 <= min(slept) <= max(slept) <= 0.5


def test_the_limit():
    clock = Clock(try_seconds=1)
    with pytest.raises(CallFailed, match=r"busy \(3 tries in 4\.5 s\)"):
        clock.rule(limit=2).run(clock.attempt(*transient(3)))
    assert clock.slept == [0.5, 1]
    with pytest.raises(CallFailed, match=r"^busy$"):
        clock.rule(limit=0).run(clock.attempt(*transient(1)))


def test_what_will_not_do_better_is_not_tried_again():
    clock = Clock()
    with pytest.raises(CallFailed, match=r"^wrong$"):
        clock.rule().run(clock.attempt(CallFailed("wrong")))
    assert clock.slept == []


def test_tries_and_waiting_share_the_deadline():
    clock = Clock(try_seconds=3)
    with pytest.raises(CallFailed, match=r"3 tries in 10\.5 s"):
        clock.rule(limit=9, deadline=12).run(clock.attempt(*transient(9)))
    assert clock.left == [12, 8.5, 4.5]  # then a wait of 2 s would be beyond it


def test_the_servers_own_delay():
    clock = Clock()
    clock.rule().run(clock.attempt(*transient(retry_after=7.0)))
    assert clock.slept == [7]
    with pytest.raises(CallFailed, match=r"^busy$"):
        clock.rule(deadline=5).run(clock.attempt(*transient(retry_after=7.0)))


def test_a_sleep_that_is_broken_off():
    rule = Retries(sleep=lambda seconds: True)
    with pytest.raises(CallFailed, match="busy"):
        rule.run(Clock().attempt(*transient()))
