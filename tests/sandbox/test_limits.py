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


def test_a_method_that_is_refused_takes_no_time(ask: Asker) -> None:
    """The portal looks before it begins."""
    config = SandboxConfig(operating_limit_s=4, method_costs={"crm.deal.add": 5.0})
    with Sandbox(config) as sandbox:
        answer = ask(sandbox, "batch", {"cmd": {"a": ADD, "b": ADD}}).json()

        assert round(answer["time"]["duration"]) == 5


def test_costs_are_drawn_between_their_bounds_and_alike_for_a_seed(ask: Asker) -> None:
    """Two portals of one seed take the same times."""
    told: list[list[float]] = []
    for _ in range(2):
        config = SandboxConfig(method_costs={"crm.deal.add": (1.0, 3.0)}, seed=7)
        with Sandbox(config) as sandbox:
            times = ask.batch(sandbox, {"a": ADD, "b": ADD})["result_time"]
            told.append([round(times[key]["duration"], 1) for key in "ab"])

    assert told[0] == told[1]
    assert told[0][0] != told[0][1]
    assert all(1 <= duration <= 3.1 for duration in told[0])


def test_costs_may_be_waited_for(ask: Asker) -> None:
    """Then they cut a request when its time has really passed."""
    config = SandboxConfig(
        request_limit_s=0.3, method_costs={"crm.deal.add": 0.2}, costs_are_waited=True
    )
    with Sandbox(config) as sandbox:
        started = time.monotonic()
        response = ask(sandbox, "batch", {"cmd": {"a": ADD, "b": ADD}})

        assert response.status_code == 504
        assert time.monotonic() - started >= 0.29
        assert list(sandbox.records("deal")) == [1]


def test_a_portal_in_a_hurry_tells_times_as_short_as_they_are(ask: Asker) -> None:
    """A hundred times as fast, its window is six seconds, and its end is told with fractions."""
    config = SandboxConfig(
        operating_limit_s=480, method_costs={"crm.deal.add": 300.0, "crm.lead.add": (1.0, 2.0)}
    ).faster(100)
    with Sandbox(config) as sandbox:
        sections = ask.batch(sandbox, {"a": ADD, "b": ADD, "c": ADD})

        first = sections["result_time"]["a"]
        assert list(sections["result_error"]) == ["c"]
        assert round(first["duration"], 1) == 3.0
        assert 5 <= first["operating_reset_at"] - time.time() <= 6.1
        assert config.bucket_y == 200


def test_a_batch_that_is_charged_as_a_whole_tells_one_number(ask: Asker) -> None:
    """Every command carries what the batch has used."""
    config = SandboxConfig(
        operating_charged_to_batch=True, method_costs={"crm.deal.add": 5.0, "tasks.task.add": 2.0}
    )
    with Sandbox(config) as sandbox:
        answer = ask(sandbox, "batch", {"cmd": {"a": ADD, "b": TASK}}).json()

        times = answer["result"]["result_time"]
        assert [round(times[key]["operating"]) for key in "ab"] == [7, 7]
        assert round(answer["time"]["operating"]) == 7


def test_costs_and_used_time_are_steered_and_read_from_outside(ask: Asker) -> None:
    """Until the portal is reset; what is no cost is refused."""
    with Sandbox(SandboxConfig(method_costs={"profile": 1.0})) as sandbox:
        control = f"{sandbox.url}/sandbox"
        changed = ask.session.post(
            f"{control}/costs", json={"CRM.deal.add": 5, "crm.lead.add": [1, 2]}, timeout=20
        )
        ask(sandbox, "crm.deal.add", {"fields": {}})
        costs = ask.session.get(f"{control}/costs", timeout=20).json()
        used = ask.session.get(f"{control}/operating", timeout=20).json()
        refused = ask.session.post(f"{control}/costs", json={"profile": -1}, timeout=20)
        ask.session.post(f"{control}/reset", json=None, timeout=20)
        after = ask.session.get(f"{control}/costs", timeout=20).json()

        assert (changed.status_code, refused.status_code) == (200, 400)
        assert costs == {"costs": {"profile": 1.0, "crm.deal.add": 5.0, "crm.lead.add": [1.0, 2.0]}}
        assert round(used["operating"]["webhook"]["crm.deal.add"]) == 5
        assert after == {"costs": {"profile": 1.0}}
