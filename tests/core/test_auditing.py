"""What an audit asks, and what it makes of the answers."""

from dataclasses import replace
from urllib.parse import unquote

import pytest

from b24sync.core.auditing import (
    Ask,
    Heard,
    Hit,
    Linked,
    asks_of,
    heard,
    is_auditable,
    others,
    said,
)
from b24sync.core.kind_table import KINDS, find_kind
from b24sync.core.kinds import Kind

CONTACT = KINDS["contact"]


def test_the_kinds_that_can_be_audited() -> None:
    """Those with a marker whose list needs to be told nothing but the markers."""
    found = {name for name, kind in KINDS.items() if is_auditable(kind)}

    assert found == {
        "lead",
        "deal",
        "contact",
        "company",
        "invoice",
        "crm.lead",
        "crm.deal",
        "crm.contact",
        "crm.company",
        "activity",
        "activity.configurable",
        "requisite",
        "bank_detail",
    }
    assert is_auditable(find_kind("item:1036"))
    assert not is_auditable(None)


@pytest.mark.parametrize("kind", ["quote", "address"])
def test_other_kinds_are_not_asked_for(kind: str) -> None:
    """A question about them would be a mistake of ours."""
    with pytest.raises(ValueError, match=f"{kind} cannot be asked for markers"):
        said(Ask(kind=kind, markers=("m",)), KINDS[kind])


def test_many_markers_are_one_question() -> None:
    """Forty of one kind; the name and the generation make a marker."""
    linked = [Linked(kind="contact", key=f"{n}", remote_id="1") for n in range(41)]
    linked += [Linked(kind="lead", key="a", remote_id="1", generation=2)]

    asks = list(asks_of(linked))

    assert [(ask.kind, len(ask.markers)) for ask in asks] == [
        ("contact", 40),
        ("contact", 1),
        ("lead", 1),
    ]
    assert (asks[1].markers, asks[2].markers) == (("contact:40",), ("lead:a#2",))


@pytest.mark.parametrize(
    ("name", "ask", "method", "query"),
    [
        (
            "contact",
            Ask(kind="contact", markers=("contact:a", "contact:b")),
            "crm.item.list",
            (
                "entityTypeId=3&filter[@originId][0]=contact:a&filter[@originId][1]=contact:b"
                "&select[0]=id&select[1]=originId&select[2]=originatorId&order[id]=ASC&start=-1"
            ),
        ),
        (
            "activity.configurable",
            Ask(kind="activity.configurable", markers=("m",), after_id="7"),
            "crm.activity.list",
            (
                "filter[@ORIGIN_ID][0]=m&filter[>ID]=7"
                "&select[0]=ID&select[1]=ORIGIN_ID&select[2]=ORIGINATOR_ID&order[ID]=ASC&start=-1"
            ),
        ),
        (
            "invoice",
            Ask(kind="invoice", markers=("m",)),
            "crm.item.list",
            (
                "entityTypeId=31&filter[@xmlId][0]=m"
                "&select[0]=id&select[1]=xmlId&order[id]=ASC&start=-1"
            ),
        ),
    ],
)
def test_a_question_has_the_names_of_its_list(name: str, ask: Ask, method: str, query: str) -> None:
    """Pages by id, nothing is counted."""
    asked = said(ask, KINDS[name])

    assert (asked[0], unquote(asked[1])) == (method, query)


def _items(*rows: object) -> dict[str, object]:
    return {"items": list(rows)}


def _row(number: object, marker: str = "a", origin: str = "b24sync") -> dict[str, object]:
    return {"id": number, "originId": marker, "originatorId": origin}


AB = Ask(kind="contact", markers=("a", "b"))


def test_records_are_sorted_by_their_markers() -> None:
    """Ids as text; a database that compares loosely tells of others too."""
    answer = _items(_row(1), _row("2", "b", ""), _row(3), _row(4, "A"), {"id": 5})

    told = heard(AB, CONTACT, answer)

    assert told == Heard(
        hits={
            "a": (Hit(remote_id="1", origin="b24sync"), Hit(remote_id="3", origin="b24sync")),
            "b": (Hit(remote_id="2"),),
        }
    )


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        _items(),
        {"items": None},
        _items("x", None),
        _items(_row(True), _row(0), _row(-1), _row(2**63), _row(1.5)),  # noqa: FBT003 - a value
        _items(_row(None), _row("x"), _row("0"), _row("²"), {"originId": "a"}),
    ],
    ids=repr,
)
def test_what_is_no_record_is_passed_over(answer: object) -> None:
    """Whatever a portal answers."""
    assert heard(AB, CONTACT, answer) == Heard()


def test_rows_may_come_as_an_object() -> None:
    """PHP makes one of a list with gaps; and an id may stand deeper."""
    told = heard(AB, CONTACT, {"items": {"3": _row(1)}})

    assert told.hits == {"a": (Hit(remote_id="1", origin="b24sync"),)}


def test_an_id_may_stand_deeper() -> None:
    """As a kind of one's own may have it."""
    assert CONTACT.list is not None
    deep = replace(CONTACT, list=replace(CONTACT.list, id_path=("of", "id")))

    told = heard(AB, deep, _items({"of": {"id": 7}, "originId": "a"}, {"of": 1, "originId": "a"}))

    assert told.hits == {"a": (Hit(remote_id="7"),)}


def test_a_full_page_is_asked_again_in_halves() -> None:
    """Nothing of it counts: a record may be on the page behind it."""
    full = _items(*(_row(number) for number in range(1, 51)))
    ask = Ask(kind="contact", markers=("a", "b", "c"))

    told = heard(ask, CONTACT, full)

    assert told == Heard(
        asks=(Ask(kind="contact", markers=("a",)), Ask(kind="contact", markers=("b", "c")))
    )


def test_too_many_of_one_marker_are_read_page_by_page() -> None:
    """What is on the page counts, and the next one begins behind its last record."""
    full = _items(*(_row(number) for number in range(1, 51)))

    told = heard(Ask(kind="contact", markers=("a",)), CONTACT, full)

    assert len(told.hits["a"]) == 50
    assert told.asks == (Ask(kind="contact", markers=("a",), after_id="50"),)


def test_a_list_that_answers_with_anything_is_foreign() -> None:
    """Asked for one marker, it has a page of others."""
    full = _items(*(_row(number, "x") for number in range(1, 51)))

    told = heard(Ask(kind="contact", markers=("a",)), CONTACT, full)

    assert told.is_foreign
    assert told.asks == ()


def test_a_kind_without_names_tells_nothing() -> None:
    """It is not asked, and if it were, nothing would be found."""
    bare = Kind(name="bare")

    assert heard(AB, bare, [{"": "a"}]) == Heard()


A = Linked(kind="contact", key="a", remote_id="1")
OURS, SHOPS, NOBODYS = (
    Hit(remote_id="2", origin="b24sync"),
    Hit(remote_id="3", origin="shop"),
    Hit(remote_id="4"),
)


@pytest.mark.parametrize(
    ("hits", "expected"),
    [
        ((), ()),
        ((Hit(remote_id="1", origin="b24sync"),), ()),
        ((Hit(remote_id="1", origin="b24sync"), OURS), ("2",)),
        ((Hit(remote_id="1", origin="b24sync"), SHOPS), ()),
        ((Hit(remote_id="1", origin="shop"), OURS, SHOPS), ("3",)),
        ((Hit(remote_id="1"), NOBODYS), ("4",)),
        ((OURS,), ()),
        ((OURS, NOBODYS), ("2", "4")),
        ((OURS, SHOPS), ()),
        ((Hit(remote_id="1"), NOBODYS, NOBODYS), ("4",)),
    ],
    ids=[
        "none",
        "own",
        "second",
        "of another system by chance",
        "of the application's system",
        "of a kind without origin",
        "moved",
        "twice, and the own is gone",
        "one, and by chance another",
        "told twice",
    ],
)
def test_the_records_beside_an_entitys_own(
    hits: tuple[Hit, ...], expected: tuple[str, ...]
) -> None:
    """They carry its marker, and come from where its own comes from."""
    assert others(A, hits) == expected
