"""Chapter 08: a model that computes nothing, and the arrivals it is played with."""

from __future__ import annotations

from radix_lib.scheduler import Scheduler
from radix_lib.token_time import Arrival, TokenTime, play


def test_requests_that_come_at_one_time_come_in_the_order_given():
    arrivals = [Arrival(5, [i, i], 1) for i in (3, 1, 2)]
    arrivals.append(Arrival(0, [4, 4], 1))
    requests = play(Scheduler(TokenTime(n_pages=8, page_size=2)), arrivals)
    assert [request.prompt[0] for request in requests] == [4, 3, 1, 2]
    assert [request.number for request in requests] == [0, 1, 2, 3]
