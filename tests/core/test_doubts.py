"""What becomes of a command whose answer was lost, decided from its journal and what was found."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.doubts import Decision, Doubted, cannot_tell, decide, is_final
from b24sync.core.kind_table import find_kind
from b24sync.core.kinds import Kind, Marker, Method
from b24sync.core.model import Fault, FaultKind, Operation, Question, Ref, ResultOutcome, Row
from b24sync.core.policies import DoubtPolicy
from b24sync.core.refs import stored
from b24sync.core.settlement import Settlement

Fields = Mapping[str, object]

AGAIN = "the answer was lost; it is said again"


def row(number: int, fields: object = None, params: object = None, kind: str = "contact") -> Row:
    """Make a row of one entity as it was read."""
    return Row(
        id=number,
        portal="default",
        lane=0,
        kind=kind,
        key="c-1",
        operation=Operation.ADD,
        fields=fields,
        params=params,
    )


def add(*rows: Row, marker: str | None = "contact:c-1") -> Doubted:
    """Doubt an add of these rows."""
    return Doubted(
        rows=rows,
        operation=Operation.ADD,
        method="crm.item.add",
        cmd_no=3,
        lead=rows[0].id,
        marker=marker,
        is_linked=True,
    )


UPDATE = replace(
    add(row(1)), operation=Operation.UPDATE, method="crm.item.update", repeatable=True, marker=None
)
CALL = replace(add(row(1)), operation=Operation.CALL, method="im.notify", marker=None)


def decided(
    doubted: Doubted, found: Sequence[str] | None = None, policy: DoubtPolicy = DoubtPolicy.LOOK_UP
) -> Decision:
    """Decide on a command of its kind in the table."""
    return decide(doubted, find_kind(doubted.rows[0].kind), policy, found)


def settled(
    doubted: Doubted, found: Sequence[str] | None = None, policy: DoubtPolicy = DoubtPolicy.LOOK_UP
) -> tuple[Settlement, ...]:
    """Decide on one of which enough is known."""
    decision = decided(doubted, found, policy)
    assert not isinstance(decision, Question)
    return decision


def asked(doubted: Doubted, kind: Kind | None = None) -> dict[str, str]:
    """What is asked before an add can be decided on."""
    kind = kind or find_kind(doubted.rows[0].kind)
    question = decide(doubted, kind, DoubtPolicy.LOOK_UP)
    assert isinstance(question, Question)
    return dict(parse_qsl(question.query, keep_blank_values=True))


def conditions(doubted: Doubted, kind: Kind | None = None) -> dict[str, str]:
    """The filter of that question."""
    return {
        name.removeprefix("filter[=").removesuffix("]"): value
        for name, value in asked(doubted, kind).items()
        if name.startswith("filter")
    }


@pytest.mark.parametrize("policy", DoubtPolicy)
@pytest.mark.parametrize("found", [None, (), ("46",)])
def test_what_leaves_the_portal_the_same_is_said_again(
    policy: DoubtPolicy, found: Sequence[str] | None
) -> None:
    """Whatever a policy says and whatever was found: nothing can go wrong by it."""
    decision = settled(UPDATE, found, policy)

    assert decision == (
        Settlement(
            row=row(1),
            outcome=ResultOutcome.RETRIED,
            method="crm.item.update",
            cmd_no=3,
            requeue_ms=0,
            charged=True,
            error_class="unknown",
            error_text=AGAIN,
        ),
    )


def test_of_rows_that_went_as_one_the_first_goes_again_and_the_others_stand_behind() -> None:
    """Each has an attempt more; one result tells of it."""
    decision = settled(replace(UPDATE, rows=(row(1), row(2), row(5))))

    assert [(s.row.id, s.outcome, s.requeue_ms, s.is_behind, s.charged) for s in decision] == [
        (1, ResultOutcome.RETRIED, 0, False, True),
        (2, None, 0, True, True),
        (5, None, 0, True, True),
    ]


@pytest.mark.parametrize("policy", DoubtPolicy)
def test_an_add_with_a_marker_is_looked_for(policy: DoubtPolicy) -> None:
    """Whatever the policy: it speaks of those that cannot be found."""
    doubted = add(row(1, {"name": "Ann"}))

    question = decided(doubted, policy=policy)

    assert isinstance(question, Question)
    assert (question.kind, question.key) == doubted.entity == ("contact", "c-1")
    assert question.method == "crm.item.list"
    assert question.wanted == {"originId": "contact:c-1", "originatorId": "b24sync"}
    assert dict(parse_qsl(question.query)) == {
        "entityTypeId": "3",
        "filter[=originId]": "contact:c-1",
        "filter[=originatorId]": "b24sync",
        "select[0]": "id",
        "select[1]": "originId",
        "select[2]": "originatorId",
        "start": "-1",
    }


def test_an_add_that_was_found_is_applied_and_linked() -> None:
    """The result says how that is known."""
    decision = settled(add(row(1)), ["46"])

    assert decision == (
        Settlement(
            row=row(1),
            outcome=ResultOutcome.APPLIED,
            method="crm.item.add",
            cmd_no=3,
            final=True,
            charged=True,
            remote_id="46",
            error_text="the answer was lost; found by its marker",
            link_present=True,
        ),
    )


def test_an_add_that_was_not_found_is_said_again() -> None:
    """The portal has stopped, and there is none: it never came about."""
    (decision,) = settled(add(row(1)), [])

    assert (decision.outcome, decision.requeue_ms, decision.final) == (
        ResultOutcome.RETRIED,
        0,
        False,
    )


def test_of_several_the_smallest_id_is_kept_and_the_others_are_told() -> None:
    """By the size of the number, not by its text."""
    (decision,) = settled(add(row(1)), ["100", "46", "9"])

    assert (decision.remote_id, decision.duplicates) == ("9", ("46", "100"))
    assert (decision.outcome, decision.link_present) == (ResultOutcome.APPLIED, True)
    assert decision.error_text == (
        "the answer was lost; found by its marker, and 2 more: 46, 100; 9 is kept"
    )


def test_the_text_of_a_result_does_not_grow_with_the_number_of_duplicates() -> None:
    """Ten are named; the link has them all."""
    (decision,) = settled(add(row(1)), [str(number) for number in range(1, 14)])

    assert decision.duplicates == tuple(str(number) for number in range(2, 14))
    assert decision.error_text == (
        "the answer was lost; found by its marker, and 12 more: 2, 3, 4, 5, 6, 7, 8, 9, 10, 11; 1 is kept"
    )


def test_of_rows_that_were_found_as_one_the_lead_is_applied_and_the_others_merged() -> None:
    """One link is written, by the row whose result is the command's own."""
    doubted = replace(add(row(1), row(2), row(3)), lead=2)

    decision = settled(doubted, ["46", "47"])

    assert [(s.row.id, s.outcome, s.merged_into, s.link_present) for s in decision] == [
        (1, ResultOutcome.MERGED, 2, False),
        (2, ResultOutcome.APPLIED, None, True),
        (3, ResultOutcome.MERGED, 2, False),
    ]
    assert [(s.remote_id, s.duplicates, s.final) for s in decision] == [
        ("46", (), True),
        ("46", ("47",), True),
        ("46", (), True),
    ]


def test_a_record_that_was_made_without_a_part_of_its_row_gets_it_afterwards() -> None:
    """As if its answer had come: the circle of references is closed by an update."""
    fields = {"title": "Acme", "contactId": stored(Ref("contact", "ann"))}
    doubted = replace(add(row(1, fields)), left_out=frozenset({"contactId"}))

    (decision,) = settled(doubted, ["46"])

    assert decision.outcome is ResultOutcome.BEGUN
    assert decision.remainder == {"contactId": {"$ref": {"kind": "contact", "key": "ann"}}}
    assert (decision.final, decision.charged, decision.requeue_ms) == (False, False, 0)
    assert (decision.remote_id, decision.link_present) == ("46", True)


@pytest.mark.parametrize(
    ("fields", "marker", "expected"),
    [
        pytest.param(
            {"name": "Ann"},
            "contact:c-1#2",
            {"originId": "contact:c-1#2", "originatorId": "b24sync"},
            id="of a later life",
        ),
        pytest.param(
            {"originatorId": "shop"},
            "contact:c-1",
            {"originId": "contact:c-1", "originatorId": "shop"},
            id="ours, of another origin",
        ),
        pytest.param(
            {"originId": "A-1", "originatorId": "shop"},
            "A-1",
            {"originId": "A-1", "originatorId": "shop"},
            id="its own",
        ),
        pytest.param({"originId": "A-1"}, "A-1", {"originId": "A-1"}, id="its own, of no origin"),
        pytest.param(
            {"originId": "contact:c-1"},
            "contact:c-1",
            {"originId": "contact:c-1"},
            id="its own, and like ours",
        ),
        pytest.param(
            {"originId": "A-1", "originatorId": ""},
            "A-1",
            {"originId": "A-1"},
            id="an empty origin",
        ),
        pytest.param(
            {"originId": "A-1", "originatorId": stored(Ref("company", "acme"))},
            "A-1",
            {"originId": "A-1"},
            id="an origin that is a reference",
        ),
        pytest.param({"originId": 17}, "17", {"originId": "17"}, id="a number"),
        pytest.param({"name": "Ann"}, "A-1", {"originId": "A-1"}, id="its row was taken away"),
        pytest.param(None, "A-1", {"originId": "A-1"}, id="no fields"),
    ],
)
def test_nothing_is_asked_of_a_record_that_its_add_did_not_say(
    fields: Fields | None, marker: str, expected: dict[str, str]
) -> None:
    """Asked for what it does not carry, it would not be found, and be made a second time."""
    assert conditions(add(row(1, fields), marker=marker)) == expected


def test_a_kind_without_an_origin_is_looked_for_by_its_key() -> None:
    """Such as smart processes."""
    doubted = add(row(1, {"title": "T"}, kind="item:1036"), marker="item:1036:c-1")

    assert conditions(doubted) == {"xmlId": "item:1036:c-1"}


def test_a_marker_that_stands_beside_the_fields_is_asked_for_as_it_was_said() -> None:
    """Of a list element its code, and the list that it is in."""
    params = {"IBLOCK_TYPE_ID": "lists", "ELEMENT_CODE": "bolt"}
    doubted = add(row(1, {"NAME": "Bolt"}, params, kind="list_element"), marker="bolt")

    question = asked(doubted)

    assert (question["IBLOCK_TYPE_ID"], question["ELEMENT_CODE"]) == ("lists", "bolt")


def test_a_list_is_told_what_it_wants_of_the_change() -> None:
    """A catalogue is asked for the records of one information block."""
    doubted = add(row(1, {"iblockId": 14, "name": "Bolt"}, kind="product"), marker="product:c-1")

    assert conditions(doubted) == {"xmlId": "product:c-1", "iblockId": "14"}


_STOCK = Kind(
    name="stock",
    add=Method(name="my.stock.add", id_path=("id",)),
    list=Method(
        name="my.stock.list",
        fields_param="filter",
        required=("shop",),
        required_fields=("ownerId",),
        id_path=("id",),
    ),
    marker=Marker(key_field="code"),
)


def test_a_kind_of_its_own_is_looked_for_with_what_its_list_wants() -> None:
    """Fields in the filter, params beside it."""
    doubted = add(row(1, {"ownerId": 7}, {"shop": "s"}, kind="stock"), marker="stock:c-1")

    assert asked(doubted, _STOCK)["shop"] == "s"
    assert conditions(doubted, _STOCK) == {"ownerId": "7", "code": "stock:c-1"}


@pytest.mark.parametrize(
    ("fields", "params"),
    [
        ({"ownerId": stored(Ref("company", "acme"))}, {"shop": "s"}),
        ({"ownerId": 7}, {"shop": stored(Ref("company", "acme"))}),
    ],
)
def test_a_question_that_must_repeat_a_reference_is_not_put(fields: Fields, params: Fields) -> None:
    """The row does not say its id; asked for the wrong one, the portal would know of none."""
    doubted = add(row(1, fields, params, kind="stock"), marker="stock:c-1")

    decision = decide(doubted, _STOCK, DoubtPolicy.LOOK_UP)

    assert not isinstance(decision, Question)
    assert [settlement.stopped for settlement in decision] == [True]


@pytest.mark.parametrize(
    ("doubted", "kind"),
    [
        pytest.param(CALL, find_kind("contact"), id="a call"),
        pytest.param(replace(UPDATE, repeatable=False, marker="x"), _STOCK, id="no add"),
        pytest.param(add(row(1), marker=None), _STOCK, id="no marker was sent"),
        pytest.param(add(row(1)), None, id="no kind any more"),
        pytest.param(add(row(1)), find_kind("quote"), id="a kind without a marker"),
        pytest.param(add(row(1)), replace(_STOCK, list=None), id="a kind without a list"),
        pytest.param(
            add(row(1)),
            replace(_STOCK, list=Method(name="my.stock.list")),
            id="a list without ids",
        ),
    ],
)
def test_what_cannot_be_found_is_for_a_person_or_for_its_policy(
    doubted: Doubted, kind: Kind | None
) -> None:
    """Said again it may be there twice; a policy may take that upon itself."""
    held = Settlement(
        row=row(1),
        outcome=ResultOutcome.STOPPED,
        method=doubted.method,
        cmd_no=3,
        stopped=True,
        error_class="unknown",
        error_text=(
            "the answer was lost; it carries nothing by which it could be found on the portal"
        ),
    )

    assert decide(doubted, kind, DoubtPolicy.LOOK_UP) == (held,)
    assert decide(doubted, kind, DoubtPolicy.HOLD) == (held,)
    again = decide(doubted, kind, DoubtPolicy.RESEND)
    assert not isinstance(again, Question)
    assert [(s.outcome, s.requeue_ms) for s in again] == [(ResultOutcome.RETRIED, 0)]


def test_a_look_that_is_refused_for_good_is_for_a_person() -> None:
    """The rows behind the first wait for what becomes of it; no attempt is spent."""
    refused = Fault(code="ACCESS_DENIED", text="Not yours", kind=FaultKind.FORBIDDEN)

    decision = cannot_tell(add(row(1), row(2)), refused)

    assert is_final(refused)
    assert [(s.row.id, s.outcome, s.stopped, s.is_behind, s.charged) for s in decision] == [
        (1, ResultOutcome.STOPPED, True, False, False),
        (2, None, False, True, False),
    ]
    assert [s.requeue_ms for s in decision] == [None, 0]
    assert decision[0].error_text == (
        "the answer was lost; the portal would not let it be looked for: ACCESS_DENIED Not yours"
    )


def test_a_complaint_without_words_ends_without_a_space() -> None:
    """It stands in a column that people read."""
    (decision,) = cannot_tell(add(row(1)), Fault(code="E", text="", kind=FaultKind.UNLISTED))

    assert decision.error_text == (
        "the answer was lost; the portal would not let it be looked for: E"
    )


def test_trouble_of_the_servers_own_is_no_last_word_about_a_look() -> None:
    """All other complaints would be made again."""
    passing = {kind for kind in FaultKind if not is_final(Fault(code="E", text="", kind=kind))}

    assert passing == {FaultKind.SERVER}


@st.composite
def doubts(draw: st.DrawFn) -> Doubted:
    """Draw a command in doubt, of one row or of several."""
    ids = draw(st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True))
    operation = draw(st.sampled_from(Operation))
    return Doubted(
        rows=tuple(row(number, {"name": "Ann"}) for number in sorted(ids)),
        operation=operation,
        method="some.method",
        cmd_no=draw(st.integers(0, 49)),
        lead=draw(st.sampled_from(ids)),
        marker=draw(st.none() | st.just("contact:c-1")),
        repeatable=draw(st.booleans()),
        is_linked=draw(st.booleans()),
    )


@given(
    doubted=doubts(),
    kind=st.sampled_from([None, find_kind("contact"), find_kind("quote"), _STOCK]),
    policy=st.sampled_from(DoubtPolicy),
    found=st.none() | st.lists(st.integers(1, 500).map(str), max_size=4, unique=True),
)
def test_every_row_has_exactly_one_fate(
    doubted: Doubted, kind: Kind | None, policy: DoubtPolicy, found: list[str] | None
) -> None:
    """It ends, goes again, stands behind one that does, or is held; and only one result leads."""
    decision = decide(doubted, kind, policy, found)

    if isinstance(decision, Question):
        assert found is None
        assert doubted.operation is Operation.ADD
        return
    assert [settlement.row for settlement in decision] == list(doubted.rows)
    for settlement in decision:
        fates = (settlement.final, settlement.requeue_ms is not None, settlement.stopped)
        assert sum(fates) == 1
        assert not settlement.in_doubt
    told = [settlement for settlement in decision if settlement.outcome is not None]
    own = [s for s in told if s.outcome is not ResultOutcome.MERGED]
    assert len(own) == 1
    assert len([s for s in decision if s.link_present]) <= 1
