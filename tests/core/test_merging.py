"""Rows are folded only into what they would have said one after the other."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from b24sync.core import multivalues
from b24sync.core.errors import PlanError
from b24sync.core.kind_table import find_kind
from b24sync.core.kinds import Kind, Method
from b24sync.core.merging import MOST_ROWS, Fold, fold
from b24sync.core.model import Operation, Ref, Row, Unreadable

ACME = {"$ref": {"kind": "company", "key": "acme"}}
OWNER = {"ownerTypeId": 2, "ownerId": 7}
DEAL = {"ownerId": 7, "ownerType": "D"}

STAMP = Kind(
    name="stamp",
    add=Method(name="stamp.add", id_path=()),
    update=Method(name="stamp.update", id_param="id"),
)
POSTCARD = Kind(
    name="postcard",
    add=Method(name="postcard.add", id_path=()),
    delete=Method(name="postcard.delete", id_param="id"),
)
MAP = Kind(
    name="map",
    add=Method(name="map.set"),
    update=Method(name="map.set"),
    delete=Method(name="map.clear", required_fields=("place",)),
    linked=False,
    replaces=True,
)
TAG = Kind(name="tag", add=Method(name="tag.set"), linked=False, replaces=True)
BOTH = Kind(name="both", add=Method(name="both.set"), update=Method(name="both.set"), replaces=True)
DECLARED = {kind.name: kind for kind in (STAMP, POSTCARD, MAP, TAG, BOTH)}


def row(number: int, operation: str, fields: object = None, params: object = None) -> Row:
    """Make a row as it was read."""
    return Row(
        id=number,
        portal="default",
        lane=0,
        kind="contact",
        key="k-1",
        operation=Operation(operation),
        fields=fields,
        params=params,
    )


def folded(
    *rows: Row, kind: str = "contact", is_known: bool = False, resolved: tuple[Ref, ...] = ()
) -> Fold:
    """Fold rows of one entity of a kind."""
    return fold(
        rows,
        kind=find_kind(kind, DECLARED),
        is_known=is_known,
        is_resolved=lambda ref: ref in resolved,
    )


def ids(*rows: Row, kind: str = "contact", is_known: bool = False) -> tuple[int, ...]:
    """Tell which rows are said together."""
    return folded(*rows, kind=kind, is_known=is_known).row_ids


ADD = row(1, "add", {"name": "Ann"})
UPDATE = row(2, "update", {"name": "Bea"})
DELETE = row(3, "delete")


@pytest.mark.parametrize("first", ["add", "upsert"])
@pytest.mark.parametrize("second", ["update", "upsert"])
def test_what_follows_an_add_is_added_with_it(first: str, second: str) -> None:
    """The record begins as it would have become."""
    made = folded(
        row(1, first, {"name": "Ann", "lastName": "Lee", "post": None}),
        row(2, second, {"lastName": "Roe", "companyId": 7}),
    )

    assert made == Fold(
        row=row(1, first, {"name": "Ann", "lastName": "Roe", "post": None, "companyId": 7}),
        row_ids=(1, 2),
    )


@pytest.mark.parametrize("first", ["update", "upsert"])
@pytest.mark.parametrize("second", ["update", "upsert"])
def test_of_updates_the_later_wins_field_by_field(first: str, second: str) -> None:
    """What the later ones do not mention stays as the earlier ones said it."""
    made = folded(
        row(1, first, {"name": "Ann", "post": "clerk"}),
        row(2, second, {"name": "Bea"}),
        row(3, "update", {"name": None, "lastName": "Lee"}),
        is_known=True,
    )

    assert made == Fold(
        row=row(1, first, {"name": None, "post": "clerk", "lastName": "Lee"}), row_ids=(1, 2, 3)
    )


def test_folding_leaves_the_rows_as_they_were_written() -> None:
    """They are read again after a crash."""
    fields = {"name": "Ann", "fm": {"PHONE": ["+1"]}}

    folded(row(1, "add", fields), row(2, "update", {"name": "Bea", "fm": {"PHONE": ["+2"]}}))

    assert fields == {"name": "Ann", "fm": {"PHONE": ["+1"]}}


def test_the_folded_row_is_the_first_in_all_but_what_it_says() -> None:
    """Its counters, its marker and its first error are those of the command that it led before."""
    head = replace(
        ADD,
        priority=5,
        attempts=2,
        deliveries=3,
        not_runs=1,
        marker="contact:k-1",
        generation=1,
        expires_at_ms=99,
        first_error="busy",
        headers={"trace": "1"},
    )

    made = folded(head, replace(UPDATE, priority=1, headers={"trace": "2"}))

    assert made.row == replace(head, fields={"name": "Bea"})


@pytest.mark.parametrize("operation", ["update", "upsert"])
def test_a_delete_is_what_becomes_of_a_known_record(operation: str) -> None:
    """The delete's own fields and params are said, under the first row's id."""
    made = folded(
        row(1, operation, {"name": "Ann"}),
        UPDATE,
        row(3, "delete", None, {"force": "Y"}),
        is_known=True,
    )

    assert made == Fold(row=row(1, "delete", None, {"force": "Y"}), row_ids=(1, 2, 3))


@pytest.mark.parametrize("operation", ["add", "upsert"])
def test_a_record_that_never_went_out_is_not_sent_to_be_deleted(operation: str) -> None:
    """There is nothing to send."""
    made = folded(row(1, operation, {"name": "Ann"}), UPDATE, DELETE)

    assert made == Fold(row=row(1, "delete"), row_ids=(1, 2, 3), is_void=True)


def test_a_delivered_update_is_overtaken_by_a_delete() -> None:
    """Whether it was done or not, the record is to go."""
    first = replace(row(1, "update", {"name": "Ann"}), deliveries=1)

    assert ids(first, DELETE, is_known=True) == (1, 3)


def test_a_delivered_add_is_not_taken_back_by_a_delete() -> None:
    """It may be on the portal after all; the delete follows when its id is known."""
    made = folded(replace(ADD, deliveries=1), UPDATE, DELETE)

    assert made.row_ids == (1, 2)
    assert made.row.operation is Operation.ADD
    assert not made.is_void


@pytest.mark.parametrize("operation", ["add", "update", "upsert", "delete"])
def test_nothing_is_folded_behind_a_delete(operation: str) -> None:
    """What comes after is a new record."""
    again = row(4, operation, {"name": "Cay"})

    assert ids(DELETE, again, is_known=True) == (3,)
    assert ids(row(1, "update", {"name": "Ann"}), DELETE, again, is_known=True) == (1, 3)
    assert ids(ADD, DELETE, again) == (1, 3)


def test_a_second_add_is_not_folded() -> None:
    """It would be refused by itself."""
    assert ids(ADD, row(2, "add", {"post": "x"})) == (1,)
    assert ids(row(1, "upsert", {"name": "Ann"}), row(2, "add", {"post": "x"}), is_known=True) == (
        1,
    )


@pytest.mark.parametrize(
    ("head", "is_known"),
    [
        pytest.param(ADD, True, id="an add of the known"),
        pytest.param(row(1, "update", {"name": "Ann"}), False, id="an update of the unknown"),
        pytest.param(row(1, "delete"), False, id="a delete of the unknown"),
        pytest.param(row(1, "add"), False, id="an add of nothing"),
        pytest.param(row(1, "upsert", {}, {}), True, id="an upsert of nothing"),
        pytest.param(row(1, "add", ["name"]), False, id="fields that are a list"),
        pytest.param(row(1, "add", "name"), False, id="fields that are a text"),
        pytest.param(row(1, "add", ACME), False, id="fields that are a reference"),
        pytest.param(row(1, "add", {"name": "Ann"}, [1]), False, id="params that are a list"),
        pytest.param(row(1, "add", Unreadable("[[[")), False, id="fields that cannot be read"),
        pytest.param(row(1, "add", {"a": {"$ref": 1}}), False, id="a malformed reference"),
        pytest.param(replace(ADD, cancel_requested=True), False, id="cancelled"),
        pytest.param(replace(ADD, mergeable=False), False, id="to go by itself"),
        pytest.param(row(1, "add", {"fm": {"n0": {}}}), False, id="raw rows"),
        pytest.param(row(1, "add", {"fm": "+1"}), False, id="values that are wrong"),
        pytest.param(replace(row(1, "call", None, {"a": 1}), method="user.get"), True, id="a call"),
    ],
)
def test_a_first_row_that_would_be_refused_or_go_alone_takes_none_along(
    head: Row, *, is_known: bool
) -> None:
    """The rows behind it are judged by themselves."""
    made = folded(head, row(2, "upsert", {"name": "Bea"}), DELETE, is_known=is_known)

    assert made == Fold(row=head, row_ids=(1,))


@pytest.mark.parametrize(
    "barrier",
    [
        pytest.param(replace(UPDATE, mergeable=False), id="to go by itself"),
        pytest.param(replace(UPDATE, cancel_requested=True), id="cancelled"),
        pytest.param(replace(UPDATE, expires_at_ms=99), id="one that may expire"),
        pytest.param(replace(UPDATE, operation=Operation.CALL, method="user.get"), id="a call"),
        pytest.param(row(2, "update"), id="an update of nothing"),
        pytest.param(row(2, "update", ["name"]), id="fields that are a list"),
        pytest.param(row(2, "update", ACME), id="fields that are a reference"),
        pytest.param(row(2, "update", Unreadable("[[[")), id="fields that cannot be read"),
        pytest.param(row(2, "update", {"a": 1}, Unreadable("[")), id="params that cannot be read"),
        pytest.param(row(2, "delete", None, "x"), id="a delete with params that are a text"),
        pytest.param(row(2, "update", {"a": 1}, {"useOriginalUfNames": "Y"}), id="other params"),
        pytest.param(row(2, "update", {"fm": {"17": {}}}), id="raw rows"),
        pytest.param(row(2, "update", {"fm": {"PHONES": []}}), id="values that are wrong"),
        pytest.param(row(2, "update", {"companyId": ACME}), id="a reference to the unknown"),
        pytest.param(row(2, "delete", None, {"a": [ACME]}), id="a delete with such a reference"),
        pytest.param(row(2, "update", {"a": {"$ref": 1}}), id="a malformed reference"),
    ],
)
@pytest.mark.parametrize("is_known", [True, False])
def test_a_row_that_may_end_differently_is_a_barrier(barrier: Row, *, is_known: bool) -> None:
    """Neither it nor what stands behind it is folded."""
    first = row(1, "upsert", {"name": "Ann"})
    behind = row(4, "update", {"name": "Cay"})

    assert ids(first, barrier, behind, is_known=is_known) == (1,)
    assert ids(first, behind, barrier, DELETE, is_known=is_known) == (1, 4)


def test_params_are_compared_by_what_they_say() -> None:
    """None and an empty object say the same."""
    first = row(1, "update", {"a": 1}, {"x": ["1"]})

    assert ids(first, row(2, "update", {"a": 2}, {"x": ["1"]}), is_known=True) == (1, 2)
    assert ids(first, row(2, "update", {"a": 2}), is_known=True) == (1,)
    assert ids(UPDATE, row(5, "update", {"a": 2}, {}), is_known=True) == (2, 5)


def test_an_update_may_consist_of_params_alone() -> None:
    """A method may take all that it does from them."""
    first = row(1, "update", None, {"stage": "WON"})

    assert ids(first, row(2, "update", {"a": 1}, {"stage": "WON"}), is_known=True) == (1, 2)


def test_a_resolved_reference_is_no_barrier() -> None:
    """All of a row's references must be."""
    acme, bolt = Ref("company", "acme"), Ref("company", "bolt")
    second = row(2, "update", {"a": [ACME], "b": {"$ref": {"kind": "company", "key": "bolt"}}})

    assert folded(ADD, second, resolved=(acme,)).row_ids == (1,)
    assert folded(ADD, second, resolved=(acme, bolt)).row_ids == (1, 2)


def test_what_the_first_row_refers_to_does_not_matter() -> None:
    """It waits for that anyway, or goes at once when a later row says otherwise."""
    first = row(1, "add", {"companyId": ACME})

    assert folded(first, row(2, "update", {"companyId": 7})) == Fold(
        row=row(1, "add", {"companyId": 7}), row_ids=(1, 2)
    )


def test_a_kind_that_nobody_knows_is_not_folded() -> None:
    """Planning refuses each of its rows."""
    assert ids(ADD, UPDATE, kind="unheard") == (1,)


def test_multi_value_fields_are_merged_by_what_they_mean() -> None:
    """Of ``fm``, type by type; a field that the first row does not mention comes as it is."""
    made = folded(
        row(1, "add", {"fm": {"PHONE": ["+1"], "WEB": ["x"]}}),
        row(2, "update", {"fm": [{"typeId": "PHONE", "value": "+2"}]}),
        row(3, "update", {"fm": {"EMAIL": "a@b"}}),
    )
    classic = folded(
        row(1, "add", {"PHONE": [{"VALUE": "+1", "VALUE_TYPE": "HOME"}]}),
        row(2, "update", {"PHONE": ["+1", "+2"], "EMAIL": ["a@b"]}),
        kind="crm.contact",
    )

    assert made.row.fields == {"fm": {"PHONE": ["+2"], "WEB": ["x"], "EMAIL": "a@b"}}
    assert classic.row.fields == {
        "PHONE": [{"VALUE": "+1", "VALUE_TYPE": "HOME"}, "+2"],
        "EMAIL": ["a@b"],
    }


def test_a_field_of_that_name_is_plain_where_the_kind_has_no_such_field() -> None:
    """Deals of the classic methods have no phones."""
    made = folded(row(1, "add", {"PHONE": 1.5}), row(2, "update", {"PHONE": None}), kind="crm.deal")

    assert made == Fold(row=row(1, "add", {"PHONE": None}), row_ids=(1, 2))


@pytest.mark.parametrize(
    ("first", "second", "row_ids"),
    [
        pytest.param({}, {"originId": "e-1"}, (1,), id="the key is set later"),
        pytest.param({}, {"originId": None}, (1,), id="the key that an add gets is taken away"),
        pytest.param({"originId": ""}, {"originId": ""}, (1,), id="it is taken away again"),
        pytest.param({"originId": "e-1"}, {"originId": "e-1"}, (1, 2), id="the same key"),
        pytest.param({"originId": "e-1"}, {"originId": "e-2"}, (1,), id="another key"),
        pytest.param({"originId": "e-1"}, {"originId": ""}, (1,), id="the key is taken away"),
        pytest.param({}, {"originatorId": "erp"}, (1,), id="where it comes from is set later"),
        pytest.param({"originId": "e-1"}, {"post": "x"}, (1, 2), id="the key is not mentioned"),
    ],
)
def test_an_add_keeps_the_key_by_which_it_is_found_again(
    first: Mapping[str, object], second: Mapping[str, object], row_ids: tuple[int, ...]
) -> None:
    """An add that was cut off is looked for by it; an update may change it afterwards."""
    head, later = row(1, "upsert", {"name": "Ann"} | dict(first)), row(2, "upsert", second)

    assert ids(head, later) == row_ids
    assert ids(head, later, is_known=True) == (1, 2)


def test_a_record_whose_update_clears_the_rest_is_only_deleted_with_its_head() -> None:
    """An update that says less than the add would clear what the add said."""
    element = {"IBLOCK_TYPE_ID": "lists"}
    add = row(1, "add", {"NAME": "a"}, element)
    update = row(2, "update", {"NAME": "b"}, element)
    delete = row(3, "delete", None, element)

    assert ids(add, update, delete, kind="list_element") == (1,)
    assert folded(add, delete, kind="list_element").is_void
    assert folded(update, delete, kind="list_element", is_known=True).row_ids == (2, 3)


def test_what_names_its_record_by_fields_is_never_folded() -> None:
    """Two addresses of one key may be two addresses."""
    triple = {"TYPE_ID": 1, "ENTITY_TYPE_ID": 8, "ENTITY_ID": 5}
    first, second = (
        row(1, "update", triple | {"CITY": "A"}),
        row(2, "update", triple | {"CITY": "B"}),
    )

    assert ids(first, second, row(3, "delete", triple), kind="address") == (1,)


@pytest.mark.parametrize(
    ("second", "row_ids"),
    [
        pytest.param(row(2, "update", OWNER | {"title": "b"}), (1, 2), id="the same owner"),
        pytest.param(row(2, "update", {"ownerTypeId": 2, "ownerId": 8}), (1,), id="another owner"),
        pytest.param(row(2, "update", {"title": "b"}), (1,), id="no owner, which is refused"),
    ],
)
def test_fields_that_an_update_needs_must_be_the_same(
    second: Row, row_ids: tuple[int, ...]
) -> None:
    """They tell the method which record is meant."""
    first = row(1, "update", OWNER | {"title": "a"})

    assert ids(first, second, kind="activity.todo", is_known=True) == row_ids


def test_fields_that_only_the_add_needs_may_be_left_out_later() -> None:
    """An update of a product does not say its catalog again."""
    add = row(1, "add", {"iblockId": 23, "name": "a"})

    assert ids(add, row(2, "update", {"name": "b"}), kind="product") == (1, 2)


def test_a_row_without_what_its_method_needs_is_not_folded() -> None:
    """A comment's update and delete name its owner, or are refused."""
    add = row(1, "add", {"ENTITY_ID": 5, "ENTITY_TYPE": "deal", "COMMENT": "a"})
    update = row(2, "update", {"COMMENT": "b"}, OWNER)

    assert ids(add, row(2, "delete"), kind="comment") == (1,)
    assert folded(add, row(2, "delete", None, OWNER), kind="comment").is_void
    assert ids(row(1, "update", {"COMMENT": "b"}), DELETE, kind="comment", is_known=True) == (1,)
    assert ids(
        update, row(3, "update", {"COMMENT": "c"}, OWNER), kind="comment", is_known=True
    ) == (
        2,
        3,
    )


def test_a_row_without_a_method_is_not_folded() -> None:
    """Planning refuses it, and the record is left as the rows before it made it."""
    assert ids(ADD, UPDATE, DELETE, kind="stamp") == (1, 2)
    assert ids(ADD, UPDATE, DELETE, kind="postcard") == (1,)
    assert ids(UPDATE, DELETE, kind="postcard", is_known=True) == (2,)
    assert ids(ADD, DELETE, kind="postcard") == (1, 3)


@pytest.mark.parametrize("first", ["add", "update", "upsert"])
@pytest.mark.parametrize("second", ["add", "update", "upsert"])
def test_of_what_replaces_the_whole_the_later_alone_counts(first: str, second: str) -> None:
    """Its operations are the same; fields are not mixed."""
    made = folded(
        row(1, first, {"productRows": [{"id": 1}], "note": "x"}, DEAL),
        row(2, second, {"productRows": [{"id": 2}]}, DEAL),
        kind="product_rows",
    )

    assert made == Fold(row=row(1, second, {"productRows": [{"id": 2}]}, DEAL), row_ids=(1, 2))


@pytest.mark.parametrize("is_known", [True, False])
def test_what_has_no_id_is_never_known(*, is_known: bool) -> None:
    """An upsert of it is an add, whatever is remembered."""
    rows = [row(number, "upsert", {"a": number}) for number in (1, 2)]

    assert ids(*rows, kind="tag", is_known=is_known) == (1, 2)


def test_what_replaces_the_whole_is_cleared_by_a_delete() -> None:
    """Something is sent even if the first row never was: there may be members from before."""
    made = folded(
        row(1, "update", {"items": [{"CONTACT_ID": 5}]}, {"id": 7}),
        row(2, "delete", None, {"id": 7}),
        row(3, "update", {"items": []}, {"id": 7}),
        kind="deal.contacts",
    )

    assert made == Fold(row=row(1, "delete", None, {"id": 7}), row_ids=(1, 2))


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        pytest.param(
            "product_rows",
            row(1, "update", {"productRows": []}, DEAL),
            row(2, "update", {"productRows": []}, DEAL | {"ownerId": 8}),
            id="other params",
        ),
        pytest.param(
            "product_rows",
            row(1, "update", {"productRows": []}, DEAL),
            row(2, "delete", None, DEAL),
            id="a delete that the kind has not",
        ),
        pytest.param(
            "deal.contacts",
            row(1, "update", {"items": []}, {"id": 7}),
            row(2, "delete", None, {"id": 8}),
            id="a delete with other params",
        ),
        pytest.param(
            "product.prices",
            row(1, "update", {"product": {"id": 7, "prices": []}}),
            row(2, "update", {"product": {"id": 8, "prices": []}}),
            id="another record in a needed field",
        ),
        pytest.param(
            "map",
            row(1, "update", {"place": "a"}),
            row(2, "delete", {"place": "b"}),
            id="another record in a field that the delete needs",
        ),
        pytest.param(
            "both",
            row(1, "update", {"a": 1}),
            row(2, "update", {"a": 2}),
            id="a kind that contradicts itself",
        ),
    ],
)
def test_what_replaces_the_whole_of_another_record_is_not_folded(
    kind: str, first: Row, second: Row
) -> None:
    """The rows of one key may have named two records."""
    assert ids(first, second, kind=kind, is_known=True) == (1,)


def test_what_names_the_record_in_fields_may_be_the_same() -> None:
    """Then the later alone counts there too."""
    first = row(1, "update", {"place": "a", "scale": 5})

    assert ids(first, row(2, "update", {"scale": 6}), kind="map") == (1,)
    assert ids(row(1, "add", {"place": None}), row(2, "add", {"scale": 6}), kind="map") == (1,)
    assert ids(first, row(3, "delete", {"place": "a"}), kind="map") == (1, 3)


def test_no_more_rows_are_folded_than_one_pass_should_take() -> None:
    """The rest has its turn next."""
    rows = [row(number, "update", {"n": number}) for number in range(1, MOST_ROWS + 10)]

    made = folded(*rows, is_known=True)

    assert made.row_ids == tuple(range(1, MOST_ROWS + 1))
    assert made.row.fields == {"n": MOST_ROWS}


class Portal:
    """One entity on a portal, changed by one row after the other as planning would say them."""

    def __init__(self, kind: Kind, records: Mapping[str, Any] | None = None) -> None:
        """Begin with these records; a linked entity has one, named by nothing."""
        self.kind = kind
        self.records: dict[str, Any] = deepcopy(dict(records or {}))
        self.calls: list[object] = []

    @property
    def is_known(self) -> bool:
        """Whether the entity has a remote id."""
        return self.kind.linked and "" in self.records

    def take(self, row: Row) -> None:
        """Apply a row; one that is refused, cancelled or expired changes nothing."""
        fields = {} if row.fields is None else row.fields
        params = {} if row.params is None else row.params
        if row.cancel_requested or row.expires_at_ms is not None:
            return
        if row.operation is Operation.CALL:
            self.calls.append(params)
            return
        if not isinstance(fields, dict) or not isinstance(params, dict):
            return
        if fields or params or row.operation is Operation.DELETE:
            self._say(row.operation, fields, params)

    def _say(self, said: Operation, fields: dict[str, Any], params: dict[str, Any]) -> None:
        known, linked = self.is_known, self.kind.linked
        is_made = said is Operation.ADD or (said is Operation.UPSERT and not known)
        if linked and known == (said is Operation.ADD) and said is not Operation.UPSERT:
            return
        operation = {Operation.DELETE: "delete"}.get(said, "add" if is_made else "update")
        method: Method | None = getattr(self.kind, operation)
        if method is None or not {*method.required} <= {*params}:
            return
        if not {*method.required_fields} <= {*fields} or not self._are_good(fields):
            return
        if not linked:
            self._replace(operation, fields, params)
        elif operation == "delete":
            del self.records[""]
        else:
            self._write(operation, fields, params)

    def _are_good(self, fields: Mapping[str, Any]) -> bool:
        try:
            for name in self.kind.multi_fields & fields.keys():
                multivalues.is_values(name, fields[name])
        except PlanError:
            return False
        return "malformed" not in fields

    def _replace(self, operation: str, fields: dict[str, Any], params: dict[str, Any]) -> None:
        """What has no id: the record is named by params and by plain fields that are needed."""
        named = {name: fields.get(name) for name in ("place", "owner") if name in fields}
        name = f"{params}{named}"
        if operation == "delete":
            self.records.pop(name, None)
        elif self.kind.replaces:
            self.records[name] = dict(fields)
        else:
            self.records[name] = self.records.get(name, {}) | fields

    def _write(self, operation: str, fields: dict[str, Any], params: dict[str, Any]) -> None:
        marker = self.kind.marker
        record = {} if operation == "add" or self.kind.whole else self.records[""]
        written = dict(fields)
        if operation == "add" and marker is not None and not marker.in_params:
            written[marker.key_field] = written.get(marker.key_field) or "contact:k-1"
            if marker.origin_field is not None:
                written.setdefault(marker.origin_field, "b24sync")
        for name, value in written.items():
            if name in self.kind.multi_fields:
                self._write_values(record, name, value)
            else:
                record[name] = (value, params, self._owner(fields))
        self.records[""] = record

    def _owner(self, fields: Mapping[str, Any]) -> object:
        """A row that names its owner is about that owner's record."""
        update = self.kind.update
        return [fields[name] for name in update.required_fields] if update is not None else []

    def _write_values(self, record: dict[str, Any], name: str, value: Any) -> None:  # noqa: ANN401
        """Values of a type become what is said, each with a type of its own if one was named."""
        if not multivalues.is_values(name, value):
            record.setdefault(f"raw {name}", []).append(value)
            return
        for type_id, members in self._by_type(name, value):
            former = record.get(f"{name}.{type_id}", {})
            found: dict[str, str | None] = {}
            for member in members:
                parts = member if isinstance(member, dict) else {"value": member}
                text = str(parts.get("VALUE", parts.get("value")))
                stated = parts.get("VALUE_TYPE", parts.get("valueType"))
                found[text] = found.get(text) or stated
            record[f"{name}.{type_id}"] = {
                text: stated or former.get(text) for text, stated in found.items()
            }

    def _by_type(self, name: str, value: Any) -> list[tuple[str, list[Any]]]:  # noqa: ANN401
        if name != "fm":
            return [(name, value if isinstance(value, list) else [value])]
        if isinstance(value, dict):
            return [(key, of if isinstance(of, list) else [of]) for key, of in value.items()]
        mentioned = {member["typeId"] for member in value}
        return [
            (type_id, [member for member in value if member["typeId"] == type_id])
            for type_id in mentioned
        ]


def agree(found: Any, expected: Any) -> bool:  # noqa: ANN401 - records are made of anything
    """Whether both are the same, but for types of values that nobody named."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return found.keys() == expected.keys() and all(
            expected[name] is None or agree(found[name], expected[name]) for name in expected
        )
    return bool(found == expected)


texts = st.sampled_from(["+1", "+2", "+3"])
value_types = st.sampled_from(["HOME", "FAX"])


def values(value: str, value_type: str) -> st.SearchStrategy[object]:
    """Values of one type."""
    member = st.one_of(
        texts, st.fixed_dictionaries({value: texts}, optional={value_type: value_types})
    )
    return st.one_of(texts, st.lists(member, max_size=3))


plain = st.sampled_from(["a", "b", None, 7])
universal = st.one_of(
    st.dictionaries(st.sampled_from(["PHONE", "EMAIL"]), values("value", "valueType"), max_size=2),
    st.lists(
        st.fixed_dictionaries(
            {"typeId": st.sampled_from(["PHONE", "EMAIL"]), "value": texts},
            optional={"valueType": value_types},
        ),
        max_size=3,
    ),
    st.sampled_from([{"n0": {"typeId": "PHONE", "value": "+1"}}, {"PHONES": ["+1"]}]),
)
classic = st.one_of(values("VALUE", "VALUE_TYPE"), st.just([{"ID": 1, "VALUE": "+1"}]))
PARAMS: dict[str, list[object]] = {
    "list_element": [{"IBLOCK_TYPE_ID": "lists"}, {}],
    "product_rows": [DEAL, DEAL | {"ownerId": 8}],
    "deal.contacts": [{"id": 7}, {"id": 8}],
}
SOME_FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "contact": {"fm": universal, "originId": st.sampled_from([None, "", "e-1", "e-2"])},
    "crm.contact": {"PHONE": classic, "EMAIL": classic},
    "activity.todo": {"ownerTypeId": st.just(2), "ownerId": st.sampled_from([7, 8])},
    "product_rows": {"productRows": st.lists(st.integers(1, 2), max_size=2)},
    "deal.contacts": {"items": st.lists(st.integers(1, 2), max_size=2)},
    "map": {"place": plain},
    "address": {"TYPE_ID": plain, "ENTITY_TYPE_ID": plain, "ENTITY_ID": plain},
}
KINDS = [*SOME_FIELDS, "list_element", "stamp", "postcard"]


def some_fields(kind: str) -> st.SearchStrategy[object]:
    """Mostly fields that the kind has, sometimes what is refused."""
    known = SOME_FIELDS.get(kind, {})
    names = {"name": plain, "post": plain, "companyId": st.just(ACME)}
    return st.one_of(
        st.fixed_dictionaries({}, optional=names | known),
        st.fixed_dictionaries(known, optional=names),
        st.fixed_dictionaries({}, optional=known),
        st.sampled_from([None, {}, [1], Unreadable("["), {"malformed": {"$ref": 1}}]),
    )


def stories(kind: str) -> st.SearchStrategy[list[Row]]:
    """What is written about one entity of a kind."""
    some_params = st.sampled_from([*PARAMS.get(kind, [None, None, {}]), None, {"x": "1"}])
    operations = st.sampled_from(["add", "update", "update", "upsert", "upsert", "delete", "call"])
    seldom = st.integers(0, 9).map(lambda number: number == 9)
    written = st.tuples(operations, some_fields(kind), some_params, seldom, seldom, seldom)
    return st.builds(
        lambda entries, deliveries: [
            replace(
                row(number, operation, fields, params),
                mergeable=not alone,
                cancel_requested=cancelled,
                expires_at_ms=99 if expires and number > 1 else None,
                deliveries=deliveries if number == 1 else 0,
            )
            for number, (operation, fields, params, alone, cancelled, expires) in enumerate(
                entries, start=1
            )
        ],
        st.lists(written, min_size=2, max_size=5),
        st.integers(0, 1),
    )


BEFORE: dict[str, Any] = {"": {"name": "old", "fm.PHONE": {"+1": "HOME", "+9": None}}}


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
@settings(deadline=None)
def test_a_fold_and_the_rest_end_like_every_row_by_itself(name: str, data: st.DataObject) -> None:
    """Whatever is folded is the first rows, and says what they would have said."""
    kind = find_kind(name, DECLARED)
    assert kind is not None
    rows = data.draw(stories(name))
    records = BEFORE if kind.linked and data.draw(st.booleans()) else {}
    is_resolved = data.draw(st.booleans())
    one_by_one, together = Portal(kind, records), Portal(kind, records)

    made = fold(rows, kind=kind, is_known=together.is_known, is_resolved=lambda _: is_resolved)

    assert made.row_ids == tuple(row.id for row in rows[: len(made.row_ids)])
    for each in rows:
        one_by_one.take(each)
    rest = rows[len(made.row_ids) :]
    for each in rest if made.is_void else [made.row, *rest]:
        together.take(each)
    assert agree(together.records, one_by_one.records)
    assert together.calls == one_by_one.calls


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
@settings(deadline=None)
def test_a_fold_is_not_folded_again(name: str, data: st.DataObject) -> None:
    """What stopped the first time stops the second time."""
    kind = find_kind(name, DECLARED)
    rows, is_known = data.draw(stories(name)), data.draw(st.booleans())
    made = fold(rows, kind=kind, is_known=is_known)
    rest = rows[len(made.row_ids) :]

    again = fold((made.row, *rest), kind=kind, is_known=is_known)

    assert again == Fold(row=made.row, row_ids=made.row_ids[:1])
