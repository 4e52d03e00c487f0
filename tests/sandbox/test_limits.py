"""The portal's limits, scaled down so that a test can wait for them."""

import time

from b24sync.sandbox import Sandbox, SandboxConfig
from tests.sandbox.asking import Asker

ADD = "crm.deal.add?fields[TITLE]=x"
TASK = "tasks.task.add?fields[TITLE]=x&fields[RESPONSIBLE_ID]=1"


def test_requests_above_the_threshold_are_refused_before_they_run(ask: Asker) -> None:
    """A full bucket answers 503 QUERY_LIMIT_EXCEEDED and nothing is executed."""
    with Sandbox(SandboxConfig(bucket_x=2, bucket_y=0.001)) as sandbox:
        for _ in range(2):
            ask.batch(sandbox, {"a": ADD})

        response = ask(sandbox, "batch", {"cmd": {"a": ADD}})

        assert response.status_code == 503
        assert response.json()["error"] == "QUERY_LIMIT_EXCEEDED"
        assert "Retry-After" not in response.headers
        assert len(sandbox.records("deal")) == 2


def test_the_bucket_leaks(ask: Asker) -> None:
    """After a refusal, requests pass again once enough has leaked away."""
    with Sandbox(SandboxConfig(bucket_x=1, bucket_y=2)) as sandbox:
        ask(sandbox, "profile")
        refused = ask(sandbox, "profile").status_code

        deadline = time.monotonic() + 5
        while (status := ask(sandbox, "profile").status_code) == 503:
            assert time.monotonic() < deadline

        assert (refused, status) == (503, 200)


def test_refused_requests_can_fill_the_bucket_too(ask: Asker) -> None:
    """Whether a refusal counts is a switch: then hammering never gets through."""
    config = SandboxConfig(bucket_x=1, bucket_y=0.001, refusals_fill_bucket=True)
    with Sandbox(config) as sandbox:
        statuses = [ask(sandbox, "profile").status_code for _ in range(4)]

        assert statuses == [200, 503, 503, 503]


def test_a_method_that_used_its_time_is_refused_alone(ask: Asker) -> None:
    """The call that crosses the limit completes; the next fails, other methods go on."""
    config = SandboxConfig(operating_limit_s=480, method_costs={"crm.deal.add": 300.0})
    with Sandbox(config) as sandbox:
        sections = ask.batch(sandbox, {"a": ADD, "b": ADD, "c": ADD, "d": TASK})
        alone = ask(sandbox, "crm.deal.add", {"fields": {}})

        assert list(sections["result"]) == ["a", "b", "d"]
        assert sections["result_error"] == {
            "c": {
                "error": "OPERATION_TIME_LIMIT",
                "error_description": "Method is blocked due to operation time limit.",
            }
        }
        assert (alone.status_code, alone.json()["error"]) == (429, "OPERATION_TIME_LIMIT")


def test_used_time_is_told_by_method(ask: Asker) -> None:
    """result_time sums up what the method used; the request itself used nothing."""
    config = SandboxConfig(method_costs={"crm.deal.add": 10.0})
    with Sandbox(config) as sandbox:
        answer = ask(sandbox, "batch", {"cmd": {"a": ADD, "b": ADD, "c": TASK}}).json()

        times = answer["result"]["result_time"]
        assert [round(times[key]["operating"]) for key in "abc"] == [10, 20, 0]
        assert round(times["b"]["duration"]) == 10
        assert answer["time"]["operating"] == 0
        assert 590 <= times["b"]["operating_reset_at"] - time.time() <= 601


def test_a_blocked_method_stops_a_batch_with_halt(ask: Asker) -> None:
    """The refusal counts as a failure."""
    config = SandboxConfig(operating_limit_s=1, method_costs={"crm.deal.add": 5.0})
    with Sandbox(config) as sandbox:
        sections = ask.batch(sandbox, {"a": ADD, "b": ADD, "c": TASK}, halt=1)

        assert list(sections["result"]) == ["a"]
        assert list(sections["result_error"]) == ["b"]


def test_used_time_is_forgotten_when_its_basket_drops_out(ask: Asker) -> None:
    """In a window of a second and a half the method is free again soon."""
    config = SandboxConfig(
        operating_limit_s=1, operating_window_s=1.5, method_costs={"crm.deal.add": 5.0}
    )
    with Sandbox(config) as sandbox:
        first = [ask(sandbox, "crm.deal.add", {"fields": []}).status_code for _ in range(2)]

        deadline = time.monotonic() + 5
        while (status := ask(sandbox, "crm.deal.add", {"fields": []}).status_code) == 429:
            assert time.monotonic() < deadline

        assert (first, status) == ([200, 429], 200)


def test_webhook_and_application_have_separate_budgets(ask: Asker) -> None:
    """A method blocked for the webhook is free for the application."""
    config = SandboxConfig(operating_limit_s=1, method_costs={"profile": 5.0})
    with Sandbox(config) as sandbox:
        ask(sandbox, "profile")
        by_webhook = ask(sandbox, "profile").status_code
        by_token = ask.session.get(f"{sandbox.url}/rest/profile?auth=sandbox-access-0", timeout=20)

        assert (by_webhook, by_token.status_code) == (429, 200)


def test_a_self_hosted_portal_charges_the_batch(ask: Asker) -> None:
    """With that switch different methods use up one budget."""
    config = SandboxConfig(
        operating_limit_s=8,
        operating_charged_to_batch=True,
        method_costs={"crm.deal.add": 5.0, "tasks.task.add": 5.0},
    )
    with Sandbox(config) as sandbox:
        sections = ask.batch(sandbox, {"a": ADD, "b": TASK, "c": "profile"})

        assert list(sections["result_error"]) == ["c"]


def test_an_overlong_request_is_cut_and_its_prefix_stays(ask: Asker) -> None:
    """Commands that fit are committed; the answer is a 504 page."""
    config = SandboxConfig(request_limit_s=60, method_costs={"crm.deal.add": 25.0})
    with Sandbox(config) as sandbox:
        response = ask(sandbox, "batch", {"cmd": {"a": ADD, "b": ADD, "c": ADD}})

        assert response.status_code == 504
        assert response.headers["Content-Type"].startswith("text/html")
        assert list(sandbox.records("deal")) == [1, 2]


def test_waited_time_counts_into_the_limit_too(ask: Asker) -> None:
    """With real delays the cut comes when the limit is reached."""
    config = SandboxConfig(request_limit_s=0.5, command_latency_s=0.2)
    with Sandbox(config) as sandbox:
        started = time.monotonic()
        response = ask(sandbox, "batch", {"cmd": {"a": ADD, "b": ADD, "c": ADD}})
        took = time.monotonic() - started

        assert response.status_code == 504
        assert took >= 0.45
        assert 1 <= len(sandbox.records("deal")) <= 2


def test_latency_delays_requests_side_by_side(ask: Asker) -> None:
    """A delayed request takes at least its latency."""
    with Sandbox(SandboxConfig(latency_s=0.2)) as sandbox:
        started = time.monotonic()
        ask(sandbox, "profile")

        assert time.monotonic() - started >= 0.2
