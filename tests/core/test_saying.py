"""One row becomes exactly the command that the portal understands, or a reason why it cannot."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from urllib.parse import unquote

import pytest

from b24sync.core.comparing import fingerprints
from b24sync.core.errors import PlanError
from b24sync.core.kinds import Kind, Marker, Method
from b24sync.core.model import (
    Asks,
    Command,
    Fault,
    FaultKind,
    Link,
    LinkState,
    Operation,
    Question,
    Ref,
    Row,
    Said,
    Unreadable,
)
from b24sync.core.parameters import is_method_name, method_of
from b24sync.core.policies import Policy
from b24sync.core.resolving import may_be_cut
from b24sync.core.saying import say
from b24sync.core.surroundings import NO_FACTS, Facts, Surroundings, Unchanged, Unlinked, Unread

ACME = {"$ref": {"kind": "company", "key": "acme"}}
ITSELF = {"$ref": {"kind": "contact", "key": "k-1"}}
ADDRESS = {"TYPE_ID": 1, "ENTITY_TYPE_ID": 3, "ENTITY_ID": 5}

STOCK = Kind(
    name="stock",
    add=Method(name="stock.add", id_path=("id",)),
    update=Method(name="stock.update", id_param="fields.id", fixed={"mode": "strict"}),
    delete=Method(name="stock.delete", id_param="fields.id"),
    yes_no=("true", "false"),
)
READ_ONLY_SHELF = Kind(name="shelf", update=Method(name="shelf.update", id_param="id"))
LOCKER = Kind(
    name="l" * 64,
    add=Method(name="locker.add", id_path=()),
    marker=Marker(key_field="XML_ID"),
)
TAG = Kind(
    name="tag",
    add=Method(name="tag.add", id_path=()),
    update=Method(name="tag.update", id_param="id"),
    multi_fields=frozenset({"labels"}),
)
FLAT_BOX = Kind(
    name="box",
    add=Method(name="box.add", id_param="fields.id", id_path=()),
    linked=False,
)
KINDS = {kind.name: kind for kind in (STOCK, READ_ONLY_SHELF, LOCKER, TAG, FLAT_BOX)}


def row(
    kind: str,
    operation: str,
    fields: object = None,
    params: object = None,
    *,
    number: int = 1,
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


def call(method: str | None, params: object = None, fields: object = None) -> Row:
    """Make the row of a call about no entity."""
    return replace(row("call", "call", fields, params), method=method)


def link(kind: str, remote_id: str | None = "46", *, generation: int = 0, key: str = "k-1") -> Link:
    """Know the entity by this id."""
    return Link(kind=kind, key=key, remote_id=remote_id, generation=generation)


def known(*links: Link, policy: Policy | None = None, facts: Facts = NO_FACTS) -> Surroundings:
    """Know these links, under this policy of every kind."""
    return Surroundings(
        links={(link.kind, link.key): link for link in links},
        kinds=KINDS,
        policies={} if policy is None else {"*": policy},
        facts=facts,
    )


def command(asked: Row, *links: Link) -> Command:
    """Say one row where these links are known."""
    return say(asked, known(*links))


def refusal(asked: Row, *links: Link) -> PlanError:
    """Say one row that cannot be said."""
    return refused_by(asked, known(*links))


def refused_by(asked: Row, around: Surroundings) -> PlanError:
    """The same in any surroundings."""
    with pytest.raises(PlanError) as refused:
        say(asked, around)
    return refused.value


def question(asked: Row, around: Surroundings) -> Question:
    """Say one row that has to know more first."""
    with pytest.raises(Unread) as unread:
        say(asked, around)
    return unread.value.question


def target(asked: Row, around: Surroundings) -> Ref:
    """Say one row that refers to an entity without an id."""
    with pytest.raises(Unlinked) as unlinked:
        say(asked, around)
    return unlinked.value.target


def test_an_add_carries_marker_and_fields_and_tells_where_the_id_stands() -> None:
    """The whole command, field by field."""
    asked = row("contact", "add", {"name": "Ann"}, number=7)

    made = command(asked)

    assert made == Command(
        row_ids=(7,),
        kind="contact",
        key="k-1",
        operation=Operation.ADD,
        method="crm.item.add",
        query="entityTypeId=3&fields[name]=Ann&fields[originId]=contact%3Ak-1"
        "&fields[originatorId]=b24sync",
        remote_id=None,
        marker="contact:k-1",
        id_path=("item", "id"),
        gone=(("NOT_FOUND", r"\b(item|element) not found\b"),),
        linked=True,
        repeatable=False,
        alone=False,
    )


def test_an_update_goes_to_the_linked_record() -> None:
    """The id is the link's, no marker is written, and repeating does no harm."""
    asked = row("contact", "update", {"name": "Ann"}, number=7)

    made = command(asked, link("contact"))

    assert made == Command(
        row_ids=(7,),
        kind="contact",
        key="k-1",
        operation=Operation.UPDATE,
        method="crm.item.update",
        query="entityTypeId=3&id=46&fields[name]=Ann",
        remote_id="46",
        marker=None,
        id_path=None,
        gone=(("NOT_FOUND", r"\b(item|element) not found\b"),),
        linked=True,
        repeatable=True,
        alone=False,
    )


@pytest.mark.parametrize(
    ("asked", "method", "query"),
    [
        pytest.param(
            row("contact", "delete"), "crm.item.delete", "entityTypeId=3&id=46", id="contact"
        ),
        pytest.param(
            row("item:1036", "update", {"title": "A"}),
            "crm.item.update",
            "entityTypeId=1036&id=46&fields[title]=A",
            id="smart process",
        ),
        pytest.param(
            row("crm.deal", "update", {"TITLE": "A"}, {"params": {"REGISTER_SONET_EVENT": "Y"}}),
            "crm.deal.update",
            "params[REGISTER_SONET_EVENT]=Y&id=46&fields[TITLE]=A",
            id="classic deal with params",
        ),
        pytest.param(row("crm.deal", "delete"), "crm.deal.delete", "id=46", id="classic deal"),
        pytest.param(
            row("user", "update", {"NAME": "Ann", "ACTIVE": True}),
            "user.update",
            "ID=46&NAME=Ann&ACTIVE=Y",
            id="flat fields",
        ),
        pytest.param(
            row("user", "delete"), "user.update", "ACTIVE=N&ID=46", id="dismissal of a user"
        ),
        pytest.param(
            row("task", "update", {"TITLE": "A"}),
            "tasks.task.update",
            "taskId=46&fields[TITLE]=A",
            id="task",
        ),
        pytest.param(
            row("task.comment", "update", {"POST_MESSAGE": "A"}, {"taskId": 9}),
            "task.commentitem.update",
            "0=9&1=46&2[POST_MESSAGE]=A",
            id="parameters read by position",
        ),
        pytest.param(
            row("task.comment", "delete", None, {"taskId": 9}),
            "task.commentitem.delete",
            "0=9&1=46",
            id="delete read by position",
        ),
        pytest.param(
            row("list_element", "update", {"NAME": "A"}, {"IBLOCK_TYPE_ID": "lists"}),
            "lists.element.update",
            "IBLOCK_TYPE_ID=lists&ELEMENT_ID=46&FIELDS[NAME]=A",
            id="list element",
        ),
        pytest.param(
            row("comment", "update", None, {"ownerTypeId": 2, "ownerId": 9}),
            "crm.timeline.comment.update",
            "ownerTypeId=2&ownerId=9&id=46",
            id="update of nothing but params",
        ),
        pytest.param(
            row("stock", "update", {"n": 1}),
            "stock.update",
            "mode=strict&fields[n]=1&fields[id]=46",
            id="id among the fields",
        ),
        pytest.param(
            row("stock", "delete"), "stock.delete", "fields[id]=46", id="delete by an inner id"
        ),
    ],
)
def test_a_linked_record_is_named_as_its_kind_wants(asked: Row, method: str, query: str) -> None:
    """Where id, fields and params stand is the kind's affair, down to the order."""
    made = command(asked, link(asked.kind))

    assert (made.method, made.query, made.remote_id) == (method, query, "46")
    assert (made.marker, made.id_path, made.linked) == (None, None, True)


@pytest.mark.parametrize(
    ("asked", "method", "query", "id_path"),
    [
        pytest.param(
            row("task.comment", "add", {"POST_MESSAGE": "A"}, {"taskId": 9}),
            "task.commentitem.add",
            "0=9&1[POST_MESSAGE]=A",
            (),
            id="parameters read by position",
        ),
        pytest.param(
            row("task", "add", {"TITLE": "A"}),
            "tasks.task.add",
            "fields[TITLE]=A",
            ("task", "id"),
            id="task",
        ),
        pytest.param(
            row("quote", "add", {"title": "A"}),
            "crm.item.add",
            "entityTypeId=7&fields[title]=A",
            ("item", "id"),
            id="quote",
        ),
        pytest.param(
            row("department", "add", {"NAME": "A"}),
            "department.add",
            "NAME=A",
            (),
            id="flat fields",
        ),
        pytest.param(
            row("task", "add", None, {"notify": 1}),
            "tasks.task.add",
            "notify=1&fields[]=",
            ("task", "id"),
            id="nothing but params",
        ),
    ],
)
def test_a_kind_without_a_marker_is_added_as_it_is(
    asked: Row, method: str, query: str, id_path: tuple[str, ...]
) -> None:
    """Nothing is put among the fields that the portal does not know."""
    made = command(asked)

    assert (made.method, made.query, made.id_path) == (method, query, id_path)
    assert made.marker is None


@pytest.mark.parametrize(
    ("asked", "query", "marker"),
    [
        pytest.param(
            row("crm.deal", "add", {"TITLE": "A"}),
            "fields[TITLE]=A&fields[ORIGIN_ID]=crm.deal%3Ak-1&fields[ORIGINATOR_ID]=b24sync",
            "crm.deal:k-1",
            id="classic",
        ),
        pytest.param(
            row("item:1036", "add", {"title": "A"}),
            "entityTypeId=1036&fields[title]=A&fields[xmlId]=item%3A1036%3Ak-1",
            "item:1036:k-1",
            id="key field only",
        ),
        pytest.param(
            row("user", "add", {"NAME": "Ann"}),
            "NAME=Ann&XML_ID=user%3Ak-1",
            "user:k-1",
            id="flat fields",
        ),
        pytest.param(
            row("list_element", "add", {"NAME": "A"}, {"IBLOCK_TYPE_ID": "lists"}),
            "IBLOCK_TYPE_ID=lists&ELEMENT_CODE=list_element%3Ak-1&FIELDS[NAME]=A",
            "list_element:k-1",
            id="among the params",
        ),
    ],
)
def test_an_add_carries_the_key_by_which_it_is_found_again(
    asked: Row, query: str, marker: str
) -> None:
    """The marker stands where the kind keeps its external key."""
    made = command(asked)

    assert (made.query, made.marker) == (query, marker)


@pytest.mark.parametrize(
    ("own", "query", "marker"),
    [
        pytest.param(
            {"originId": "mine"},
            "fields[originId]=mine",
            "mine",
            id="key alone",
        ),
        pytest.param(
            {"originId": "mine", "originatorId": "shop"},
            "fields[originId]=mine&fields[originatorId]=shop",
            "mine",
            id="key and origin",
        ),
        pytest.param({"originId": 0}, "fields[originId]=0", "0", id="the number nought"),
        pytest.param(
            {"originId": "m" * 255}, f"fields[originId]={'m' * 255}", "m" * 255, id="the longest"
        ),
        pytest.param(
            {"originId": "", "originatorId": "shop"},
            "fields[originId]=contact%3Ak-1&fields[originatorId]=shop",
            "contact:k-1",
            id="empty is none",
        ),
        pytest.param(
            {"originId": None},
            "fields[originId]=contact%3Ak-1&fields[originatorId]=b24sync",
            "contact:k-1",
            id="null is none",
        ),
        pytest.param(
            {"originId": ACME},
            "fields[originId]=8",
            "8",
            id="a reference",
        ),
    ],
)
def test_the_applications_own_external_key_is_the_marker(
    own: dict[str, object], query: str, marker: str
) -> None:
    """What the application says of its key is left as it is."""
    asked = row("contact", "add", own)

    made = command(asked, link("company", "8", key="acme"))

    assert made.query == "entityTypeId=3&" + query
    assert made.marker == marker


def test_an_own_key_among_the_params_is_the_marker_too() -> None:
    """List elements keep their code beside the fields."""
    params = {"IBLOCK_TYPE_ID": "lists", "ELEMENT_CODE": "mine"}

    made = command(row("list_element", "add", {"NAME": "A"}, params))

    assert made.query == "IBLOCK_TYPE_ID=lists&ELEMENT_CODE=mine&FIELDS[NAME]=A"
    assert made.marker == "mine"


@pytest.mark.parametrize(
    "own",
    [
        pytest.param(True, id="true"),
        pytest.param(["mine"], id="list"),
        pytest.param({"a": 1}, id="object"),
        pytest.param(Decimal("1E+2"), id="decimal"),
        pytest.param(2**63, id="huge number"),
        pytest.param("m" * 256, id="long text"),
    ],
)
def test_an_own_key_that_could_not_be_found_again_is_refused(own: object) -> None:
    """The portal must read the very text by which the record will be looked up."""
    refused = refusal(row("contact", "add", {"originId": own}))

    assert (refused.code, refused.field) == ("bad_marker", "originId")


def test_a_marker_longer_than_the_portal_keeps_is_refused() -> None:
    """A key that the portal cuts would never be found again."""
    fits = row("l" * 64, "add", {"NAME": "A"}, key="k" * 190)
    again = replace(fits, generation=1)

    made, refused = command(fits), refusal(again)

    assert made.marker == "l" * 64 + ":" + "k" * 190
    assert (refused.code, refused.field) == ("bad_marker", "XML_ID")


@pytest.mark.parametrize(
    ("links", "generation", "marker"),
    [
        pytest.param((), 0, "contact:k-1", id="first"),
        pytest.param((), 2, "contact:k-1#2", id="the row's generation"),
        pytest.param((link("contact", None, generation=1),), 0, "contact:k-1#1", id="the link's"),
        pytest.param((link("contact", None),), 2, "contact:k-1", id="the link wins"),
    ],
)
def test_a_record_made_anew_has_another_name_than_its_past(
    links: tuple[Link, ...], generation: int, marker: str
) -> None:
    """A look-up must not find the record that was deleted."""
    asked = replace(row("contact", "add", {"name": "Ann"}), generation=generation)

    assert command(asked, *links).marker == marker


@pytest.mark.parametrize(
    ("kind", "links", "operation", "method"),
    [
        pytest.param("contact", (), Operation.ADD, "crm.item.add", id="no link"),
        pytest.param(
            "contact",
            (link("contact", None),),
            Operation.ADD,
            "crm.item.add",
            id="link of the past",
        ),
        pytest.param("contact", (link("contact"),), Operation.UPDATE, "crm.item.update", id="link"),
        pytest.param(
            "address", (link("address"),), Operation.ADD, "crm.address.add", id="kind without ids"
        ),
    ],
)
def test_an_upsert_is_an_update_where_a_link_is_known(
    kind: str, links: tuple[Link, ...], operation: Operation, method: str
) -> None:
    """Else it is an add."""
    asked = row(kind, "upsert", ADDRESS)

    made = command(asked, *links)

    assert (made.operation, made.method) == (operation, method)


def test_records_without_an_id_are_named_by_their_fields() -> None:
    """No link is asked for, none is made, and the id is nobody's."""
    triple = {"TYPE_ID": 1, "ENTITY_TYPE_ID": 3, "ENTITY_ID": ACME}
    acme = link("company", "8", key="acme")

    update = command(row("address", "update", {**triple, "CITY": "Rīga"}), acme)
    delete = command(row("address", "delete", triple), acme)

    named = "fields[TYPE_ID]=1&fields[ENTITY_TYPE_ID]=3&fields[ENTITY_ID]=8"
    assert update.query == named + "&fields[CITY]=R%C4%ABga"
    assert delete.query == named
    assert (update.linked, update.remote_id, update.repeatable) == (False, None, True)


def test_a_kind_without_ids_is_sent_without_one_wherever_it_would_stand() -> None:
    """An unknown id is left out and not sent as an empty one."""
    assert command(row("box", "add", {"n": 1})).query == "fields[n]=1"


def test_replacing_the_whole_may_be_repeated() -> None:
    """Setting the same rows twice leaves the same rows."""
    fields = {"productRows": [{"price": Decimal("9.90"), "taxIncluded": True}]}
    asked = row("product_rows", "upsert", fields, {"ownerId": 5, "ownerType": "D"})

    made = command(asked)

    assert made.method == "crm.item.productrow.set"
    assert made.query == (
        "ownerId=5&ownerType=D&productRows[0][price]=9.90&productRows[0][taxIncluded]=Y"
    )
    assert (made.repeatable, made.linked) == (True, False)


NOTHING_THERE = Facts(records={("contact", "k-1"): {}, ("crm.contact", "k-1"): {}})


@pytest.mark.parametrize(
    ("asked", "repeatable"),
    [
        pytest.param(row("contact", "add", {"name": "A"}), False, id="add"),
        pytest.param(row("contact", "update", {"name": "A"}), True, id="update"),
        pytest.param(row("contact", "update", {"fm": {"PHONE": ["+1"]}}), True, id="values"),
        pytest.param(
            row("crm.contact", "update", {"PHONE": [{"VALUE": "+1"}]}), True, id="classic values"
        ),
        pytest.param(row("contact", "update", {"fm": [{"value": "+1"}]}), False, id="raw"),
        pytest.param(row("contact", "update", {"fm": {"n0": {}}}), False, id="rows by their ids"),
        pytest.param(
            row("crm.contact", "update", {"PHONE": [{"ID": 7}], "EMAIL": ["a@b"]}),
            False,
            id="classic rows beside values",
        ),
        pytest.param(row("crm.deal", "update", {"PHONE": "+1"}), True, id="no multi-field there"),
        pytest.param(row("tag", "update", {"labels": ["A"]}), False, id="values nobody can read"),
        pytest.param(row("contact", "delete"), True, id="delete"),
        pytest.param(row("address", "add", ADDRESS), False, id="add of what has no id"),
        pytest.param(row("address", "update", ADDRESS), True, id="update of what has no id"),
        pytest.param(call("crm.contact.get"), False, id="call"),
    ],
)
def test_only_what_appends_must_not_be_repeated(asked: Row, *, repeatable: bool) -> None:
    """A phone number without an id is added again each time; a value is looked up before."""
    links = () if asked.operation is Operation.ADD else (link(asked.kind),)

    made = say(asked, known(*links, facts=NOTHING_THERE))

    assert made.repeatable is repeatable


@pytest.mark.parametrize("kind", ["contact", "crm.deal", "user", "task", "list_element"])
@pytest.mark.parametrize("links", [(), (None,)], ids=["never linked", "link of the past"])
@pytest.mark.parametrize("operation", ["update", "delete"])
def test_what_is_not_linked_can_be_neither_updated_nor_deleted(
    kind: str, operation: str, links: tuple[None, ...]
) -> None:
    """There is no record to name; the reason says what to write first."""
    refused = refusal(row(kind, operation, {"NAME": "A"}), *(link(kind, none) for none in links))

    assert (refused.code, refused.field, refused.reason) == (
        "no_link",
        "key",
        f"{kind} 'k-1' is not known on the portal; write an add or an upsert first",
    )


def test_what_is_linked_is_not_added_again() -> None:
    """A second record would be a duplicate that nobody asked for."""
    refused = refusal(row("contact", "add", {"name": "Ann"}), link("contact"))

    assert (refused.code, refused.field, refused.reason) == (
        "already_linked",
        "operation",
        "already on the portal as 46; use upsert or update",
    )


def test_a_reference_becomes_the_remote_id() -> None:
    """In fields and params, at any depth."""
    asked = row("crm.deal", "add", {"COMPANY_ID": ACME, "L": [{"x": ACME}]}, {"watch": ACME})

    made = command(asked, link("company", "8", key="acme"))

    assert made.query == (
        "watch=8&fields[COMPANY_ID]=8&fields[L][0][x]=8"
        "&fields[ORIGIN_ID]=crm.deal%3Ak-1&fields[ORIGINATOR_ID]=b24sync"
    )


@pytest.mark.parametrize(
    "links",
    [
        pytest.param((), id="never heard of"),
        pytest.param((link("company", None, key="acme"),), id="deleted since"),
    ],
)
def test_a_row_waits_for_the_entity_that_it_refers_to(links: tuple[Link, ...]) -> None:
    """It is neither sent without the id nor refused."""
    asked = row("deal", "add", {"companyId": ACME})

    assert target(asked, known(*links)) == Ref("company", "acme")


@pytest.mark.parametrize(
    ("value", "code", "field", "reason"),
    [
        pytest.param(
            {"$ref": {"kind": "kontact", "key": "x"}},
            "unknown_kind",
            "fields.companyId",
            "refers to 'kontact', in no table of kinds",
            id="unknown kind",
        ),
        pytest.param(
            {"$ref": {"kind": "address", "key": "x"}},
            "no_id",
            "fields.companyId",
            "refers to 'address', of which none has an id",
            id="kind without ids",
        ),
        pytest.param(
            {"$ref": "acme"},
            "bad_reference",
            "fields.companyId",
            'a reference is {"$ref": {"kind": "…", "key": "…"}} and nothing else',
            id="malformed",
        ),
    ],
)
def test_a_reference_that_will_never_resolve_is_refused(
    value: object, code: str, field: str, reason: str
) -> None:
    """Waiting for it would be waiting for ever."""
    refused = refusal(row("deal", "add", {"companyId": value}))

    assert (refused.code, refused.field, refused.reason) == (code, field, reason)


def test_a_linked_entity_may_refer_to_itself() -> None:
    """Once there is an id, it is an id like any other."""
    asked = row("contact", "update", {"ufCrm_1": {"$ref": {"kind": "contact", "key": "k-1"}}})

    assert command(asked, link("contact")).query == "entityTypeId=3&id=46&fields[ufCrm_1]=46"


@pytest.mark.parametrize(
    ("kind", "fields", "query"),
    [
        pytest.param(
            "deal",
            {"opened": True, "closed": False, "ufCrm_7": True, "UF_CRM_8": False},
            "fields[opened]=Y&fields[closed]=N&fields[ufCrm_7]=1&fields[UF_CRM_8]=0",
            id="letters, but digits in user fields",
        ),
        pytest.param(
            "stock",
            {"a": True, "b": [False]},
            "fields[a]=true&fields[b][0]=false&fields[id]=46",
            id="as a declared kind says",
        ),
        pytest.param("deal", {"comments": None}, "fields[comments]=", id="null is empty text"),
        pytest.param("deal", {"contactIds": []}, "fields[contactIds][]=", id="empty list"),
        pytest.param("deal", {"x": {}}, "fields[x][]=", id="empty object"),
        pytest.param(
            "deal",
            {"opportunity": Decimal("1999.90"), "rate": Decimal("1E+3")},
            "fields[opportunity]=1999.90&fields[rate]=1000",
            id="decimals",
        ),
        pytest.param(
            "deal",
            {"begindate": "2026-03-01", "closedate": "2026-03-01T10:00:00+03:00"},
            "fields[begindate]=2026-03-01&fields[closedate]=2026-03-01T10%3A00%3A00%2B03%3A00",
            id="dates",
        ),
        pytest.param(
            "deal", {"title": "A&B=1 €"}, "fields[title]=A%26B%3D1%20%E2%82%AC", id="text"
        ),
    ],
)
def test_values_are_written_as_the_portal_reads_them(
    kind: str, fields: dict[str, object], query: str
) -> None:
    """Every sort of leaf, in an update."""
    made = command(row(kind, "update", fields), link(kind))

    assert made.query.partition("&")[2].removeprefix("id=46&") == query


def test_text_that_the_portal_would_replace_travels_alone() -> None:
    """Inside a batch the portal takes it for a reference to another command."""
    in_fields = command(row("deal", "update", {"title": "see $result[c0]"}), link("deal"))
    in_params = command(call("a.b", {"a": ["$result[c0]"]}))
    harmless = command(row("deal", "update", {"title": "$result of c0"}), link("deal"))

    assert (in_fields.alone, in_params.alone, harmless.alone) == (True, True, False)


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        pytest.param(row("deal", "update", {f"f{n}": n for n in range(998)}), True, id="1000"),
        pytest.param(row("deal", "update", {f"f{n}": n for n in range(999)}), False, id="1001"),
        pytest.param(row("deal", "update", {"x": [[]] * 998}), True, id="1000, all empty"),
        pytest.param(row("deal", "update", {"x": [[]] * 999}), False, id="1001, all empty"),
    ],
)
def test_more_values_than_a_portal_reads_are_refused(asked: Row, *, fits: bool) -> None:
    """PHP would drop the rest without a word; type and id are values too."""
    if fits:
        assert command(asked, link("deal")).query
    else:
        refused = refusal(asked, link("deal"))
        assert (refused.code, refused.field) == ("too_many_values", "fields")


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
def test_a_command_larger_than_half_a_batch_is_refused(spare: int, *, fits: bool) -> None:
    """It would be too large the next time as well."""
    around = len("entityTypeId=2&id=46&fields[title]=")
    text = "x" * (8_388_608 - around - spare)

    asked = row("deal", "update", {"title": text})

    if fits:
        assert len(command(asked, link("deal")).query) == 8_388_608 - spare
    else:
        assert refusal(asked, link("deal")).code == "too_large"


def test_a_call_says_exactly_what_its_params_say() -> None:
    """No marker, no id, no kind: booleans are digits, references are resolved."""
    params = {"id": ACME, "notify": True, "tags": []}
    asked = replace(call("crm.company.get", params, {}), id=7)

    made = command(asked, link("company", "8", key="acme"))

    assert made == Command(
        row_ids=(7,),
        kind="call",
        key="k-1",
        operation=Operation.CALL,
        method="crm.company.get",
        query="id=8&notify=1&tags[]=",
        linked=False,
        repeatable=False,
        alone=False,
    )


def test_a_call_without_params_is_its_method_alone() -> None:
    """Whatever the kind that it stands under."""
    made = command(replace(row("contact", "call"), method="profile"), link("contact"))

    assert (made.method, made.query, made.remote_id) == ("profile", "", None)


@pytest.mark.parametrize(
    ("asked", "code", "field"),
    [
        pytest.param(row("contakt", "add", {"a": 1}), "unknown_kind", "kind", id="unknown kind"),
        pytest.param(row("call", "add", {"a": 1}), "unknown_kind", "kind", id="call is no kind"),
        pytest.param(row("shelf", "add", {"a": 1}), "no_method", "operation", id="no add"),
        pytest.param(row("shelf", "upsert", {"a": 1}), "no_method", "operation", id="no upsert"),
        pytest.param(row("product_rows", "delete"), "no_method", "operation", id="no delete"),
        pytest.param(
            call("a.b", None, {"a": 1}),
            "call_with_fields",
            "fields",
            id="call with fields",
        ),
        pytest.param(call(None), "bad_method", "method", id="call of nothing"),
        pytest.param(call("batch"), "bad_method", "method", id="batch"),
        pytest.param(row("contact", "add", [1]), "not_an_object", "fields", id="list"),
        pytest.param(row("contact", "add", "a"), "not_an_object", "fields", id="text"),
        pytest.param(row("contact", "add", 7), "not_an_object", "fields", id="number"),
        pytest.param(row("contact", "add", fields=True), "not_an_object", "fields", id="true"),
        pytest.param(row("contact", "add", ACME), "not_an_object", "fields", id="reference"),
        pytest.param(
            row("contact", "add", Unreadable("[[[")), "unreadable", "fields", id="unreadable fields"
        ),
        pytest.param(
            call("a.b", Unreadable("[[[")), "unreadable", "params", id="unreadable params"
        ),
        pytest.param(row("contact", "add", {}), "missing", "fields", id="add of nothing"),
        pytest.param(row("contact", "upsert"), "missing", "fields", id="upsert of a JSON null"),
        pytest.param(row("contact", "update", {}, {}), "missing", "fields", id="empty update"),
        pytest.param(
            row("contact", "add", {"a": 1}, "b"), "not_an_object", "params", id="params a text"
        ),
        pytest.param(
            row("contact", "add", {"a[b": 1}), "bad_name", "fields.a[b", id="bracket in a name"
        ),
        pytest.param(
            row("contact", "add", {"a": "\0"}), "bad_text", "fields.a", id="NUL in a text"
        ),
        pytest.param(
            row("task.comment", "add", {"POST_MESSAGE": "A"}),
            "missing",
            "params.taskId",
            id="param missing",
        ),
        pytest.param(
            row("product", "add", {"name": "A"}), "missing", "fields.iblockId", id="field missing"
        ),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(asked: Row, code: str, field: str) -> None:
    """Code for filters, field for people."""
    refused = refusal(asked)

    assert (refused.code, refused.field) == (code, field)


@pytest.mark.parametrize(
    ("fields", "called"),
    [
        ([1], "a list"),
        (ACME, "a reference"),
        ("a", "a text"),
        (True, "true or false"),
        (7, "a number"),
    ],
)
def test_the_reason_says_what_stands_in_place_of_an_object(fields: object, called: str) -> None:
    """In words of JSON and not of a programming language."""
    refused = refusal(row("contact", "add", fields))

    assert refused.reason == f"an object of names is needed, not {called}"


@pytest.mark.parametrize(
    ("asked", "query"),
    [
        pytest.param(
            row("user", "update", {"ID": 99, "NAME": "Ann"}), "ID=46&NAME=Ann", id="id as a field"
        ),
        pytest.param(
            row("deal", "update", {"title": "A"}, {"id": 99, "entityTypeId": 31}),
            "entityTypeId=2&id=46&fields[title]=A",
            id="id and type as params",
        ),
        pytest.param(
            row("user", "delete", {"ACTIVE": "Y"}),
            "ACTIVE=N&ID=46",
            id="fixed parameter as a field",
        ),
    ],
)
def test_no_field_or_param_leads_to_another_record(asked: Row, query: str) -> None:
    """What a link or a kind says of which record is meant cannot be overruled by a name."""
    assert command(asked, link(asked.kind)).query == query


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("crm.item.add", True),
        ("profile", True),
        ("sonet_group.create", True),
        ("", False),
        (".", False),
        ("crm..add", False),
        ("crm.item.add?id=1", False),
        ("crm/item", False),
        ("crm.item.\u0430dd", False),
        ("_", False),
        ("batch", False),
        ("Batch", False),
    ],
)
def test_a_method_is_dotted_words(name: str, *, plain: bool) -> None:
    """Nothing that would change the address, and no batch in a batch."""
    assert is_method_name(name) is plain


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (Operation.ADD, "stock.add"),
        (Operation.UPDATE, "stock.update"),
        (Operation.DELETE, "stock.delete"),
        (Operation.UPSERT, None),
        (Operation.CALL, None),
    ],
)
def test_three_operations_have_a_method_of_their_own(
    operation: Operation, name: str | None
) -> None:
    """An upsert is one of them by then, and a call brings its own."""
    method = method_of(STOCK, operation)

    assert (method.name if method is not None else None) == name


@pytest.mark.parametrize("operation", ["add", "upsert", "update", "delete"])
@pytest.mark.parametrize("state", [LinkState.DOUBT, LinkState.CONFLICT])
def test_an_entity_whose_record_is_unclear_is_never_made_again(
    operation: str, state: LinkState
) -> None:
    """A record that exists under an unknown id, or another key's id, waits for a person."""
    fields = None if operation == "delete" else {"name": "Ann"}
    unclear = Link(kind="contact", key="k-1", remote_id=None, state=state)

    assert refusal(row("contact", operation, fields), unclear).code == "link_unclear"
    around = known(unclear, policy=Policy(match="marker"))
    assert refused_by(row("contact", operation, fields), around).code == "link_unclear"


@pytest.mark.parametrize("operation", ["add", "upsert"])
@pytest.mark.parametrize("remote_id", [None, "46"])
def test_a_kind_without_ids_has_no_link_that_could_be_unclear(
    operation: str, remote_id: str | None
) -> None:
    """Nobody asks for it."""
    odd = replace(link("address", remote_id), state=LinkState.CONFLICT)

    assert command(row("address", operation, ADDRESS), odd).operation is Operation.ADD


def maker(number: int, kind: str, key: str, *id_path: str) -> Command:
    """Make the command of the same batch that makes an entity."""
    return Command(
        row_ids=(number,),
        kind=kind,
        key=key,
        operation=Operation.ADD,
        method="any.add",
        query="",
        id_path=id_path,
        linked=True,
    )


def beside(*makers: Command, around: Surroundings | None = None) -> Surroundings:
    """Stand behind these commands in a batch that stops at the first failure."""
    by_entity = {(each.kind, each.key): each for each in makers}
    return replace(around or known(), makers=by_entity)


@pytest.mark.parametrize(
    ("id_path", "text"),
    [
        pytest.param(("item", "id"), "$result[r9][item][id]", id="universal"),
        pytest.param((), "$result[r9]", id="classic"),
    ],
)
def test_a_reference_takes_the_new_id_of_an_earlier_command(
    id_path: tuple[str, ...], text: str
) -> None:
    """The text stands where the id would, and says where in the answer the id is."""
    asked = row("deal", "add", {"companyId": ACME, "L": [ACME]}, {"p": ACME})

    made = say(asked, beside(maker(9, "company", "acme", *id_path)))

    assert unquote(made.query) == (
        f"entityTypeId=2&p={text}&fields[companyId]={text}&fields[L][0]={text}"
        "&fields[originId]=deal:k-1&fields[originatorId]=b24sync"
    )
    assert (made.sources, made.alone) == ((9,), False)


def test_the_sources_of_a_command_are_named_once_and_in_order() -> None:
    """The batch must hold them all, before this one."""
    fields = {"a": ACME, "b": ITSELF, "c": ACME}
    sources = (maker(9, "company", "acme"), maker(3, "contact", "k-1"))

    made = say(row("deal", "add", fields), beside(*sources))

    assert made.sources == (3, 9)


def test_a_call_may_take_a_new_id_too() -> None:
    """Its params are resolved like fields."""
    made = say(call("crm.company.get", {"id": ACME}), beside(maker(9, "company", "acme")))

    assert unquote(made.query) == "id=$result[r9]"
    assert (made.sources, made.alone) == ((9,), False)


def test_a_known_id_is_taken_before_a_new_one() -> None:
    """What is linked needs no other command."""
    around = known(link("company", "8", key="acme"))

    made = say(
        row("deal", "add", {"companyId": ACME}),
        beside(maker(9, "company", "acme"), around=around),
    )

    assert "fields[companyId]=8&" in made.query
    assert made.sources == ()


def test_a_command_whose_answer_tells_no_id_makes_nothing() -> None:
    """There would be nothing to refer to."""
    silent = replace(maker(9, "company", "acme"), id_path=None)

    assert target(row("deal", "add", {"companyId": ACME}), beside(silent)) == Ref("company", "acme")


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(row("deal", "add", {"companyId": ACME, "title": "$result[r9]"}), id="field"),
        pytest.param(row("deal", "add", {"companyId": ACME}, {"p": ["$result["]}), id="param"),
        pytest.param(row("deal", "add", {"companyId": ACME}, key="$result[r9]"), id="key"),
    ],
)
def test_a_row_with_such_a_text_of_its_own_takes_no_new_id(asked: Row) -> None:
    """The portal could not tell the application's text from the reference."""
    makers = maker(9, "company", "acme")

    assert target(asked, beside(makers)) == Ref("company", "acme")
    assert say(asked, known(link("company", "8", key="acme"))).alone


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"name": "Ann", "ufCrm_1": ITSELF}, id="plain"),
        pytest.param({"name": "Ann", "ufCrm_1": [{"x": ITSELF}]}, id="deep inside"),
        pytest.param({"ufCrm_1": ITSELF}, id="nothing else"),
    ],
)
def test_an_entity_that_refers_to_itself_waits_for_its_own_id(fields: dict[str, object]) -> None:
    """Whether its add can go without the reference is decided where circles are seen."""
    assert target(row("contact", "add", fields), known()) == Ref("contact", "k-1")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        pytest.param(row("contact", "update", {"x": ITSELF}), "fields.x", id="update"),
        pytest.param(row("contact", "delete", None, {"x": [ITSELF]}), "params.x[0]", id="delete"),
        pytest.param(
            replace(row("contact", "call", None, {"id": ITSELF}), method="crm.item.get"),
            "params.id",
            id="call about it",
        ),
    ],
)
def test_what_makes_no_record_does_not_wait_for_its_own(asked: Row, field: str) -> None:
    """Nothing that follows would give it an id."""
    refused = refusal(asked)

    assert (refused.code, refused.field, refused.reason) == (
        "no_link",
        field,
        "refers to the entity itself, which has no id yet",
    )
    assert command(asked, link("contact")).row_ids == (1,)


def cut_at(ref: Ref, *links: Link) -> Surroundings:
    """Break a circle of references at row 1, where it refers to this entity."""
    return replace(known(*links), cut={1: ref})


@pytest.mark.parametrize("operation", ["add", "upsert"])
def test_a_circle_is_broken_by_leaving_out_what_refers_to_the_target(operation: str) -> None:
    """The add carries everything else, and the command remembers what is left to be said."""
    fields = {"name": "Ann", "u": ITSELF, "rows": [1, {"x": ITSELF}], "companyId": ACME}
    around = cut_at(Ref("contact", "k-1"), link("company", "8", key="acme"))

    made = say(row("contact", operation, fields), around)

    assert unquote(made.query) == (
        "entityTypeId=3&fields[name]=Ann&fields[companyId]=8"
        "&fields[originId]=contact:k-1&fields[originatorId]=b24sync"
    )
    assert made.remainder == {"u": ITSELF, "rows": [1, {"x": ITSELF}]}


def test_a_circle_is_broken_in_its_own_row_only() -> None:
    """Other rows are said whole."""
    around = cut_at(Ref("company", "acme"), link("company", "8", key="acme"))

    made = say(row("contact", "add", {"companyId": ACME}, number=2), around)

    assert "fields[companyId]=8&" in made.query
    assert made.remainder is None


def test_what_is_no_object_of_fields_is_refused_in_a_circle_too() -> None:
    """There is nothing to leave out."""
    refused = refused_by(row("contact", "add", [ITSELF]), cut_at(Ref("contact", "k-1")))

    assert (refused.code, refused.field) == ("not_an_object", "fields")


CUTTABLE = {"name": "Ann", "companyId": ACME}


@pytest.mark.parametrize(
    ("asked", "links", "expected"),
    [
        pytest.param(row("contact", "add", CUTTABLE), (), True, id="add"),
        pytest.param(row("contact", "upsert", CUTTABLE), (), True, id="upsert of an unknown key"),
        pytest.param(
            row("contact", "upsert", CUTTABLE), (link("contact", None),), True, id="of a past one"
        ),
        pytest.param(
            row("contact", "upsert", CUTTABLE), (link("contact"),), False, id="upsert of a known"
        ),
        pytest.param(row("contact", "update", CUTTABLE), (), False, id="update"),
        pytest.param(row("contact", "delete"), (), False, id="delete"),
        pytest.param(row("contact", "call", CUTTABLE), (), False, id="call"),
        pytest.param(row("contact", "add", {"companyId": ACME}), (), False, id="nothing else"),
        pytest.param(row("contact", "add", {"name": "Ann"}), (), False, id="refers to nobody"),
        pytest.param(row("contact", "add", CUTTABLE, {"p": ACME}), (), False, id="in the params"),
        pytest.param(row("contact", "add", [ACME]), (), False, id="no object"),
        pytest.param(
            row("contact", "add", {**CUTTABLE, "x": {"$ref": 7}}), (), False, id="malformed"
        ),
        pytest.param(row("nothing", "add", CUTTABLE), (), False, id="unknown kind"),
        pytest.param(row("shelf", "add", CUTTABLE), (), False, id="no add"),
        pytest.param(row("address", "add", CUTTABLE), (), False, id="no ids"),
        pytest.param(row("list_element", "add", CUTTABLE), (), False, id="updates clear the rest"),
        pytest.param(
            row("comment", "add", {"ENTITY_ID": ACME, "COMMENT": "A"}),
            (),
            False,
            id="a field that the add needs",
        ),
    ],
)
def test_only_an_add_that_loses_nothing_by_it_can_be_cut(
    asked: Row, links: tuple[Link, ...], *, expected: bool
) -> None:
    """Something must be left to add, and an update must be able to say the rest afterwards."""
    assert may_be_cut(asked, Ref("company", "acme"), known(*links)) is expected


def test_facts_are_added_to_each_other_entity_by_entity() -> None:
    """What was read later is nearer to the truth."""
    fault = Fault(code="A", text="", kind=FaultKind.FORBIDDEN)
    later = replace(fault, code="B")
    first = Facts(
        records={("deal", "a"): {"x": 1}, ("deal", "b"): {"x": 2}},
        matches={("deal", "a"): ("1",)},
        failures={("deal", "a"): fault},
    )
    second = Facts(
        records={("deal", "b"): {}},
        matches={("deal", "a"): (), ("deal", "b"): ("2",)},
        failures={("deal", "a"): later},
    )

    assert first | second == Facts(
        records={("deal", "a"): {"x": 1}, ("deal", "b"): {}},
        matches={("deal", "a"): (), ("deal", "b"): ("2",)},
        failures={("deal", "a"): later},
    )
    assert NO_FACTS | first == first


ONE_PHONE = {"fm": [{"id": 7, "typeId": "PHONE", "valueType": "WORK", "value": "+1"}]}


def read(record: Mapping[str, object], kind: str = "contact") -> Surroundings:
    """Know the linked entity's record as it is on the portal."""
    return known(link(kind), facts=Facts(records={(kind, "k-1"): record}))


@pytest.mark.parametrize(
    ("asked", "query"),
    [
        pytest.param(
            row("contact", "add", {"fm": {"PHONE": ["+1"]}, "originId": "mine"}),
            "entityTypeId=3&fields[fm][0][typeId]=PHONE&fields[fm][0][valueType]=WORK"
            "&fields[fm][0][value]=+1&fields[originId]=mine",
            id="universal",
        ),
        pytest.param(
            row("crm.contact", "add", {"PHONE": "+1", "EMAIL": [{"VALUE": "a@b"}], "ORIGIN_ID": 1}),
            "fields[PHONE][0][VALUE]=+1&fields[PHONE][0][VALUE_TYPE]=WORK"
            "&fields[EMAIL][0][VALUE]=a@b&fields[EMAIL][0][VALUE_TYPE]=WORK&fields[ORIGIN_ID]=1",
            id="classic",
        ),
        pytest.param(
            row("contact", "upsert", {"originId": "mine", "fm": {"PHONE": []}}),
            "entityTypeId=3&fields[originId]=mine",
            id="no values",
        ),
        pytest.param(
            row("tag", "add", {"labels": []}), "fields[]=", id="no values and nothing else"
        ),
    ],
)
def test_an_add_says_values_as_new_rows(asked: Row, query: str) -> None:
    """Nothing has to be read before, and no values are nothing to say."""
    assert unquote(command(asked).query) == query


@pytest.mark.parametrize(
    ("asked", "method", "query"),
    [
        pytest.param(
            row("contact", "update", {"fm": {"PHONE": ["+1"]}}),
            "crm.item.get",
            "entityTypeId=3&id=46",
            id="universal",
        ),
        pytest.param(
            row("contact", "upsert", {"name": "A", "fm": {"PHONE": []}}),
            "crm.item.get",
            "entityTypeId=3&id=46",
            id="even to clear them",
        ),
        pytest.param(
            row("contact", "update", {"fm": {}}, {"useOriginalUfNames": "Y", "x": 1}),
            "crm.item.get",
            "entityTypeId=3&useOriginalUfNames=Y&id=46",
            id="by the names that the change uses",
        ),
        pytest.param(
            row("crm.contact", "update", {"PHONE": ["+1"]}),
            "crm.contact.get",
            "id=46",
            id="classic",
        ),
    ],
)
def test_an_update_of_values_asks_for_the_record_first(asked: Row, method: str, query: str) -> None:
    """Without the ids of the rows that are there, the portal would add to them."""
    assert question(asked, known(link(asked.kind))) == Question(
        kind=asked.kind, key="k-1", asks=Asks.RECORD, method=method, query=query
    )


@pytest.mark.parametrize(
    ("fields", "record", "query"),
    [
        pytest.param(
            {"fm": {"PHONE": ["+2"]}},
            ONE_PHONE,
            "fields[fm][7][typeId]=PHONE&fields[fm][7][valueType]=WORK&fields[fm][7][value]=+2",
            id="another value",
        ),
        pytest.param(
            {"fm": {"PHONE": ["+1", "+2"]}},
            ONE_PHONE,
            "fields[fm][n0][typeId]=PHONE&fields[fm][n0][valueType]=WORK&fields[fm][n0][value]=+2",
            id="one more",
        ),
        pytest.param(
            {"fm": {"PHONE": []}},
            ONE_PHONE,
            "fields[fm][7][typeId]=PHONE&fields[fm][7][value]=",
            id="none",
        ),
        pytest.param(
            {"fm": {"PHONE": ["+1"]}},
            {},
            "fields[fm][n0][typeId]=PHONE&fields[fm][n0][valueType]=WORK&fields[fm][n0][value]=+1",
            id="nothing there",
        ),
        pytest.param(
            {"name": "Ann", "fm": {"PHONE": ["+1"]}}, ONE_PHONE, "fields[name]=Ann", id="as it is"
        ),
    ],
)
def test_what_was_read_makes_rows_of_the_values(
    fields: dict[str, object], record: Mapping[str, object], query: str
) -> None:
    """Only what has to change is said, by the ids that are there."""
    made = say(row("contact", "update", fields), read(record))

    assert unquote(made.query) == "entityTypeId=3&id=46&" + query
    assert made.repeatable


def test_values_that_are_there_already_are_not_sent() -> None:
    """The portal is so already."""
    with pytest.raises(Unchanged):
        say(row("contact", "update", {"fm": {"PHONE": ["+1"], "EMAIL": []}}), read(ONE_PHONE))


def test_a_delete_asks_for_no_values() -> None:
    """Whatever it carries, the record goes as it is."""
    made = command(row("contact", "delete", {"fm": {"PHONE": ["+1"]}}), link("contact"))

    assert made.query.startswith("entityTypeId=3&id=46")


def test_several_fields_of_values_are_unchanged_only_together() -> None:
    """One of them that differs is sent alone."""
    record = {"PHONE": [{"ID": "5", "VALUE": "+1", "VALUE_TYPE": "WORK"}]}
    asked = row("crm.contact", "update", {"PHONE": ["+1"], "EMAIL": ["a@b"]})

    made = say(asked, read(record, "crm.contact"))

    assert (
        unquote(made.query) == "id=46&fields[EMAIL][0][VALUE]=a@b&fields[EMAIL][0][VALUE_TYPE]=WORK"
    )


@pytest.mark.parametrize(
    ("kind", "fields", "query"),
    [
        pytest.param(
            "contact",
            {"fm": [{"value": "+1"}]},
            "entityTypeId=3&id=46&fields[fm][0][value]=+1",
            id="rows without a type",
        ),
        pytest.param(
            "contact",
            {"fm": {"7": {"typeId": "PHONE", "value": "+1"}}},
            "entityTypeId=3&id=46&fields[fm][7][typeId]=PHONE&fields[fm][7][value]=+1",
            id="rows by their ids",
        ),
        pytest.param(
            "crm.contact",
            {"PHONE": [{"ID": 5, "DELETE": "Y"}]},
            "id=46&fields[PHONE][0][ID]=5&fields[PHONE][0][DELETE]=Y",
            id="classic rows",
        ),
    ],
)
def test_rows_that_name_themselves_are_sent_as_they_are_written(
    kind: str, fields: dict[str, object], query: str
) -> None:
    """Nothing is asked: the application knows the rows itself."""
    assert unquote(command(row(kind, "update", fields), link(kind)).query) == query


def test_values_of_a_kind_that_nobody_can_read_are_sent_as_new_rows() -> None:
    """There is no question to ask."""
    made = command(row("tag", "update", {"labels": ["A"]}), link("tag"))

    assert (
        unquote(made.query) == "id=46&fields[labels][0][VALUE]=A&fields[labels][0][VALUE_TYPE]=WORK"
    )


@pytest.mark.parametrize("operation", ["add", "upsert"])
def test_values_that_make_no_sense_are_refused_by_their_place(operation: str) -> None:
    """Before anything is asked or sent."""
    refused = refusal(row("contact", operation, {"fm": {"PHONE": [None]}}))

    assert (refused.code, refused.field) == ("bad_value", "fields.fm.PHONE[0]")


DENIED = Fault(code="ACCESS_DENIED", text="Access denied.", kind=FaultKind.FORBIDDEN)


def test_an_update_of_values_is_refused_if_the_record_cannot_be_read() -> None:
    """To send the values unseen would double them."""
    around = known(link("contact"), facts=Facts(failures={("contact", "k-1"): DENIED}))

    refused = refused_by(row("contact", "update", {"fm": {"PHONE": ["+1"]}}), around)

    assert (refused.code, refused.field, refused.reason) == (
        "cannot_read",
        "fields.fm",
        "the portal would not let its record be read: ACCESS_DENIED Access denied.",
    )
    assert say(row("contact", "update", {"name": "A"}), around).query


@pytest.mark.parametrize(
    ("asked", "method", "query"),
    [
        pytest.param(
            row("contact", "upsert", {"name": "A"}),
            "crm.item.list",
            "entityTypeId=3&filter[=originId]=contact:k-1&filter[=originatorId]=b24sync"
            "&select[0]=id&select[1]=originId&select[2]=originatorId&start=-1",
            id="universal",
        ),
        pytest.param(
            row("contact", "upsert", {"name": "A"}, {"useOriginalUfNames": "Y", "x": 1}),
            "crm.item.list",
            "entityTypeId=3&useOriginalUfNames=Y&filter[=originId]=contact:k-1"
            "&filter[=originatorId]=b24sync"
            "&select[0]=id&select[1]=originId&select[2]=originatorId&start=-1",
            id="by the names that the change uses",
        ),
        pytest.param(
            row("crm.contact", "upsert", {"NAME": "A"}),
            "crm.contact.list",
            "filter[=ORIGIN_ID]=crm.contact:k-1&filter[=ORIGINATOR_ID]=b24sync"
            "&select[0]=ID&select[1]=ORIGIN_ID&select[2]=ORIGINATOR_ID&start=-1",
            id="classic",
        ),
        pytest.param(
            row("item:1036", "update", {"title": "A"}),
            "crm.item.list",
            "entityTypeId=1036&filter[=xmlId]=item:1036:k-1&select[0]=id&select[1]=xmlId&start=-1",
            id="key field only, an update",
        ),
        pytest.param(
            row("contact", "delete"),
            "crm.item.list",
            "entityTypeId=3&filter[=originId]=contact:k-1&filter[=originatorId]=b24sync"
            "&select[0]=id&select[1]=originId&select[2]=originatorId&start=-1",
            id="delete",
        ),
        pytest.param(
            row("list_element", "upsert", {"NAME": "A"}, {"IBLOCK_TYPE_ID": "lists"}),
            "lists.element.get",
            "IBLOCK_TYPE_ID=lists&ELEMENT_CODE=list_element:k-1&start=-1",
            id="among the params",
        ),
        pytest.param(
            row("product", "upsert", {"name": "A", "iblockId": 23}),
            "catalog.product.list",
            "filter[=iblockId]=23&filter[=xmlId]=product:k-1"
            "&select[0]=id&select[1]=iblockId&select[2]=xmlId&start=-1",
            id="with what the list wants to know",
        ),
        pytest.param(
            row("contact", "upsert", {"originId": "mine", "originatorId": "shop"}),
            "crm.item.list",
            "entityTypeId=3&filter[=originId]=mine&filter[=originatorId]=shop"
            "&select[0]=id&select[1]=originId&select[2]=originatorId&start=-1",
            id="own key and origin",
        ),
        pytest.param(
            row("contact", "upsert", {"originId": "mine"}),
            "crm.item.list",
            "entityTypeId=3&filter[=originId]=mine&select[0]=id&select[1]=originId&start=-1",
            id="own key, which is added without an origin",
        ),
        pytest.param(
            row("contact", "upsert", {"originId": 0}),
            "crm.item.list",
            "entityTypeId=3&filter[=originId]=0&select[0]=id&select[1]=originId&start=-1",
            id="the number nought",
        ),
        pytest.param(
            row("contact", "upsert", {"originId": ""}),
            "crm.item.list",
            "entityTypeId=3&filter[=originId]=contact:k-1&filter[=originatorId]=b24sync"
            "&select[0]=id&select[1]=originId&select[2]=originatorId&start=-1",
            id="empty is none",
        ),
        pytest.param(
            row(
                "list_element",
                "upsert",
                {"NAME": "A"},
                {"IBLOCK_TYPE_ID": "lists", "ELEMENT_CODE": "mine"},
            ),
            "lists.element.get",
            "IBLOCK_TYPE_ID=lists&ELEMENT_CODE=mine&start=-1",
            id="own key among the params",
        ),
    ],
)
def test_an_unknown_key_is_looked_for_by_what_its_add_would_carry(
    asked: Row, method: str, query: str
) -> None:
    """The marker, if the policy says so, before a second record is made."""
    wanted = question(asked, known(policy=Policy(match="marker")))

    assert (wanted.kind, wanted.key, wanted.asks) == (asked.kind, "k-1", Asks.MATCH)
    assert (wanted.method, unquote(wanted.query)) == (method, query)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param("A B", "A B", id="text"),
        pytest.param(7, "7", id="number"),
        pytest.param(0, "0", id="nought"),
        pytest.param(ACME, "8", id="reference"),
    ],
)
def test_an_unknown_key_is_looked_for_by_a_field(value: object, text: str) -> None:
    """By the name that changes give it, and by the very value that they carry."""
    around = known(link("company", "8", key="acme"), policy=Policy(match="ufCrmCode"))

    wanted = question(row("deal", "upsert", {"ufCrmCode": value}), around)

    assert unquote(wanted.query) == (
        f"entityTypeId=2&filter[=ufCrmCode]={text}&select[0]=id&select[1]=ufCrmCode&start=-1"
    )


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"title": "A"}, id="missing"),
        pytest.param({"code": ""}, id="empty text"),
        pytest.param({"code": None}, id="null"),
        pytest.param({"code": ["A"]}, id="list"),
        pytest.param({"code": {"a": 1}}, id="object"),
        pytest.param({"code": Decimal("1.5")}, id="number with a fraction"),
        pytest.param({"code": True}, id="yes"),
    ],
)
def test_an_empty_value_matches_nothing(fields: dict[str, object]) -> None:
    """Half of all records would be found by it, and any of them be taken for this one."""
    asked = row("deal", "upsert", fields)

    assert say(asked, known(policy=Policy(match="code"))).operation is Operation.ADD


def test_an_own_key_without_a_readable_origin_matches_nothing() -> None:
    """Both say together whose key it is."""
    asked = row("contact", "upsert", {"originId": "mine", "originatorId": None})

    assert say(asked, known(policy=Policy(match="marker"))).marker == "mine"


DRAWER = Kind(
    name="drawer",
    add=Method(name="drawer.add"),
    list=Method(name="drawer.list", fields_param="filter", id_path=("id",)),
    linked=False,
)


@pytest.mark.parametrize(
    ("asked", "links", "by"),
    [
        pytest.param(row("contact", "add", {"name": "A"}), (), "marker", id="an add"),
        pytest.param(
            row("contact", "upsert", {"name": "A"}), (link("contact"),), "name", id="known"
        ),
        pytest.param(row("deal", "upsert", {"title": "A"}), (), None, id="no policy"),
        pytest.param(row("task", "upsert", {"TITLE": "A"}), (), "marker", id="no marker"),
        pytest.param(row("stock", "upsert", {"n": 1}), (), "n", id="no list"),
        pytest.param(row("drawer", "upsert", {"n": 1}), (), "n", id="no ids"),
        pytest.param(call("crm.item.get", {"name": "A"}), (), "name", id="a call"),
    ],
)
def test_nothing_is_looked_for_where_that_makes_no_sense(
    asked: Row, links: tuple[Link, ...], by: str | None
) -> None:
    """An add says that there is none, and some kinds cannot be asked."""
    around = known(*links, policy=Policy(match=by))

    made = say(asked, replace(around, kinds={**KINDS, "drawer": DRAWER}))

    assert made.row_ids == (1,)


def matched(*ids: str) -> Surroundings:
    """Know which records may be the unknown contact."""
    return known(policy=Policy(match="name"), facts=Facts(matches={("contact", "k-1"): ids}))


def test_a_key_that_matches_nothing_is_made() -> None:
    """The portal was asked, and there is none."""
    made = say(row("contact", "upsert", {"name": "A"}), matched())

    assert (made.operation, made.marker) == (Operation.ADD, "contact:k-1")


def test_a_key_that_matches_nothing_can_be_neither_updated_nor_deleted() -> None:
    """There is still no record to name."""
    refused = refused_by(row("contact", "update", {"name": "A"}), matched())

    assert refused.code == "no_link"


@pytest.mark.parametrize("operation", ["upsert", "update"])
def test_a_match_that_did_not_become_the_entitys_own_belongs_to_another(operation: str) -> None:
    """A record that is free is linked when it is found, so this one is not."""
    refused = refused_by(row("contact", operation, {"name": "A"}), matched("46"))

    assert (refused.code, refused.field, refused.reason) == (
        "link_conflict",
        "key",
        "the portal's record 46 matches by name, and belongs to another key",
    )


@pytest.mark.parametrize(
    ("ids", "shown"),
    [
        (("4", "5"), "2 records of the portal match by name: 4, 5; "),
        (
            tuple(str(number) for number in range(1, 13)),
            "12 records of the portal match by name: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10; ",
        ),
    ],
    ids=len,
)
def test_several_matches_are_for_a_person_to_decide(ids: tuple[str, ...], shown: str) -> None:
    """None of them is guessed, and the reason names the first ten and the way out."""
    refused = refused_by(row("contact", "upsert", {"name": "A"}), matched(*ids))

    assert (refused.code, refused.field) == ("several_matches", "key")
    assert refused.reason == shown + "make one the entity's own with `b24sync links load`"


def test_a_key_that_cannot_be_looked_for_is_refused() -> None:
    """To make a record unseen could make a second one."""
    wordless = replace(DENIED, text="")
    facts = Facts(failures={("contact", "k-1"): wordless})

    refused = refused_by(
        row("contact", "upsert", {"name": "A"}), known(policy=Policy(match="name"), facts=facts)
    )

    assert (refused.code, refused.field, refused.reason) == (
        "cannot_read",
        "key",
        "the portal would not let its record be read: ACCESS_DENIED",
    )


def test_a_record_of_the_past_is_looked_for_under_its_new_name() -> None:
    """What was deleted is not found again."""
    around = known(link("contact", None, generation=2), policy=Policy(match="marker"))

    wanted = question(row("contact", "upsert", {"name": "A"}), around)

    assert "filter[=originId]=contact:k-1#2&" in unquote(wanted.query)


def test_a_question_never_refers_to_a_command_of_the_batch() -> None:
    """It travels before the batch, so it waits for the id."""
    fields = {"COMMENT": "A", "ENTITY_ID": ACME, "ENTITY_TYPE": "company"}
    asked = row("comment", "upsert", fields, {"ownerTypeId": 4, "ownerId": 8})
    around = known(policy=Policy(match="COMMENT"))

    assert target(asked, beside(maker(9, "company", "acme"), around=around)) == Ref(
        "company", "acme"
    )


def test_a_question_that_needs_no_new_id_is_asked_in_a_chain_too() -> None:
    """The new id is only in what is said afterwards."""
    around = known(policy=Policy(match="title"))
    asked = row("deal", "upsert", {"title": "A", "companyId": ACME})

    wanted = question(asked, beside(maker(9, "company", "acme"), around=around))

    assert unquote(wanted.query) == (
        "entityTypeId=2&filter[=title]=A&select[0]=id&select[1]=title&start=-1"
    )


SKIP = Policy(skip_unchanged=True)


def sent(kind: str, former: Mapping[str, str] | None, remote_id: str | None = "46") -> Link:
    """Know the entity, and what was last sent of it."""
    return replace(link(kind, remote_id), sent=former)


def test_what_was_sent_is_remembered_field_by_field() -> None:
    """An add begins anew, an update adds to what is known."""
    prints = fingerprints({"title": "A", "": {"p": 1}, "stage": "B"})
    past = sent("deal", {"old": "x"}, None)

    added = say(row("deal", "add", {"title": "A"}, {"p": 1}), known(past, policy=SKIP))
    updated = say(
        row("deal", "update", {"stage": "B"}),
        known(sent("deal", {"title": "x", "stage": "y"}), policy=SKIP),
    )

    assert added.fingerprints == {"title": prints["title"], "": prints[""]}
    assert updated.fingerprints == {"title": "x", "stage": prints["stage"]}


FORMER = fingerprints({"title": "A", "stage": "B", "": {"p": 1}})


@pytest.mark.parametrize(
    ("fields", "params"),
    [
        pytest.param({"title": "A", "stage": "B"}, None, id="all of it"),
        pytest.param({"title": "A"}, None, id="a part of it"),
        pytest.param({"title": "A"}, {"p": 1}, id="with its params"),
        pytest.param(None, {"p": 1}, id="params alone"),
    ],
)
def test_an_update_that_says_what_was_said_last_is_not_sent(fields: object, params: object) -> None:
    """Nothing newer was said, so the portal is so already."""
    around = known(sent("deal", FORMER), policy=SKIP)

    with pytest.raises(Unchanged):
        say(row("deal", "upsert", fields, params), around)


@pytest.mark.parametrize(
    ("fields", "params", "former"),
    [
        pytest.param({"title": "B"}, None, FORMER, id="another value"),
        pytest.param({"title": "A", "stage": "C"}, None, FORMER, id="one that differs"),
        pytest.param({"title": "A", "more": 1}, None, FORMER, id="one that is new"),
        pytest.param({"title": "A"}, {"p": 2}, FORMER, id="other params"),
        pytest.param({"title": "A"}, None, {"title": ""}, id="sent without a known value"),
        pytest.param({"title": "A"}, None, {}, id="nothing known"),
        pytest.param({"title": "A"}, None, None, id="never kept"),
    ],
)
def test_an_update_that_says_anything_new_is_sent_whole(
    fields: dict[str, object], params: object, former: Mapping[str, str] | None
) -> None:
    """Every field of it, since they may belong together."""
    made = say(row("deal", "update", fields, params), known(sent("deal", former), policy=SKIP))

    assert all(f"fields[{name}]=" in made.query for name in fields)


def test_an_add_is_never_taken_for_a_repetition() -> None:
    """What the past record was sent says nothing of the new one."""
    past = sent("deal", FORMER, None)

    assert say(row("deal", "add", {"title": "A"}), known(past, policy=SKIP)).marker == "deal:k-1"


def test_values_said_again_are_not_even_looked_up() -> None:
    """The question costs a request."""
    fields = {"fm": {"PHONE": ["+1"]}}
    around = known(sent("contact", fingerprints(fields)), policy=SKIP)

    with pytest.raises(Unchanged):
        say(row("contact", "update", fields), around)


def test_what_cannot_be_written_is_refused_and_not_taken_for_a_repetition() -> None:
    """A value without a fingerprint is like none."""
    around = known(sent("deal", FORMER), policy=SKIP)

    for fields in ({"title": "A", "x": "\0"}, {"x": "\0"}):
        assert refused_by(row("deal", "update", fields), around).code == "bad_text"


def test_booleans_are_remembered_as_the_kind_writes_them() -> None:
    """Else the same word of two kinds would be two words."""
    around = known(sent("stock", fingerprints({"a": "true"})), policy=SKIP)

    with pytest.raises(Unchanged):
        say(row("stock", "update", {"a": True}), around)


def test_what_takes_a_new_id_is_remembered_as_said_but_not_as_what() -> None:
    """The id is not known yet, so saying the same again is sent again."""
    chained = beside(maker(9, "company", "acme"), around=known(sent("deal", FORMER), policy=SKIP))

    made = say(row("deal", "update", {"title": "A", "companyId": ACME}, {"p": 1}), chained)

    assert made.fingerprints == {**FORMER, "title": "", "companyId": "", "": ""}


@pytest.mark.parametrize("former", [None, FORMER, {}], ids=["none", "some", "empty"])
@pytest.mark.parametrize(
    ("asked", "policy"),
    [
        pytest.param(row("deal", "update", {"title": "A"}), Policy(), id="switched off"),
        pytest.param(row("deal", "delete"), SKIP, id="delete"),
        pytest.param(
            row("list_element", "update", {"title": "A"}, {"IBLOCK_TYPE_ID": "lists"}),
            SKIP,
            id="an update that clears the rest",
        ),
        pytest.param(row("address", "update", ADDRESS), SKIP, id="no ids"),
    ],
)
def test_where_nothing_is_kept_nothing_old_stays(
    asked: Row, policy: Policy, former: Mapping[str, str] | None
) -> None:
    """What was last sent is not true any more after another change; what is not kept stays so."""
    made = say(asked, known(sent(asked.kind, former), policy=policy))

    assert made.fingerprints == ({} if former else None)


VERIFY = Policy(verify=True)


@pytest.mark.parametrize(
    ("asked", "links"),
    [
        pytest.param(row("deal", "add", {"title": "A"}, {"p": 1}), (), id="add"),
        pytest.param(row("deal", "update", {"title": "A"}, {"p": 1}), (link("deal"),), id="update"),
    ],
)
def test_what_is_to_be_verified_is_told_under_its_own_names(
    asked: Row, links: tuple[Link, ...]
) -> None:
    """Without the marker, which nobody said."""
    made = say(asked, known(*links, policy=VERIFY))

    assert made.said == Said(fields={"title": "A"}, params={"p": 1})
    assert say(asked, known(*links)).said is None


def test_what_is_to_be_verified_holds_ids_and_values() -> None:
    """References are resolved, and values stay values: that is how the record will be compared."""
    fields = {"companyId": ACME, "fm": {"PHONE": ["+1"]}}

    made = say(
        row("contact", "add", fields), known(link("company", "8", key="acme"), policy=VERIFY)
    )

    assert made.said == Said(fields={"companyId": "8", "fm": {"PHONE": ["+1"]}}, params={})


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(row("deal", "delete", {"title": "A"}), id="delete, whatever it carries"),
        pytest.param(row("deal", "update", None, {"p": 1}), id="params alone"),
        pytest.param(row("user", "update", {"NAME": "A"}), id="a kind that cannot be read"),
        pytest.param(
            row("calendar_event", "update", {"type": "user", "ownerId": 1}),
            id="a record of other names",
        ),
        pytest.param(call("crm.item.get", {"id": 1}), id="call"),
    ],
)
def test_nothing_is_verified_that_cannot_be_compared(asked: Row) -> None:
    """No request is spent on it."""
    assert say(asked, known(link(asked.kind), policy=VERIFY)).said is None


def test_what_takes_a_new_id_is_not_verified() -> None:
    """What the record must hold is not known when it is said."""
    asked = row("deal", "add", {"companyId": ACME})

    made = say(asked, beside(maker(9, "company", "acme"), around=known(policy=VERIFY)))

    assert made.said is None
