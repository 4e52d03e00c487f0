"""CRM records: universal and classic methods over one store."""

import pytest

from b24sync.sandbox import Sandbox, SandboxConfig
from b24sync.sandbox.naming import camel_of, from_universal, to_universal, upper_of
from tests.sandbox.asking import Asker


def stored(sandbox: Sandbox, kind: str, record_id: int = 1) -> dict[str, object]:
    """The fields of a record that a client sent."""
    system = {"id", "createdTime", "updatedTime", "createdBy", "updatedBy"}
    record = sandbox.records(kind)[record_id]
    return {name: value for name, value in record.items() if name not in system}


@pytest.mark.parametrize(
    ("type_id", "kind"),
    [
        (1, "lead"),
        (2, "deal"),
        (3, "contact"),
        (4, "company"),
        (7, "quote"),
        (31, "invoice"),
        (128, "item:128"),
        (1036, "item:1036"),
    ],
)
def test_a_universal_record_lives_from_add_to_delete(
    sandbox: Sandbox, ask: Asker, type_id: int, kind: str
) -> None:
    """Add and update answer the item, delete an empty list, each under its own shape."""
    base = {"entityTypeId": type_id}

    added = ask.result(sandbox, "crm.item.add", {**base, "fields": {"title": "a", "xmlId": "7"}})
    updated = ask.result(sandbox, "crm.item.update", {**base, "id": 1, "fields": {"title": "b"}})
    got = ask.result(sandbox, "crm.item.get", {**base, "id": 1})
    kept = stored(sandbox, kind)
    deleted = ask.result(sandbox, "crm.item.delete", {**base, "id": 1})

    assert added["item"]["id"] == 1
    assert (added["item"]["title"], updated["item"]["title"]) == ("a", "b")
    assert got["item"] == updated["item"]
    assert kept == {"title": "b", "xmlId": "7"}
    assert deleted == []
    assert sandbox.records(kind) == {}


@pytest.mark.parametrize(
    ("method", "params", "code", "text"),
    [
        ("add", {"entityTypeId": 5, "fields": {}}, "ENTITY_TYPE_NOT_SUPPORTED", "not supported"),
        ("add", {"entityTypeId": 130, "fields": {}}, "NOT_FOUND", "Smart process not found"),
        ("add", {"fields": {}}, "100", "entityTypeId"),
        ("add", {"ENTITYTYPEID": 2, "fields": {}}, "100", "entityTypeId"),
        ("add", {"entityTypeId": 2}, "100", "fields"),
        ("add", {"entityTypeId": 2, "fields": {"contactIds": "1"}}, "100", "Expected iterable"),
        ("update", {"entityTypeId": 2, "id": 9, "fields": {}}, "NOT_FOUND", "Item not found"),
        ("update", {"entityTypeId": 2, "fields": {}}, "100", "id"),
        ("delete", {"entityTypeId": 2, "id": 9}, "NOT_FOUND", "Item not found"),
        ("get", {"entityTypeId": 2, "id": 9}, "NOT_FOUND", "Item not found"),
    ],
)
def test_a_universal_method_says_what_is_wrong(
    sandbox: Sandbox, ask: Asker, method: str, params: dict[str, object], code: str, text: str
) -> None:
    """Codes and texts by the manual."""
    refused = ask.refusal(sandbox, f"crm.item.{method}", params)

    assert refused[0] == code
    assert text in refused[1]


@pytest.mark.parametrize("kind", ["lead", "deal", "contact", "company", "quote"])
def test_a_classic_record_lives_from_add_to_delete(sandbox: Sandbox, ask: Asker, kind: str) -> None:
    """Add answers a number, update and delete true, get text."""
    fields = {"TITLE": "a", "ORIGIN_ID": 42, "UF_CRM_1": "u"}

    added = ask.result(sandbox, f"crm.{kind}.add", {"FIELDS": fields})
    updated = ask.result(sandbox, f"crm.{kind}.update", {"ID": 1, "fields": {"TITLE": "b"}})
    got = ask.result(sandbox, f"crm.{kind}.get", {"id": "1"})
    kept = stored(sandbox, kind)
    deleted = ask.result(sandbox, f"crm.{kind}.delete", {"id": 1})

    assert (added, updated, deleted) == (1, True, True)
    assert (got["ID"], got["TITLE"], got["ORIGIN_ID"]) == ("1", "b", "42")
    assert kept == {"title": "b", "originId": 42, "UF_CRM_1": "u"}
    assert sandbox.records(kind) == {}


@pytest.mark.parametrize(
    ("kind", "on_update", "on_delete"),
    [
        ("lead", ("", "Not found"), ("", "Not found")),
        ("deal", ("", "Not found"), ("", "Not found")),
        ("contact", ("", "Contact is not found"), ("ERROR_CORE", "Element not found")),
        ("company", ("", "Company is not found"), ("", "Company is not found")),
        ("quote", ("ERROR_CORE", "Element not found"), ("ERROR_CORE", "Element not found")),
    ],
)
def test_a_missing_classic_record_is_told_in_its_own_words(
    sandbox: Sandbox,
    ask: Asker,
    kind: str,
    on_update: tuple[str, str],
    on_delete: tuple[str, str],
) -> None:
    """Each entity has its own code and text."""
    update = {"id": 9, "fields": {"TITLE": "x"}}

    assert ask.refusal(sandbox, f"crm.{kind}.update", update) == on_update
    assert ask.refusal(sandbox, f"crm.{kind}.delete", {"id": 9}) == on_delete


def test_classic_parameters_are_checked(sandbox: Sandbox, ask: Asker) -> None:
    """Fields must be an array and the id a number."""
    wrong_fields = ask.refusal(sandbox, "crm.deal.add", {"fields": "x"})
    wrong_id = ask.refusal(sandbox, "crm.deal.update", {"id": "x", "fields": {}})

    assert wrong_fields == ("", "Parameter 'fields' must be array.")
    assert wrong_id == ("", "ID is not defined or invalid.")


def test_both_families_show_one_record_under_their_own_names(sandbox: Sandbox, ask: Asker) -> None:
    """A lead added by one is read by the other; its status is the other's stage."""
    fields = {"title": "t", "stageId": "NEW", "assignedById": 5, "ufCrm3_17": "u"}
    ask.result(sandbox, "crm.item.add", {"entityTypeId": 1, "fields": fields})

    classic = ask.result(sandbox, "crm.lead.get", {"id": 1})
    ask.result(sandbox, "crm.lead.update", {"id": 1, "fields": {"STATUS_ID": "IN_PROCESS"}})
    universal = ask.result(sandbox, "crm.item.get", {"entityTypeId": 1, "id": 1})["item"]

    assert (classic["STATUS_ID"], classic["ASSIGNED_BY_ID"]) == ("NEW", "5")
    assert classic["UF_CRM_3_17"] == "u"
    assert (universal["stageId"], universal["ufCrm3_17"]) == ("IN_PROCESS", "u")
    assert sandbox.records("crm.lead")[1]["STATUS_ID"] == "IN_PROCESS"


def test_a_stage_is_called_status_where_the_entity_does(sandbox: Sandbox, ask: Asker) -> None:
    """Deals have STAGE_ID, leads and quotes STATUS_ID; universal methods say stageId."""
    for type_id in (1, 2, 7):
        item = {"entityTypeId": type_id, "fields": {"stageId": "NEW"}}
        ask.result(sandbox, "crm.item.add", item)

    shown = {kind: sandbox.records(f"crm.{kind}")[1] for kind in ("lead", "deal", "quote")}

    assert shown["lead"]["STATUS_ID"] == shown["quote"]["STATUS_ID"] == "NEW"
    assert shown["deal"]["STAGE_ID"] == "NEW"


@pytest.mark.parametrize(
    ("original", "camel"),
    [
        ("UF_CRM_3_1747309727", "ufCrm3_1747309727"),
        ("UF_CRM_3_DIGIT", "ufCrm3Digit"),
        ("UF_CRM_3_DIGIT10", "ufCrm_3_DIGIT10"),
        ("UF_CRM_1747309879", "ufCrm_1747309879"),
        ("UF_CRM_MY_FIELD", "ufCrmMyField"),
    ],
)
def test_user_field_names_follow_the_manual(original: str, camel: str) -> None:
    """The manual's own examples, there and back."""
    assert to_universal(original) == camel
    assert from_universal(camel) == original


@pytest.mark.parametrize(
    ("upper", "camel"),
    [
        ("TITLE", "title"),
        ("ASSIGNED_BY_ID", "assignedById"),
        ("IS_MANUAL_OPPORTUNITY", "isManualOpportunity"),
        ("ADDRESS_2", "address_2"),
        ("PARENT_ID_128", "parentId128"),
    ],
)
def test_field_names_translate_both_ways(upper: str, camel: str) -> None:
    """Classic and universal names of one field."""
    assert camel_of(upper) == camel
    assert upper_of(camel) == upper


def test_original_user_field_names_are_kept_when_asked_for(sandbox: Sandbox, ask: Asker) -> None:
    """useOriginalUfNames=Y speaks UF_ names in the answer."""
    params = {"entityTypeId": 2, "useOriginalUfNames": "Y", "fields": {"UF_CRM_1": "u"}}

    item = ask.result(sandbox, "crm.item.add", params)["item"]

    assert item["UF_CRM_1"] == "u"


def test_strict_fields_are_dropped_in_silence(ask: Asker) -> None:
    """A portal takes documented and user fields and says nothing of the rest."""
    with Sandbox(SandboxConfig(strict_fields=True)) as sandbox:
        fields = {"title": "t", "tilte": "x", "TITLE": "y", "ufCrm_1": "u", "UF_CRM_2": "x"}
        ask.result(sandbox, "crm.item.add", {"entityTypeId": 2, "fields": fields})
        ask.result(sandbox, "crm.deal.add", {"fields": {"TITLE": "t", "title": "x", "NOPE": 1}})

        assert stored(sandbox, "deal", 1) == {"title": "t", "UF_CRM_1": "u"}
        assert sandbox.records("crm.deal")[2]["TITLE"] == "t"
        assert "NOPE" not in sandbox.records("crm.deal")[2]


def test_an_update_without_change_saves_nothing(sandbox: Sandbox, ask: Asker) -> None:
    """The stamp of the last change stays; with a change it names the new moment."""
    created = "2020-01-01T00:00:00+00:00"
    fields = {"title": "t", "updatedTime": created}
    ask.result(sandbox, "crm.item.import", {"entityTypeId": 2, "fields": fields})

    def update(title: str) -> object:
        params = {"entityTypeId": 2, "id": 1, "fields": {"title": title}}
        return ask.result(sandbox, "crm.item.update", params)["item"]["updatedTime"]

    assert update("t") == created
    assert update("u") != created


def test_duplicates_by_external_key_are_accepted(sandbox: Sandbox, ask: Asker) -> None:
    """The portal does not compare origin ids."""
    params = {"entityTypeId": 3, "fields": {"originatorId": "s", "originId": "1"}}

    for _ in range(2):
        ask.result(sandbox, "crm.item.add", params)

    assert list(sandbox.records("contact")) == [1, 2]


def test_classic_multi_fields_change_by_row(sandbox: Sandbox, ask: Asker) -> None:
    """Rows without ID are added, with ID changed or deleted, others stay."""
    rows = [{"VALUE": v, "VALUE_TYPE": "WORK"} for v in ("1", "2", "3", "4", "5")]
    ask.result(sandbox, "crm.contact.add", {"fields": {"PHONE": rows}})

    update = [
        {"ID": 1, "VALUE": "one", "VALUE_TYPE": "HOME"},
        {"ID": 2, "DELETE": "Y"},
        {"ID": 3, "VALUE": ""},
        {"ID": 4},
        {"VALUE": "5", "VALUE_TYPE": "WORK"},
    ]
    ask.result(sandbox, "crm.contact.update", {"id": 1, "fields": {"PHONE": update}})

    assert ask.result(sandbox, "crm.contact.get", {"id": 1})["PHONE"] == [
        {"ID": "1", "VALUE_TYPE": "HOME", "VALUE": "one", "TYPE_ID": "PHONE"},
        {"ID": "5", "VALUE_TYPE": "WORK", "VALUE": "5", "TYPE_ID": "PHONE"},
        {"ID": "6", "VALUE_TYPE": "WORK", "VALUE": "5", "TYPE_ID": "PHONE"},
    ]


@pytest.mark.parametrize(
    ("sent", "values"),
    [
        pytest.param({"1": {"typeId": "PHONE", "value": "x"}}, ["x", "2"], id="change"),
        pytest.param({"1": {"typeId": "PHONE", "value": ""}}, ["2"], id="delete"),
        pytest.param({"n0": {"typeId": "EMAIL", "value": "e"}}, ["1", "2", "e"], id="add"),
        pytest.param([{"typeId": "WEB", "value": "w"}], ["1", "2", "w"], id="list appends"),
        pytest.param({"1": {"value": "x"}}, ["1", "2"], id="no typeId does nothing"),
        pytest.param({"99": {"typeId": "IM", "value": "i"}}, ["1", "2", "i"], id="unknown id"),
        pytest.param("text", ["1", "2"], id="text is ignored"),
    ],
)
def test_universal_multi_fields_change_by_key(
    sandbox: Sandbox, ask: Asker, sent: object, values: list[str]
) -> None:
    """The key of an entry of fm says which row it is about."""
    fm = [{"typeId": "PHONE", "valueType": "WORK", "value": v} for v in ("1", "2")]
    ask.result(sandbox, "crm.item.add", {"entityTypeId": 3, "fields": {"fm": fm}})

    params = {"entityTypeId": 3, "id": 1, "fields": {"fm": sent}}
    item = ask.result(sandbox, "crm.item.update", params)["item"]

    assert [row["value"] for row in item["fm"]] == values


def test_a_failing_element_of_an_import_does_not_stop_the_others(
    sandbox: Sandbox, ask: Asker
) -> None:
    """Each element answers with its item or its error, at most twenty at once."""
    data = [{"title": "a"}, {"contactIds": "x"}, {"title": "b"}]

    items = ask.result(sandbox, "crm.item.batchImport", {"entityTypeId": 2, "data": data})["items"]
    code, _ = ask.refusal(sandbox, "crm.item.batchImport", {"entityTypeId": 2, "data": [{}] * 21})

    assert [items[0], items[2]] == [{"item": {"id": 1}}, {"item": {"id": 2}}]
    assert items[1]["error"] == "100"
    assert code == "MAX_IMPORT_BATCH_SIZE_EXCEEDED"


def test_fields_methods_name_the_documented_fields(sandbox: Sandbox, ask: Asker) -> None:
    """Clients check names against them."""
    universal = ask.result(sandbox, "crm.item.fields", {"entityTypeId": 3})["fields"]
    classic = ask.result(sandbox, "crm.contact.fields")

    assert {"originatorId", "originId", "name", "fm"} <= universal.keys()
    assert {"ORIGINATOR_ID", "ORIGIN_ID", "NAME"} <= classic.keys()


def test_records_are_copies(sandbox: Sandbox, ask: Asker) -> None:
    """What a test does with them does not reach the portal."""
    ask.result(sandbox, "crm.item.add", {"entityTypeId": 2, "fields": {"title": "t"}})

    sandbox.records("deal")[1]["title"] = "changed"

    assert sandbox.records("deal")[1]["title"] == "t"


@pytest.mark.parametrize(
    ("kind", "values"),
    [("contact", {"CONTACT": [1]}), ("lead", {"LEAD": [1]}), ("deal", [])],
)
def test_duplicates_are_found_by_phone(
    sandbox: Sandbox, ask: Asker, kind: str, values: object
) -> None:
    """Leads, contacts and companies are found by digits; nothing found is an empty list."""
    fields = {"PHONE": [{"VALUE": "+7 (999) 1", "VALUE_TYPE": "WORK"}]}
    ask.result(sandbox, f"crm.{kind}.add", {"fields": fields})

    params = {"type": "PHONE", "values": ["79991"]}

    assert ask.result(sandbox, "crm.duplicate.findbycomm", params) == values
