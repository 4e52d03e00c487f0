"""Rows become exactly the commands that the portal understands, or are refused with a reason."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.kinds import Kind, Marker, Method
from b24sync.core.model import (
    Closing,
    Command,
    Link,
    LinkState,
    Operation,
    Plan,
    Postponed,
    Ref,
    Refusal,
    ResultOutcome,
    Row,
    Unreadable,
    Waiting,
)
from b24sync.core.planning import (
    MAX_COMMAND_BYTES,
    Surroundings,
    is_method_name,
    method_of,
    needed_links,
    plan,
)

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
LOCKER = Kind(
    name="l" * 64,
    add=Method(name="locker.add", id_path=()),
    marker=Marker(key_field="XML_ID"),
)
FLAT_BOX = Kind(
    name="box",
    add=Method(name="box.add", id_param="fields.id", id_path=()),
    linked=False,
)
KINDS = {kind.name: kind for kind in (STOCK, READ_ONLY_SHELF, LOCKER, FLAT_BOX)}


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


def known(*links: Link, blocked: Mapping[str, int] | None = None) -> Surroundings:
    """Know these links."""
    return Surroundings(
        links={(link.kind, link.key): link for link in links},
        kinds=KINDS,
        blocked=blocked or {},
        now_ms=NOW_MS,
    )


def link(kind: str, remote_id: str | None = "46", *, generation: int = 0, key: str = "k-1") -> Link:
    """Know the entity by this id."""
    return Link(kind=kind, key=key, remote_id=remote_id, generation=generation)


def command(asked: Row, *links: Link) -> Command:
    """Plan one row that can be sent."""
    planned = plan([asked], known(*links))
    assert [planned.refusals, planned.waiting, planned.postponed, planned.closing] == [()] * 4
    (only,) = planned.commands
    return only


def refusal(asked: Row, *links: Link) -> Refusal:
    """Plan one row that cannot be said."""
    planned = plan([asked], known(*links))
    assert planned == Plan(refusals=planned.refusals)
    (only,) = planned.refusals
    return only


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
    asked = row(kind, "upsert", {"TYPE_ID": 1, "ENTITY_TYPE_ID": 3, "ENTITY_ID": 5})

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


@pytest.mark.parametrize(
    ("asked", "repeatable"),
    [
        pytest.param(row("contact", "update", {"name": "A"}), True, id="update"),
        pytest.param(row("contact", "update", {"fm": [{"value": "+1"}]}), False, id="multi-field"),
        pytest.param(
            row("crm.contact", "update", {"PHONE": [{"VALUE": "+1"}]}), False, id="classic phone"
        ),
        pytest.param(row("crm.deal", "update", {"PHONE": "+1"}), True, id="no multi-field there"),
        pytest.param(row("contact", "delete"), True, id="delete"),
    ],
)
def test_only_what_appends_must_not_be_repeated(asked: Row, *, repeatable: bool) -> None:
    """A phone number without an id is added again each time."""
    assert command(asked, link(asked.kind)).repeatable is repeatable


@pytest.mark.parametrize("kind", ["contact", "crm.deal", "user", "task", "list_element"])
@pytest.mark.parametrize("links", [(), (None,)], ids=["never linked", "link of the past"])
@pytest.mark.parametrize("operation", ["update", "delete"])
def test_what_is_not_linked_can_be_neither_updated_nor_deleted(
    kind: str, operation: str, links: tuple[None, ...]
) -> None:
    """There is no record to name; the reason says what to write first."""
    refused = refusal(row(kind, operation, {"NAME": "A"}), *(link(kind, none) for none in links))

    assert refused == Refusal(
        row_id=1,
        code="no_link",
        field="key",
        reason=f"{kind} 'k-1' is not known on the portal; write an add or an upsert first",
    )


def test_what_is_linked_is_not_added_again() -> None:
    """A second record would be a duplicate that nobody asked for."""
    refused = refusal(row("contact", "add", {"name": "Ann"}), link("contact"))

    assert refused == Refusal(
        row_id=1,
        code="already_linked",
        field="operation",
        reason="already on the portal as 46; use upsert or update",
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
    planned = plan([row("deal", "add", {"companyId": ACME})], known(*links))

    assert planned == Plan(waiting=(Waiting(row_id=1, target=Ref("company", "acme")),))


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
            {"$ref": {"kind": "deal", "key": "k-1"}},
            "no_link",
            "fields.companyId",
            "refers to the entity itself, which has no id yet",
            id="itself",
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

    assert refused == Refusal(row_id=1, code=code, field=field, reason=reason)


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
    planned = plan([asked], known(link("deal")))

    assert len(planned.commands) == int(fits)
    assert [(each.code, each.field) for each in planned.refusals] == (
        [] if fits else [("too_many_values", "fields")]
    )


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
def test_a_command_larger_than_half_a_batch_is_refused(spare: int, *, fits: bool) -> None:
    """It would be too large the next time as well."""
    around = len("entityTypeId=2&id=46&fields[title]=")
    text = "x" * (MAX_COMMAND_BYTES - around - spare)

    planned = plan([row("deal", "update", {"title": text})], known(link("deal")))

    assert len(planned.commands) == int(fits)
    assert [each.code for each in planned.refusals] == ([] if fits else ["too_large"])


def test_a_cancelled_row_ends_unsent() -> None:
    """Even if it has expired as well or could not be said."""
    asked = replace(row("contact", "update", []), cancel_requested=True, expires_at_ms=1)

    planned = plan([asked], known())

    assert planned == Plan(closing=(Closing(row_id=1, outcome=ResultOutcome.CANCELLED),))


@pytest.mark.parametrize(
    ("expires_at_ms", "expired"),
    [(NOW_MS - 1, True), (NOW_MS, True), (NOW_MS + 1, False), (None, False)],
)
def test_a_row_past_its_time_ends_unsent(expires_at_ms: int | None, *, expired: bool) -> None:
    """Its last moment is the one before the named one."""
    asked = replace(row("contact", "add", {"name": "Ann"}), expires_at_ms=expires_at_ms)

    planned = plan([asked], known())

    assert [each.outcome for each in planned.closing] == (["expired"] if expired else [])
    assert len(planned.commands) == int(not expired)


@pytest.mark.parametrize(("until_ms", "rests"), [(NOW_MS + 1, True), (NOW_MS, False)])
def test_a_row_of_a_blocked_method_rests_until_the_block_ends(
    until_ms: int, *, rests: bool
) -> None:
    """Other methods of the same kind go on."""
    blocked = known(link("deal"), blocked={"crm.item.update": until_ms})

    planned = plan(
        [row("deal", "update", {"title": "A"}), row("deal", "delete", number=2)], blocked
    )

    assert planned.postponed == ((Postponed(row_id=1, until_ms=until_ms),) if rests else ())
    assert [each.row_ids for each in planned.commands] == ([(2,)] if rests else [(1,), (2,)])


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
    """Code for filters, field for people; the other rows are not touched by it."""
    refused = refusal(asked)

    assert (refused.row_id, refused.code, refused.field) == (1, code, field)


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


def test_links_of_the_entities_and_of_their_references_are_needed() -> None:
    """Malformed parts ask for nothing; the plan refuses them."""
    rows = [
        row("deal", "add", {"companyId": ACME}, {"x": [{"$ref": {"kind": "contact", "key": "c"}}]}),
        row("lead", "add", {"companyId": {"$ref": 7}}, ["no", "object"]),
        row("quote", "delete", key="q"),
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
    asked = row("contact", "add", {"x": _nested(ACME, 5000)})

    refused, needed = refusal(asked), needed_links([asked])

    assert refused.code == "too_deep"
    assert needed == {("contact", "k-1")}


def test_one_bad_row_does_not_hold_back_the_others() -> None:
    """Each row is sorted by itself, and commands keep the order of the rows."""
    rows = [
        row("contact", "add", {"name": "A"}, number=5),
        row("contact", "update", {"name": "B"}, number=3, key="unknown"),
        row("deal", "add", {"companyId": ACME}, number=9),
        row("contact", "add", {"name": "C"}, number=1),
        replace(row("contact", "delete", number=2), cancel_requested=True),
    ]

    planned = plan(rows, known())

    assert [each.row_ids for each in planned.commands] == [(5,), (1,)]
    assert [each.row_id for each in planned.refusals] == [3]
    assert [each.row_id for each in planned.waiting] == [9]
    assert [each.row_id for each in planned.closing] == [2]


wild_texts = st.text(st.characters(), max_size=6) | st.sampled_from(
    ["$ref", "$result[c0]", "", " ", "a.b", "a[b", "\0", "\ud800", "originId", "ID", "kind", "key"]
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | wild_texts
    | st.just(10**2000)
    | st.builds(
        lambda kind, key: {"$ref": {"kind": kind, "key": key}},
        st.sampled_from(["company", "contact", "address", "nothing", 7]),
        st.sampled_from(["acme", "k-1", "", None]),
    )
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
parts = st.none() | st.dictionaries(wild_texts, trees, max_size=4) | trees
hostile_rows = st.builds(
    Row,
    id=st.just(1),
    portal=st.just("default"),
    lane=st.just(0),
    kind=st.sampled_from(
        ["contact", "crm.deal", "user", "address", "list_element", "task.comment", "stock", "shelf"]
    )
    | st.sampled_from(["call", "item:5", "product_rows", "nothing"]),
    key=st.sampled_from(["k-1", "k-2", "acme"]),
    operation=st.sampled_from(Operation),
    fields=parts,
    params=parts,
    method=st.none() | st.sampled_from(["crm.item.get", "batch", "a b", ""]),
    generation=st.integers(0, 3),
    expires_at_ms=st.none() | st.sampled_from([0, NOW_MS + 1]),
    cancel_requested=st.booleans(),
)
surroundings = st.sampled_from(
    [
        known(),
        known(*(link(kind) for kind in ("contact", "crm.deal", "user", "stock", "shelf"))),
        known(link("company", "8", key="acme"), link("contact", None, generation=1)),
        known(link("user"), blocked={"user.update": NOW_MS + 1, "crm.item.add": NOW_MS + 1}),
    ]
)


def _nested(value: object, levels: int) -> object:
    for _ in range(levels):
        value = {"a": [value]}
    return value


@given(st.lists(hostile_rows, max_size=6), surroundings)
def test_every_row_is_in_exactly_one_part_of_the_plan(
    rows: list[Row], around: Surroundings
) -> None:
    """Whatever plain SQL has written, nothing is raised, lost or doubled."""
    numbered = [replace(each, id=number) for number, each in enumerate(rows)]

    planned = plan(numbered, around)

    sent = [row_id for each in planned.commands for row_id in each.row_ids]
    aside = [
        each.row_id
        for part in (planned.refusals, planned.waiting, planned.postponed, planned.closing)
        for each in part
    ]
    assert sorted(sent + aside) == list(range(len(rows)))
    assert sent == sorted(sent)
    assert all(each.query.isascii() for each in planned.commands)


@given(st.lists(hostile_rows, max_size=6), surroundings)
def test_the_same_rows_are_planned_the_same(rows: list[Row], around: Surroundings) -> None:
    """A plan depends on nothing but its arguments, and changes none of them."""
    first = repr(rows)

    plans = [plan(rows, around), plan(rows, around)]

    assert plans[0] == plans[1]
    assert repr(rows) == first


@given(st.lists(hostile_rows, max_size=6))
def test_a_refusal_can_be_stored_in_any_database(rows: list[Row]) -> None:
    """Neither field nor reason holds NUL or half a character, and both say something."""
    planned = plan(rows, known())

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


@pytest.mark.parametrize("operation", [Operation.ADD, Operation.UPSERT, Operation.DELETE])
@pytest.mark.parametrize("state", [LinkState.DOUBT, LinkState.CONFLICT])
def test_an_entity_whose_record_is_unclear_is_never_made_again(
    operation: Operation, state: LinkState
) -> None:
    """A record that exists under an unknown id, or another key's id, waits for a person."""
    row = Row(
        id=1,
        portal="main",
        lane=0,
        kind="contact",
        key="c-1",
        operation=operation,
        fields=None if operation is Operation.DELETE else {"name": "Ann"},
        params=None,
    )
    link = Link(kind="contact", key="c-1", remote_id=None, state=state)

    made = plan([row], Surroundings(links={("contact", "c-1"): link}))

    assert [refusal.code for refusal in made.refusals] == ["link_unclear"]
    assert made.commands == ()
