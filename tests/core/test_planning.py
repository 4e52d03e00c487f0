"""Every row is sorted into one place, and what goes together or in a row is seen to do so."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.batching import compose
from b24sync.core.comparing import fingerprints
from b24sync.core.kinds import Kind, Method
from b24sync.core.model import (
    Asks,
    Closing,
    Command,
    Fault,
    FaultKind,
    Link,
    LinkState,
    Operation,
    Plan,
    Postponed,
    Question,
    Ref,
    Refusal,
    ResultOutcome,
    Row,
    Waiting,
)
from b24sync.core.planning import circle_of, needed_links, plan, spelled
from b24sync.core.policies import Orphans, Policy
from b24sync.core.surroundings import NO_FACTS, Facts, Surroundings

NOW_MS = 1_700_000_000_000
ACME = {"$ref": {"kind": "company", "key": "acme"}}

STOCK = Kind(
    name="stock",
    add=Method(name="stock.add", id_path=("id",)),
    update=Method(name="stock.update", id_param="fields.id", fixed={"mode": "strict"}),
    delete=Method(name="stock.delete", id_param="fields.id"),
    yes_no=("true", "false"),
)
READ_ONLY_SHELF = Kind(name="shelf", update=Method(name="shelf.update", id_param="id"))
MUTE = Kind(name="mute", add=Method(name="mute.add"))
RACK = Kind(
    name="rack",
    update=Method(name="rack.update"),
    list=Method(name="rack.list", fields_param="filter", id_path=("id",)),
    linked=False,
    replaces=True,
)
KINDS = {kind.name: kind for kind in (STOCK, READ_ONLY_SHELF, MUTE, RACK)}


def row(
    number: int,
    kind: str,
    operation: str,
    fields: object = None,
    params: object = None,
    *,
    key: str = "k-1",
) -> Row:
    """Make a row as it was read."""
    return Row(
        id=number,
        portal="default",
        lane=0,
        kind=kind,
        key=key,
        operation=Operation(operation),
        fields=fields,
        params=params,
    )


def ref(kind: str, key: str) -> dict[str, object]:
    """Write a reference as it is stored."""
    return {"$ref": {"kind": kind, "key": key}}


def link(kind: str, remote_id: str | None = "46", *, key: str = "k-1") -> Link:
    """Know the entity by this id."""
    return Link(kind=kind, key=key, remote_id=remote_id)


def known(
    *links: Link,
    policy: Policy | None = None,
    facts: Facts = NO_FACTS,
    blocked: Mapping[str, int] | None = None,
) -> Surroundings:
    """Know these links, under this policy of every kind."""
    return Surroundings(
        links={(link.kind, link.key): link for link in links},
        kinds=KINDS,
        policies={} if policy is None else {"*": policy},
        facts=facts,
        blocked=blocked or {},
        now_ms=NOW_MS,
    )


def sent(planned: Plan) -> list[tuple[int, ...]]:
    """Tell which rows are sent, and which of them together."""
    return [command.row_ids for command in planned.commands]


def test_a_cancelled_row_ends_unsent() -> None:
    """Even if it has expired as well or could not be said."""
    asked = replace(row(1, "contact", "update", []), cancel_requested=True, expires_at_ms=1)

    planned = plan([asked], known())

    assert planned == Plan(closing=(Closing(row_id=1, outcome=ResultOutcome.CANCELLED),))


@pytest.mark.parametrize(
    ("expires_at_ms", "expired"),
    [(NOW_MS - 1, True), (NOW_MS, True), (NOW_MS + 1, False), (None, False)],
)
def test_a_row_past_its_time_ends_unsent(expires_at_ms: int | None, *, expired: bool) -> None:
    """Its last moment is the one before the named one."""
    asked = replace(row(1, "contact", "add", {"name": "Ann"}), expires_at_ms=expires_at_ms)

    planned = plan([asked], known())

    assert [each.outcome for each in planned.closing] == (["expired"] if expired else [])
    assert len(planned.commands) == int(not expired)


@pytest.mark.parametrize(("until_ms", "rests"), [(NOW_MS + 1, True), (NOW_MS, False)])
def test_a_row_of_a_blocked_method_rests_until_the_block_ends(
    until_ms: int, *, rests: bool
) -> None:
    """Other methods of the same kind go on."""
    blocked = known(link("deal"), blocked={"crm.item.update": until_ms})

    planned = plan([row(1, "deal", "update", {"title": "A"}), row(2, "deal", "delete")], blocked)

    assert planned.postponed == ((Postponed(row_id=1, until_ms=until_ms),) if rests else ())
    assert sent(planned) == ([(2,)] if rests else [(1,), (2,)])


def test_a_row_that_cannot_be_said_is_refused_with_code_field_and_reason() -> None:
    """The reason is for people and says what to do."""
    planned = plan([row(1, "contact", "update", {"name": "Ann"})], known())

    assert planned == Plan(
        refusals=(
            Refusal(
                row_id=1,
                code="no_link",
                field="key",
                reason="contact 'k-1' is not known on the portal; write an add or an upsert first",
            ),
        )
    )


@pytest.mark.parametrize(("losses", "is_refused"), [(8, False), (9, True), (10, True)])
def test_a_row_whose_requests_were_lost_too_often_is_given_up(
    losses: int, *, is_refused: bool
) -> None:
    """What it says does not matter any more: nobody looks at it."""
    spent = replace(row(1, "contact", "add", {"name": "Ann"}), losses=losses)

    planned = plan([spent], known())

    codes = [(refusal.code, refusal.field) for refusal in planned.refusals]
    assert codes == ([("lost", "losses")] if is_refused else [])


def test_links_of_the_entities_and_of_their_references_are_needed() -> None:
    """Malformed parts ask for nothing; the plan refuses them."""
    rows = [
        row(1, "deal", "add", {"companyId": ACME}, {"x": [ref("contact", "c")]}),
        row(2, "lead", "add", {"companyId": {"$ref": 7}}, ["no", "object"]),
        row(3, "quote", "delete", key="q"),
    ]

    needed = needed_links(rows)

    assert needed == {
        ("deal", "k-1"),
        ("company", "acme"),
        ("contact", "c"),
        ("lead", "k-1"),
        ("quote", "q"),
    }


def test_a_row_nested_beyond_all_reason_is_refused() -> None:
    """Neither planning nor looking for references exhausts the stack."""
    asked = row(1, "contact", "add", {"x": _nested(ACME, 5000)})

    planned, needed = plan([asked], known()), needed_links([asked])

    assert [refused.code for refused in planned.refusals] == ["too_deep"]
    assert needed == {("contact", "k-1")}


def test_one_bad_row_does_not_hold_back_the_others() -> None:
    """Each row is sorted by itself, and commands keep the order of the rows."""
    rows = [
        row(5, "contact", "add", {"name": "A"}),
        row(3, "contact", "update", {"name": "B"}, key="unknown"),
        row(9, "deal", "add", {"companyId": ACME}),
        row(1, "contact", "add", {"name": "C"}, key="c"),
        replace(row(2, "contact", "delete"), cancel_requested=True),
    ]

    planned = plan(rows, known())

    assert sent(planned) == [(5,), (1,)]
    assert [each.row_id for each in planned.refusals] == [3]
    assert [each.row_id for each in planned.waiting] == [9]
    assert [each.row_id for each in planned.closing] == [2]


@pytest.mark.parametrize(
    "links",
    [
        pytest.param((), id="never heard of"),
        pytest.param((link("company", None, key="acme"),), id="deleted since"),
    ],
)
def test_a_row_waits_for_the_entity_that_it_refers_to(links: tuple[Link, ...]) -> None:
    """It is neither sent without the id nor refused."""
    planned = plan([row(1, "deal", "add", {"companyId": ACME})], known(*links))

    assert planned == Plan(waiting=(Waiting(row_id=1, target=Ref("company", "acme")),))


LOST = {("company", "acme"): "company acme, whose add failed (ACCESS_DENIED, row 7)"}


def test_a_row_whose_parent_is_lost_is_held_with_the_reason() -> None:
    """A person may bring the parent back."""
    around = replace(known(policy=Policy(orphans=Orphans.HOLD)), lost=LOST)

    planned = plan([row(1, "deal", "add", {"companyId": ACME})], around)

    assert planned == Plan(
        waiting=(
            Waiting(
                row_id=1,
                target=Ref("company", "acme"),
                reason="company acme, whose add failed (ACCESS_DENIED, row 7)",
            ),
        )
    )


def test_a_row_whose_parent_is_lost_is_given_up_if_its_policy_says_so() -> None:
    """Only for a parent that is lost, and not for one that is on its way."""
    around = replace(known(policy=Policy(orphans=Orphans.BURY)), lost=LOST)
    rows = [
        row(1, "deal", "add", {"companyId": ACME}),
        row(2, "deal", "add", {"companyId": ref("company", "later")}, key="k-2"),
    ]

    planned = plan(rows, around)

    assert planned == Plan(
        refusals=(
            Refusal(
                row_id=1,
                code="parent_failed",
                field="fields",
                reason="refers to company acme, whose add failed (ACCESS_DENIED, row 7)",
            ),
        ),
        waiting=(Waiting(row_id=2, target=Ref("company", "later")),),
    )


PHONES = row(1, "contact", "update", {"fm": {"PHONE": ["+1"]}})


def test_a_row_that_has_to_know_more_stands_aside_with_its_question() -> None:
    """Others go on; what is answered makes the command the next time."""
    other = row(2, "deal", "update", {"title": "A"})
    links = (link("contact"), link("deal"))
    question = Question(
        kind="contact",
        key="k-1",
        asks=Asks.RECORD,
        method="crm.item.get",
        query="entityTypeId=3&id=46",
    )

    before = plan([PHONES, other], known(*links))
    after = plan([PHONES], known(*links, facts=Facts(records={("contact", "k-1"): {}})))

    assert (before.questions, sent(before)) == ((question,), [(2,)])
    assert (after.questions, sent(after)) == ((), [(1,)])


@pytest.mark.parametrize(("until_ms", "rests"), [(NOW_MS + 1, True), (NOW_MS, False)])
def test_a_question_of_a_blocked_method_waits_like_a_command(until_ms: int, *, rests: bool) -> None:
    """To ask it would fail as surely."""
    planned = plan([PHONES], known(link("contact"), blocked={"crm.item.get": until_ms}))

    assert planned.postponed == ((Postponed(row_id=1, until_ms=until_ms),) if rests else ())
    assert len(planned.questions) == int(not rests)


def test_a_row_that_says_nothing_new_ends_unsent() -> None:
    """Whether the portal told so, or it was said before."""
    record = {"fm": [{"id": 7, "typeId": "PHONE", "valueType": "WORK", "value": "+1"}]}
    facts = Facts(records={("contact", "k-1"): record})
    said = replace(link("deal"), sent=fingerprints({"title": "A"}))
    around = known(link("contact"), said, facts=facts, policy=Policy(skip_unchanged=True))

    planned = plan([PHONES, row(2, "deal", "update", {"title": "A"})], around)

    assert planned == Plan(
        closing=(
            Closing(row_id=1, outcome=ResultOutcome.UNCHANGED),
            Closing(row_id=2, outcome=ResultOutcome.UNCHANGED),
        )
    )


def following(*rows: Row) -> dict[int, tuple[Row, ...]]:
    """Let later rows follow the first of them."""
    head, *behind = rows
    return {head.id: tuple(behind)}


RENAMING = (
    row(1, "deal", "update", {"title": "A", "stage": "X"}),
    row(2, "deal", "update", {"title": "B"}),
    row(3, "deal", "upsert", {"comments": "C"}),
)


def test_rows_that_go_together_are_one_command() -> None:
    """It has the label of the first row, which is the one whose result is the command's own."""
    planned = plan(RENAMING[:1], known(link("deal")), followers=following(*RENAMING))

    (only,) = planned.commands
    assert (only.row_ids, only.lead, only.label, only.leads) == ((1, 2, 3), None, "r1", 1)
    assert only.query == ("entityTypeId=2&id=46&fields[title]=B&fields[stage]=X&fields[comments]=C")


@pytest.mark.parametrize(
    "around",
    [
        pytest.param(known(link("deal"), policy=Policy(merge=False)), id="policy"),
        pytest.param(
            replace(known(link("deal")), cut={1: Ref("company", "acme")}), id="broken circle"
        ),
    ],
)
def test_rows_that_must_not_go_together_stay_apart(around: Surroundings) -> None:
    """The later ones have their turn afterwards."""
    planned = plan(RENAMING[:1], around, followers=following(*RENAMING))

    assert sent(planned) == [(1,)]


def test_rows_go_together_as_far_as_nothing_stands_between() -> None:
    """Behind a barrier everything waits, even what could go."""
    rows = (RENAMING[0], replace(RENAMING[1], mergeable=False), RENAMING[2])

    planned = plan(rows[:1], known(link("deal")), followers=following(*rows))

    assert sent(planned) == [(1,)]


@pytest.mark.parametrize(
    ("links", "together"),
    [
        pytest.param((link("company", "8", key="acme"),), (1, 2), id="known"),
        pytest.param((link("company", None, key="acme"),), (1,), id="deleted since"),
        pytest.param((), (1,), id="never heard of"),
    ],
)
def test_a_later_row_goes_along_only_with_the_ids_that_it_needs(
    links: tuple[Link, ...], together: tuple[int, ...]
) -> None:
    """The first one must not wait for what it does not refer to."""
    rows = (RENAMING[0], row(2, "deal", "update", {"companyId": ACME}))

    planned = plan(rows[:1], known(link("deal"), *links), followers=following(*rows))

    assert sent(planned) == [together]


def test_a_later_row_of_an_unknown_entity_goes_along_with_its_add() -> None:
    """The update becomes a part of the add."""
    rows = (row(1, "deal", "add", {"title": "A"}), row(2, "deal", "update", {"title": "B"}))

    planned = plan(rows[:1], known(), followers=following(*rows))

    (only,) = planned.commands
    assert (only.row_ids, only.operation, only.lead) == ((1, 2), Operation.ADD, None)
    assert "fields[title]=B&" in only.query


def test_a_delete_leads_the_rows_before_it() -> None:
    """It is what became of the entity; they went with it."""
    rows = (*RENAMING, row(4, "deal", "delete"))

    planned = plan(rows[:1], known(link("deal")), followers=following(*rows))

    (only,) = planned.commands
    assert (only.row_ids, only.lead, only.label, only.leads) == ((1, 2, 3, 4), 4, "r1", 4)
    assert (only.operation, only.query) == (Operation.DELETE, "entityTypeId=2&id=46")


def test_a_delete_by_itself_leads_itself() -> None:
    """Like every command of one row."""
    planned = plan([row(4, "deal", "delete")], known(link("deal")))

    (only,) = planned.commands
    assert (only.row_ids, only.leads) == ((4,), 4)


def test_what_is_made_and_deleted_unsent_ends_without_a_call() -> None:
    """The delete ends as unchanged, and the rows before it went with it."""
    rows = (
        row(1, "deal", "add", {"title": "A"}),
        row(2, "deal", "update", {"title": "B"}),
        row(3, "deal", "delete"),
    )

    planned = plan(rows[:1], known(), followers=following(*rows))

    assert planned == Plan(
        closing=(Closing(row_id=3, outcome=ResultOutcome.UNCHANGED, merged=(1, 2)),)
    )


@pytest.mark.parametrize("state", [LinkState.DOUBT, LinkState.CONFLICT])
@pytest.mark.parametrize("last", ["update", "delete"])
def test_rows_of_an_entity_whose_record_is_unclear_are_refused_one_by_one(
    last: str, state: LinkState
) -> None:
    """Even what would come to nothing: the record may be there."""
    rows = (
        row(1, "deal", "upsert", {"title": "A"}),
        row(2, "deal", last, {"title": "B"} if last == "update" else None),
    )
    unclear = replace(link("deal", None), state=state)

    planned = plan(rows[:1], known(unclear), followers=following(*rows))

    assert [(each.row_id, each.code) for each in planned.refusals] == [(1, "link_unclear")]
    assert planned == Plan(refusals=planned.refusals)


def test_rows_that_say_nothing_new_together_end_together() -> None:
    """What the later ones take back, nobody has to send."""
    rows = (
        row(1, "deal", "update", {"title": "B"}),
        row(2, "deal", "update", {"title": "A"}),
    )
    said = replace(link("deal"), sent=fingerprints({"title": "A"}))

    planned = plan(
        rows[:1], known(said, policy=Policy(skip_unchanged=True)), followers=following(*rows)
    )

    assert planned == Plan(
        closing=(Closing(row_id=1, outcome=ResultOutcome.UNCHANGED, merged=(2,)),)
    )


@pytest.mark.parametrize(
    ("first", "codes", "expected"),
    [
        pytest.param({"a": 1}, [], [(1,)], id="it can be said"),
        pytest.param({"a": "\0"}, ["bad_text"], [], id="it cannot"),
    ],
)
def test_what_cannot_be_said_together_is_judged_by_its_first_row(
    first: dict[str, object], codes: list[str], expected: list[tuple[int, ...]]
) -> None:
    """No row is refused for what another one says."""
    many = {f"f{number}": number for number in range(998)}
    rows = (row(1, "deal", "update", first), row(2, "deal", "update", many))

    planned = plan(rows[:1], known(link("deal")), followers=following(*rows))

    assert sent(planned) == expected
    assert [(each.row_id, each.code) for each in planned.refusals] == [(1, code) for code in codes]


def test_rows_that_go_together_wait_by_their_first_row() -> None:
    """The later ones stand behind it anyway."""
    rows = (row(1, "deal", "add", {"companyId": ACME}), row(2, "deal", "update", {"title": "B"}))
    blocked = known(link("company", "8", key="acme"), blocked={"crm.item.add": NOW_MS + 1})
    buried = replace(known(policy=Policy(orphans=Orphans.BURY)), lost=LOST)

    waits = plan(rows[:1], known(), followers=following(*rows))
    rests = plan(rows[:1], blocked, followers=following(*rows))
    ends = plan(rows[:1], buried, followers=following(*rows))

    assert waits == Plan(waiting=(Waiting(row_id=1, target=Ref("company", "acme")),))
    assert rests == Plan(postponed=(Postponed(row_id=1, until_ms=NOW_MS + 1),))
    assert [(each.row_id, each.code) for each in ends.refusals] == [(1, "parent_failed")]


def test_rows_that_go_together_ask_one_question() -> None:
    """For the values of them all."""
    rows = (PHONES, row(2, "contact", "update", {"fm": {"PHONE": ["+2"]}}))
    facts = Facts(records={("contact", "k-1"): {}})

    before = plan(rows[:1], known(link("contact")), followers=following(*rows))
    after = plan(rows[:1], known(link("contact"), facts=facts), followers=following(*rows))

    assert len(before.questions) == 1
    assert before == Plan(questions=before.questions)
    assert sent(after) == [(1, 2)]
    assert "[value]=+2" in unquote(after.commands[0].query)
    assert "[value]=+1" not in unquote(after.commands[0].query)


def test_a_cancelled_row_takes_no_other_with_it() -> None:
    """What stands behind it has its turn afterwards."""
    first = replace(RENAMING[0], cancel_requested=True)

    planned = plan([first], known(link("deal")), followers=following(first, *RENAMING[1:]))

    assert planned == Plan(closing=(Closing(row_id=1, outcome=ResultOutcome.CANCELLED),))


@pytest.mark.parametrize("last", ["upsert", "delete"])
@pytest.mark.parametrize("links", [(), (link("deal", None),)], ids=["new", "of the past"])
def test_an_unknown_key_is_looked_for_by_its_first_row(links: tuple[Link, ...], last: str) -> None:
    """A later row might name another record, or take back one that is there after all."""
    rows = (
        row(1, "deal", "upsert", {"code": "A"}),
        row(2, "deal", last, {"code": "B"} if last == "upsert" else None),
    )
    by_code = Policy(match="code")

    before = plan(rows[:1], known(*links, policy=by_code), followers=following(*rows))
    nothing = known(*links, policy=by_code, facts=Facts(matches={("deal", "k-1"): ()}))
    after = plan(rows[:1], nothing, followers=following(*rows))

    assert [dict(question.wanted) for question in before.questions] == [{"code": "A"}]
    assert before == Plan(questions=before.questions)
    if last == "upsert":
        assert sent(after) == [(1, 2)]
    else:
        assert after == Plan(
            closing=(Closing(row_id=2, outcome=ResultOutcome.UNCHANGED, merged=(1,)),)
        )


@pytest.mark.parametrize(
    ("first", "second", "links"),
    [
        pytest.param(
            row(1, "deal", "upsert", {"code": "A"}),
            row(2, "deal", "update", {"code": "B"}),
            (link("deal"),),
            id="known",
        ),
        pytest.param(
            row(1, "deal", "add", {"code": "A"}),
            row(2, "deal", "update", {"code": "B"}),
            (),
            id="an add",
        ),
        pytest.param(
            row(1, "rack", "update", {"code": "A"}),
            row(2, "rack", "update", {"code": "B"}),
            (),
            id="no ids",
        ),
        pytest.param(
            row(1, "stock", "upsert", {"code": "A"}),
            row(2, "stock", "upsert", {"code": "B"}),
            (),
            id="no list",
        ),
    ],
)
def test_where_nothing_is_looked_for_rows_go_together(
    first: Row, second: Row, links: tuple[Link, ...]
) -> None:
    """A policy of matching changes nothing there."""
    planned = plan(
        [first], known(*links, policy=Policy(match="code")), followers=following(first, second)
    )

    assert sent(planned) == [(1, 2)]


def test_an_unknown_kind_is_refused_whatever_follows() -> None:
    """By its first row."""
    rows = (row(1, "nothing", "upsert", {"a": 1}), row(2, "nothing", "upsert", {"a": 2}))

    planned = plan(rows[:1], known(policy=Policy(match="a")), followers=following(*rows))

    assert [(each.row_id, each.code) for each in planned.refusals] == [(1, "unknown_kind")]


DEAL_OF_ACME = row(1, "deal", "add", {"companyId": ACME}, key="d")
ADD_OF_ACME = row(2, "company", "add", {"title": "Acme"}, key="acme")


@pytest.mark.parametrize("rows", [(DEAL_OF_ACME, ADD_OF_ACME), (ADD_OF_ACME, DEAL_OF_ACME)])
def test_in_a_chain_what_is_referred_to_comes_first(rows: tuple[Row, ...]) -> None:
    """Whatever the order of the rows: the id is taken from the answer to the earlier command."""
    planned = plan(rows, known(), chained=True)

    maker, taker = planned.commands
    assert (maker.row_ids, maker.sources) == ((2,), ())
    assert (taker.row_ids, taker.sources) == ((1,), (2,))
    assert unquote(taker.query) == (
        "entityTypeId=2&fields[companyId]=$result[r2][item][id]"
        "&fields[originId]=deal:d&fields[originatorId]=b24sync"
    )


def test_without_chains_a_row_waits_for_the_add_beside_it() -> None:
    """Where a batch goes on after a failure, the reference would be sent as plain text."""
    planned = plan([ADD_OF_ACME, DEAL_OF_ACME], known())

    assert sent(planned) == [(2,)]
    assert planned.waiting == (Waiting(row_id=1, target=Ref("company", "acme")),)


def test_a_chain_is_as_long_as_its_references() -> None:
    """Each add comes before what refers to it, and everything else keeps its place."""
    rows = [
        row(1, "contact", "add", {"name": "Zoe"}, key="z"),
        row(2, "deal", "add", {"contactId": ref("contact", "a"), "companyId": ACME}, key="d"),
        row(3, "contact", "upsert", {"companyId": ACME}, key="a"),
        row(4, "company", "upsert", {"title": "Acme"}, key="acme"),
        row(5, "lead", "add", {"title": "L"}),
    ]

    planned = plan(rows, known(), chained=True)

    assert sent(planned) == [(1,), (4,), (3,), (2,), (5,)]
    assert [command.sources for command in planned.commands] == [(), (), (4,), (3, 4), ()]


def test_an_id_may_be_taken_from_a_command_that_was_planned_before() -> None:
    """A batch is planned in several parts."""
    (maker,) = plan([ADD_OF_ACME], known()).commands
    around = replace(known(), makers={("company", "acme"): maker})

    planned = plan([DEAL_OF_ACME], around, chained=True)

    assert [command.sources for command in planned.commands] == [(2,)]


def test_rows_that_went_together_make_an_entity_under_their_first() -> None:
    """That is the label of their command."""
    second = row(3, "company", "update", {"title": "Acme Ltd"}, key="acme")

    planned = plan(
        [DEAL_OF_ACME, ADD_OF_ACME],
        known(),
        followers=following(ADD_OF_ACME, second),
        chained=True,
    )

    assert sent(planned) == [(2, 3), (1,)]
    assert planned.commands[1].sources == (2,)


@pytest.mark.parametrize(
    ("parent", "around", "place"),
    [
        pytest.param(
            row(2, "company", "add", {"title": "\0"}, key="acme"), known(), "refusals", id="refused"
        ),
        pytest.param(
            row(2, "company", "add", {"x": ref("deal", "later")}, key="acme"),
            known(),
            "waiting",
            id="waiting",
        ),
        pytest.param(
            ADD_OF_ACME, known(blocked={"crm.item.add": NOW_MS + 1}), "postponed", id="postponed"
        ),
        pytest.param(
            replace(ADD_OF_ACME, cancel_requested=True), known(), "closing", id="cancelled"
        ),
        pytest.param(
            row(2, "company", "upsert", {"title": "A"}, key="acme"),
            known(policy=Policy(match="title")),
            "questions",
            id="asked about",
        ),
        pytest.param(
            row(2, "company", "add", {"title": "see $result[r1]"}, key="acme"),
            known(),
            "commands",
            id="sent by itself",
        ),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_a_row_waits_for_a_parent_that_is_not_in_the_batch(
    parent: Row, around: Surroundings, place: str, *, turned: bool
) -> None:
    """Whatever keeps the parent out, and whichever of them is met first."""
    child = row(1, "crm.deal", "add", {"COMPANY_ID": ACME}, key="d")
    rows = [child, parent]

    planned = plan(rows[::-1] if turned else rows, around, chained=True)

    assert Waiting(row_id=1, target=Ref("company", "acme")) in planned.waiting
    assert len(getattr(planned, place)) == 1 + (place == "waiting")
    assert 1 not in [command.row_ids[0] for command in planned.commands]


def test_what_tells_no_id_cannot_be_taken_from() -> None:
    """A method whose answer holds none."""
    rows = [row(2, "mute", "add", {"a": 1}), row(1, "deal", "add", {"x": ref("mute", "k-1")})]

    planned = plan(rows, known(), chained=True)

    assert sent(planned) == [(2,)]
    assert planned.waiting == (Waiting(row_id=1, target=Ref("mute", "k-1")),)


@pytest.mark.parametrize(
    ("count", "waits"),
    [
        pytest.param(1, [(1, 1)], id="itself"),
        pytest.param(2, [(2, 1), (1, 2)], id="each other"),
        pytest.param(3, [(3, 1), (2, 3), (1, 2)], id="three"),
    ],
)
def test_a_circle_in_a_chain_ends_waiting(count: int, waits: list[tuple[int, int]]) -> None:
    """For each other, so that the circle is seen; what is outside of it goes on."""
    circle = [
        row(number, "deal", "add", {"x": ref("deal", f"d-{number % count + 1}")}, key=f"d-{number}")
        for number in range(1, count + 1)
    ]
    behind = row(9, "lead", "add", {"x": ref("deal", "d-1")})

    planned = plan([*circle, behind, replace(ADD_OF_ACME, id=10)], known(), chained=True)

    assert sent(planned) == [(10,)]
    assert planned.waiting == (
        *(Waiting(row_id=number, target=Ref("deal", f"d-{other}")) for number, other in waits),
        Waiting(row_id=9, target=Ref("deal", "d-1")),
    )


def test_a_circle_that_is_broken_can_be_chained() -> None:
    """The first add goes without, and the second takes its id."""
    rows = [
        row(1, "deal", "add", {"title": "A", "x": ref("company", "acme")}, key="d"),
        row(2, "company", "add", {"title": "B", "y": ref("deal", "d")}, key="acme"),
    ]

    planned = plan(rows, replace(known(), cut={1: Ref("company", "acme")}), chained=True)

    assert [(each.row_ids, each.sources) for each in planned.commands] == [((1,), ()), ((2,), (1,))]
    assert planned.commands[0].remainder == {"x": ref("company", "acme")}


BAD = row(2, "contact", "update", {"name": "B"}, key="unknown")


def test_strict_looks_at_nothing_behind_a_refused_row() -> None:
    """Here the lane is to stop."""
    rows = [BAD, row(3, "contact", "add", {"name": "C"})]

    planned = plan(rows, known(), strict=True)

    assert [refused.row_id for refused in planned.refusals] == [2]
    assert (planned.commands, planned.is_cut) == ((), True)


def test_strict_sends_what_stands_before_a_refused_row_first() -> None:
    """The row is met again when it is the first, and refused then."""
    rows = [row(1, "contact", "add", {"name": "A"}), BAD, row(3, "contact", "add", {"name": "C"})]

    whole, alone = plan(rows, known(), strict=True), plan(rows[:2], known(), strict=True)

    for planned in (whole, alone):
        assert (sent(planned), planned.refusals, planned.is_cut) == ([(1,)], (), True)


def test_strict_leaves_what_has_ended_or_waits_before_a_refused_row() -> None:
    """Neither keeps the refusal from being told."""
    rows = [
        replace(row(1, "contact", "add", {"name": "A"}), cancel_requested=True),
        row(4, "deal", "add", {"companyId": ACME}),
        BAD,
    ]

    planned = plan(rows, known(), strict=True)

    assert [refused.row_id for refused in planned.refusals] == [2]
    assert [closing.row_id for closing in planned.closing] == [1]
    assert [waits.row_id for waits in planned.waiting] == [4]
    assert not planned.is_cut


def test_strict_changes_nothing_where_nothing_is_refused() -> None:
    """Nor does it cut anything."""
    rows = [row(1, "contact", "add", {"name": "A"}), row(3, "lead", "add", {"title": "C"})]

    planned = plan(rows, known(), strict=True)

    assert planned == plan(rows, known())
    assert not planned.is_cut


def test_strict_stops_at_a_row_whose_parent_is_refused() -> None:
    """The parent is what a person has to look at."""
    rows = [
        DEAL_OF_ACME,
        row(2, "company", "add", {"title": "\0"}, key="acme"),
        row(3, "lead", "add", {"a": 1}),
    ]

    planned = plan(rows, known(), chained=True, strict=True)

    assert [refused.row_id for refused in planned.refusals] == [2]
    assert [waits.row_id for waits in planned.waiting] == [1]
    assert (planned.commands, planned.is_cut) == ((), True)


A, B, C, D = (Ref("deal", key) for key in "abcd")


def waits_of(*pairs: tuple[Ref, Ref]) -> dict[tuple[str, str], Ref]:
    """Say who waits for whom."""
    return {(waiter.kind, waiter.key): target for waiter, target in pairs}


@pytest.mark.parametrize(
    ("waits", "circle"),
    [
        pytest.param(waits_of(), (), id="waits for nobody"),
        pytest.param(waits_of((A, A)), (A,), id="itself"),
        pytest.param(waits_of((A, B)), (), id="somebody who is on the way"),
        pytest.param(waits_of((A, B), (B, A)), (A, B), id="each other"),
        pytest.param(waits_of((A, B), (B, C), (C, A)), (A, B, C), id="three"),
        pytest.param(waits_of((A, B), (B, C), (C, B)), (), id="a circle further on"),
        pytest.param(waits_of((A, B), (B, B)), (), id="one who waits for itself"),
        pytest.param(waits_of((D, A), (A, B), (B, A)), (A, B), id="with somebody behind"),
    ],
)
def test_a_circle_is_what_leads_back_to_its_beginning(
    waits: Mapping[tuple[str, str], Ref], circle: tuple[Ref, ...]
) -> None:
    """Who waits for a circle without being in it is no part of it."""
    assert circle_of(A, waits) == circle


def test_kinds_tell_entities_of_one_key_apart() -> None:
    """A deal and a contact of one key are two."""
    other = Ref("contact", "a")

    assert circle_of(A, waits_of((A, other), (other, A))) == (A, other)
    assert circle_of(A, waits_of((A, other))) == ()


def test_a_circle_is_spelled_from_its_beginning_to_its_beginning() -> None:
    """So that people see it close."""
    assert spelled((A,)) == "deal a -> deal a"
    assert spelled((A, Ref("contact", "b"), C)) == "deal a -> contact b -> deal c -> deal a"


def _nested(value: object, levels: int) -> object:
    for _ in range(levels):
        value = {"a": [value]}
    return value


wild_texts = st.text(st.characters(), max_size=6) | st.sampled_from(
    ["$ref", "$result[r0]", "", " ", "a.b", "a[b", "\0", "\ud800", "originId", "ID", "kind", "key"]
)
kind_names = st.sampled_from(["contact", "company", "crm.deal", "user", "stock"])
keys = st.sampled_from([f"k-{number}" for number in range(6)])
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | wild_texts
    | st.just(10**2000)
    | st.builds(
        ref,
        kind_names | st.sampled_from(["address", "nothing", 7]),
        keys | st.sampled_from(["", None]),
    )
    | st.builds(ref, kind_names, keys)
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(wild_texts, inner, max_size=3)
        | st.lists(inner, max_size=1).map(lambda value: _nested(value, 40))
    ),
    max_leaves=8,
)
harmless = st.sampled_from(["A", "B", 1, ["+1"], {"PHONE": ["+1"]}]) | st.builds(
    ref, kind_names, keys
)
names = st.sampled_from(["name", "title", "x", "fm", "PHONE"])
parts = (
    st.none()
    | st.dictionaries(wild_texts, trees, max_size=4)
    | st.dictionaries(names, harmless, max_size=3)
    | st.dictionaries(names, harmless, min_size=1, max_size=3)
    | trees
)
hostile_rows = st.builds(
    Row,
    id=st.just(1),
    portal=st.just("default"),
    lane=st.just(0),
    kind=kind_names
    | kind_names
    | st.sampled_from(["address", "list_element", "task.comment", "shelf"])
    | st.sampled_from(["call", "item:5", "product_rows", "nothing"]),
    key=st.just("k-0"),
    operation=st.sampled_from(Operation),
    fields=parts,
    params=st.none() | parts,
    method=st.none() | st.sampled_from(["crm.item.get", "batch", "a b", ""]),
    generation=st.integers(0, 3),
    expires_at_ms=st.none() | st.none() | st.sampled_from([0, NOW_MS + 1]),
    cancel_requested=st.sampled_from([False, False, False, True]),
    mergeable=st.sampled_from([True, True, False]),
)
DENIED = Fault(code="ACCESS_DENIED", text="no", kind=FaultKind.FORBIDDEN)
every_key = [f"k-{number}" for number in range(6)]
EVERYTHING_READ = Facts(
    records={("contact", key): {} for key in every_key},
    matches={("company", key): () for key in every_key},
    failures={("user", key): DENIED for key in every_key},
)
surroundings = st.sampled_from(
    [
        known(),
        known(
            *(
                link(kind, key=key)
                for kind in ("contact", "crm.deal", "user", "stock", "shelf")
                for key in ("k-0", "k-1", "k-3")
            )
        ),
        known(link("company", "8", key="k-2"), link("contact", None, key="k-0")),
        known(replace(link("contact", None, key="k-1"), state=LinkState.DOUBT)),
        known(link("user"), blocked={"user.update": NOW_MS + 1, "crm.item.add": NOW_MS + 1}),
        known(link("contact"), facts=EVERYTHING_READ, policy=Policy(match="title", verify=True)),
        known(
            replace(link("contact"), sent=fingerprints({"name": "A"})),
            policy=Policy(match="marker", skip_unchanged=True, orphans=Orphans.BURY),
        ),
        replace(
            known(policy=Policy(orphans=Orphans.BURY)),
            lost={("company", key): "it" for key in every_key},
            cut={0: Ref("contact", "k-1"), 1: Ref("company", "k-0")},
        ),
    ]
)
Followers = Mapping[int, Sequence[Row]]


@st.composite
def claimed(draw: st.DrawFn) -> tuple[list[Row], Followers]:
    """Rows of as many entities, and rows that stand behind some of them."""
    heads: list[Row] = []
    followers: dict[int, list[Row]] = {}
    for number in range(draw(st.integers(0, 6))):
        head = replace(draw(hostile_rows), id=number, key=f"k-{number}")
        heads.append(head)
        behind = draw(st.lists(hostile_rows, max_size=2))
        followers[number] = [
            replace(each, id=10 * number + place, kind=head.kind, key=head.key)
            for place, each in enumerate(behind, start=10)
        ]
    return heads, followers


def places(planned: Plan, rows: Sequence[Row]) -> list[int]:
    """Tell every row that the plan names, as often as it names it."""
    by_entity = {(each.kind, each.key): each.id for each in rows}
    return [
        *(row_id for command in planned.commands for row_id in command.row_ids),
        *(refusal.row_id for refusal in planned.refusals),
        *(waits.row_id for waits in planned.waiting),
        *(rests.row_id for rests in planned.postponed),
        *(row_id for each in planned.closing for row_id in (each.row_id, *each.merged)),
        *(by_entity[question.kind, question.key] for question in planned.questions),
    ]


@given(rows=claimed(), around=surroundings, chained=st.booleans())
def test_every_row_is_in_exactly_one_part_of_the_plan(
    rows: tuple[list[Row], Followers], around: Surroundings, *, chained: bool
) -> None:
    """Whatever plain SQL has written, nothing is raised, lost or doubled."""
    heads, followers = rows
    behind = {each.id for later in followers.values() for each in later}

    planned = plan(heads, around, followers=followers, chained=chained)

    named = places(planned, heads)
    assert len(set(named)) == len(named)
    assert [each.id for each in heads] == sorted(set(named) - behind)
    assert all(each.query.isascii() for each in planned.commands)
    assert not planned.is_cut


@given(rows=claimed(), around=surroundings)
def test_commands_keep_the_order_of_the_rows(
    rows: tuple[list[Row], Followers], around: Surroundings
) -> None:
    """Where none takes the id of another, and the rows in each command too."""
    heads, followers = rows

    planned = plan(heads, around, followers=followers)

    first = [row_ids[0] for row_ids in sent(planned)]
    assert first == sorted(first)
    for command in planned.commands:
        assert list(command.row_ids) == sorted(command.row_ids)
        assert (
            command.row_ids[1:]
            == tuple(each.id for each in followers[command.row_ids[0]])[: len(command.row_ids) - 1]
        )
        assert command.sources == ()


@given(rows=claimed(), around=surroundings)
def test_a_chained_plan_is_always_one_that_can_be_sent(
    rows: tuple[list[Row], Followers], around: Surroundings
) -> None:
    """Sources stand before what takes from them, and only what takes says so."""
    heads, followers = rows

    planned = plan(heads, around, followers=followers, chained=True)

    left: tuple[Command, ...] = planned.commands
    while left:
        batch, left = compose(left, halt=True)
        assert len(batch.commands) >= 1
    for command in planned.commands:
        assert not (command.sources and command.alone)
        assert bool(command.sources or command.alone) == ("$result[" in unquote(command.query))


@given(rows=claimed(), around=surroundings, chained=st.booleans())
def test_a_strict_plan_is_the_beginning_of_the_plan(
    rows: tuple[list[Row], Followers], around: Surroundings, *, chained: bool
) -> None:
    """Up to the first refusal, which is told only where nothing can be sent before it."""
    heads, followers = rows

    whole = plan(heads, around, followers=followers, chained=chained)
    strict = plan(heads, around, followers=followers, chained=chained, strict=True)

    assert whole.commands[: len(strict.commands)] == strict.commands
    assert strict.refusals in ((), whole.refusals[: len(strict.refusals)])
    assert not (strict.commands and strict.refusals)
    assert strict.is_cut or strict == whole
    assert bool(whole.refusals) == bool(strict.refusals or strict.is_cut)


@given(rows=claimed(), around=surroundings, chained=st.booleans())
def test_the_same_rows_are_planned_the_same(
    rows: tuple[list[Row], Followers], around: Surroundings, *, chained: bool
) -> None:
    """A plan depends on nothing but its arguments, and changes none of them."""
    heads, followers = rows
    first = repr((heads, followers, around))

    plans = [plan(heads, around, followers=followers, chained=chained) for _ in range(2)]

    assert plans[0] == plans[1]
    assert repr((heads, followers, around)) == first


@given(rows=claimed(), around=surroundings)
def test_a_refusal_can_be_stored_in_any_database(
    rows: tuple[list[Row], Followers], around: Surroundings
) -> None:
    """Neither field nor reason holds NUL or half a character, and both say something."""
    planned = plan(rows[0], around)

    for each in planned.refusals:
        said = f"{each.field} {each.reason}"
        assert "\0" not in said
        assert said.encode().decode() == said
        assert each.field
        assert each.reason


@given(st.lists(hostile_rows, max_size=6))
def test_links_can_be_asked_for_in_any_database(rows: list[Row]) -> None:
    """Every pair that is needed is two texts that a driver takes."""
    needed = needed_links(rows)

    for pair in needed:
        assert all("\0" not in text.encode().decode() for text in pair)
