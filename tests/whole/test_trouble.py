"""The same files on a portal that rejects some rows, is busy, and refuses a method for time."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.whole.conftest import SetUp
from tests.whole.files import Entry, Fields, Loading, entries, last_lines, last_of_each, repeated
from tests.whole.readings import held, plan_of
from tests.whole.stage import Clock, Found, Stack, Stage

pytestmark = pytest.mark.timeout(300)

REJECTED = r"\bBank\b|Technology$"
CODE = "CRM_FIELD_ERROR_VALUE_NOT_VALID"
TEXT = "Поле «Название» заполнено неверно; 名称无效 🚫"
ILL_CODE = "INTERNAL_SERVER_ERROR"
ILL_TEXT = "Something went wrong"
BUSY_REQUESTS = 4
MAX_ATTEMPTS = 4
WINDOW_S = 4.0
LINES = {"sqlite": 1_000_000, "postgresql": 2_000, "mariadb": 2_000}
"""How much of the longer file goes through each database; the first takes all of it."""
TIME_LIMIT = "OPERATION_TIME_LIMIT"
REFUSED_METHOD = "crm.item.add"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What goes wrong, and for whom.

    Shape: ``ill`` says of an entity how often its update meets a fault of the server; four times
    is more than a row's patience.
    """

    every: list[Entry]
    companies: int
    ill: dict[str, int]

    @property
    def calm_requests(self) -> int:
        """The busy time begins about when the companies are through, as far as they get."""
        return self.companies // 50 + 1

    @property
    def welcome_companies(self) -> int:
        """How many of the companies the portal takes."""
        return sum(not is_rejected(entry) for entry in self.every[: self.companies])

    @property
    def lost(self) -> str:
        """The entity whose update is given up on."""
        return max(self.ill, key=lambda entity: self.ill[entity])

    @property
    def faults(self) -> list[Found]:
        """What the sandbox is told."""
        ill = [
            {
                "action": "command",
                "method": "crm.item.update",
                "field": "title",
                "matches": f"^{re.escape(self._title(entity))}$",
                "code": ILL_CODE,
                "text": ILL_TEXT,
                "times": times,
            }
            for entity, times in self.ill.items()
        ]
        rejection = {"action": "command", "field": "title", "matches": REJECTED, "times": None}
        busy = {
            "action": "error",
            "code": "QUERY_LIMIT_EXCEEDED",
            "text": "Too many requests",
            "skip": self.calm_requests,
            "times": BUSY_REQUESTS,
        }
        return [*ill, rejection | {"code": CODE, "text": TEXT}, busy]

    def arrived(self) -> dict[str, Fields]:
        """What the portal is to hold in spite of it all."""
        kept = [entry for entry in self.every if not is_rejected(entry)]
        first = next(entry for entry in kept if entry.entity == self.lost)
        return last_of_each(kept) | {self.lost: first.shown}

    def dead(self) -> Counter[tuple[str, str, str, str, int]]:
        """The dead letters that are to be: entity, code, complaint, reason, attempts."""
        rejected = Counter(
            (entry.entity, CODE, f"{CODE}: {TEXT}", "invalid", 1)
            for entry in self.every
            if is_rejected(entry)
        )
        rejected[self.lost, ILL_CODE, f"{ILL_CODE}: {ILL_TEXT}", "exhausted", MAX_ATTEMPTS] += 1
        return rejected

    def _title(self, entity: str) -> str:
        return str(last_of_each(self.every)[entity]["title"])


def is_rejected(entry: Entry) -> bool:
    """Whether the portal has words against this line."""
    return re.search(REJECTED, entry.shown["title"]) is not None


def plot_of(companies: list[Entry], universities: list[Entry]) -> Plot:
    """Trouble for these lines; the ill ones share their title with nobody and are not rejected."""
    every = [*companies, *universities]
    titles = Counter(entry.shown["title"] for entry in every)
    fit = {e.entity for e in every if titles[e.shown["title"]] == 2 and not is_rejected(e)}
    lost, once, two_times = [entity for entity in repeated(every) if entity in fit][:3]
    ill = {lost: MAX_ATTEMPTS, once: 1, two_times: 2}
    return Plot(every=every, companies=len(companies), ill=ill)


def test_a_portal_in_trouble_gets_everything_that_it_does_not_reject(
    set_up: SetUp, files: tuple[Loading, ...], stack: Stack, tmp_path: Path
) -> None:
    """Rejected rows rest as dead letters, the others arrive, and only judgements cost attempts."""
    clock = Clock(f"trouble, {stack.backend}")
    companies, universities = files[0], last_lines(files[1], LINES[stack.backend], tmp_path)
    plot = plot_of(entries(companies), entries(universities))
    stage = set_up(
        {"B24SYNC_RETRY_BASE_S": "0.2", "B24SYNC_MAX_ATTEMPTS": str(MAX_ATTEMPTS)},
        # Half of the companies that are not rejected use up what is granted to their method.
        method_costs={REFUSED_METHOD: 4.0 / plot.welcome_companies},
        operating_limit_s=2.0,
        operating_window_s=WINDOW_S,
    )
    stage.prepare()
    stage.trouble(plot.faults)

    for loading in (companies, universities):
        stage.command("load", *loading.options)
    # Each line is judged by itself here; what goes as one is shown elsewhere.
    stage.write("UPDATE b24sync_outbox SET mergeable = false")
    clock.lap("loading", len(plot.every))
    stage.work(*stack.workers, pool=stack.pool)
    stage.wait_empty(within_s=90)
    clock.lap("working", len(plot.every))
    stage.stop()
    clock.lap("stopping")

    assert held(stage) == plot.arrived()
    assert dead_letters(stage) == plot.dead()
    assert_every_row_ended_once(stage, plot)
    assert_the_portal_was_busy(stage, plot)
    assert_only_judgements_cost_attempts(stage)
    assert_every_delivery_is_accounted_for(stage)
    assert_the_method_was_left_alone(stage)
    clock.lap("comparing")


def dead_letters(stage: Stage) -> Counter[tuple[str, str, str, str, int]]:
    """The dead letters as the command shows them, each as the plot names it."""
    shown = stage.command("dead", "--json", "--limit", "100000").splitlines()
    letters = [json.loads(line) for line in shown]
    return Counter(
        (
            f"{letter['kind']}:{letter['key']}",
            letter["error_code"],
            letter["last_error"],
            letter["reason"],
            letter["attempts"],
        )
        for letter in letters
    )


def entity_of(row: Found) -> str:
    """The entity of a row of any table, as its marker names it."""
    return f"{row['kind']}:{row['entity_key']}"


def assert_every_row_ended_once(stage: Stage, plot: Plot) -> None:
    """No row is lost, and none ends twice: applied and failed together are all lines."""
    results = stage.rows("SELECT outbox_id, outcome, error_code, error_text FROM b24sync_result")
    final = [result for result in results if result["outcome"] in {"applied", "failed"}]
    failed = [(r["error_code"], r["error_text"]) for r in final if r["outcome"] == "failed"]
    rejected = sum(is_rejected(entry) for entry in plot.every)

    assert len(final) == len({result["outbox_id"] for result in final}) == len(plot.every)
    assert Counter(failed) == {(CODE, TEXT): rejected, (ILL_CODE, ILL_TEXT): 1}
    assert Counter(result["outcome"] for result in results) == {
        "applied": len(plot.every) - rejected - 1,
        "failed": rejected + 1,
        # One and two times for those that arrive, and all but the last for the one that does not.
        "retried": 1 + 2 + MAX_ATTEMPTS - 1,
    }


def assert_the_portal_was_busy(stage: Stage, plot: Plot) -> None:
    """The refusals stand in one row among the requests, and nothing else was refused as a whole."""
    calm = plot.calm_requests
    answers = [(r["status"], r["code"]) for r in stage.portal("requests")]

    refused = answers[calm : calm + BUSY_REQUESTS]
    assert refused == [(503, "QUERY_LIMIT_EXCEEDED")] * BUSY_REQUESTS
    assert set(answers[:calm] + answers[calm + BUSY_REQUESTS :]) == {(200, "")}


def assert_only_judgements_cost_attempts(stage: Stage) -> None:
    """What was charged to an entity's rows is what the portal judged of it, refusals for time not."""
    by_id = {
        record["id"]: record["originId"] for record in stage.portal("records/company").values()
    }
    judged = Counter(
        command["params"]["fields"].get("originId") or by_id[int(command["params"]["id"])]
        for command in stage.portal("journal")
        if command["code"] != TIME_LIMIT
    )
    charged: Counter[str] = Counter()
    for result in stage.rows("SELECT * FROM b24sync_result WHERE outcome <> 'retried'"):
        charged[entity_of(result)] += result["attempt"]

    assert charged == judged


def assert_every_delivery_is_accounted_for(stage: Stage) -> None:
    """Each delivery was judged, refused for time, or turned away with its whole request."""
    commands = stage.portal("journal")
    received = stage.portal("requests")
    turned_away = sum(r["commands"] for r in received if r["status"] == 503)
    batches = stage.rows("SELECT n_commands, plan, state FROM b24sync_batch")
    deliveries = deliveries_of(batches)

    assert {batch["state"] for batch in batches} == {"answered"}
    assert sum(deliveries.values()) == len(commands) + turned_away
    assert sum(deliveries.values()) == sum(request["commands"] for request in received)
    for letter in stage.rows("SELECT outbox_id, attempts, deliveries FROM b24sync_dead"):
        assert letter["deliveries"] == deliveries[letter["outbox_id"]] >= letter["attempts"]


def deliveries_of(batches: Sequence[Found]) -> Counter[int]:
    """How often each row was put into a batch, by the plans of the batches."""
    return Counter(
        row_id
        for batch in batches
        for planned in plan_of(batch).values()
        for row_id in planned["rows"]
    )


def assert_the_method_was_left_alone(stage: Stage) -> None:
    """A method refused for time is not called until its time is over; the others are."""
    commands = stage.portal("journal")
    first = next(c for c in commands if c["method"] == REFUSED_METHOD)
    refused = next(c for c in commands if c["code"] == TIME_LIMIT)
    later = [c for c in commands if c["request"] > refused["request"]]
    again = next(c for c in later if c["method"] == REFUSED_METHOD)
    between = [c for c in later if c["request"] < again["request"]]

    assert {c["method"] for c in commands if c["code"] == TIME_LIMIT} == {REFUSED_METHOD}
    # The portal names the end in whole seconds, cut.
    assert again["at"] >= first["at"] + WINDOW_S - 1.0
    assert "crm.item.import" in {c["method"] for c in between if c["ok"]}
