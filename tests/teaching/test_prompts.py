"""The texts that the chapters run on: complete, and shared as they should be."""

from __future__ import annotations

from itertools import pairwise

import pytest

from radix_lib.texts import few_shot_prompts, workload

NAMES = ["support_desk", "few_shot", "tutoring", "agent", "documents"]


def _beginning(a: str, b: str) -> str:
    """What two texts share at the front."""
    n = next(
        (n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
        min(len(a), len(b)),
    )
    return a[:n]


@pytest.mark.parametrize("name", NAMES)
def test_a_workload_is_several_different_requests(name: str):
    requests = workload(name)
    assert len(requests) >= 4
    assert len(set(requests)) == len(requests)
    assert all(
        request == request.strip() and "  " not in request for request in requests
    )


@pytest.mark.parametrize("name", ["tutoring", "agent"])
def test_a_dialogue_grows_each_request_holds_the_one_before(name: str):
    requests = workload(name)
    for before, after in pairwise(requests):
        assert after.startswith(before + "\n\n")


@pytest.mark.parametrize("name", ["support_desk", "few_shot"])
def test_the_requests_share_a_beginning_that_is_most_of_them(name: str):
    requests = workload(name)
    shared = min(len(_beginning(a, b)) for a, b in pairwise(requests))
    assert shared > 0.8 * max(map(len, requests))


def test_the_last_request_has_the_documents_in_the_other_order():
    *asked, turned = workload("documents")
    for request in asked:
        assert request.index("Document: Contract") < request.index("Document: Rules")
    assert turned.index("Document: Rules") < turned.index("Document: Contract")
    assert _beginning(asked[0], turned).endswith("\n\nDocument: ")


def test_the_few_shot_set_is_one_of_the_workloads():
    assert workload("few_shot") == few_shot_prompts(4)


@pytest.mark.parametrize("n", [0, 5])
def test_more_few_shot_prompts_than_there_are_is_refused(n: int):
    with pytest.raises(ValueError, match=f"1 to 4 requests, not {n}"):
        few_shot_prompts(n)


def test_an_unknown_workload_is_refused_by_name():
    with pytest.raises(
        ValueError, match=r"no workload 'chat'.*few_shot.*agent, documents"
    ):
        workload("chat")
