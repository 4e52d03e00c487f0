"""List methods: filter, order, pages."""

from collections.abc import Iterator

import pytest

from b24sync.sandbox import Sandbox, SandboxConfig
from b24sync.sandbox.values import Record, Value
from tests.sandbox.asking import Asker

DEALS = ("alpha", "beta", "Gamma", "delta", "")


@pytest.fixture
def deals() -> Iterator[Sandbox]:
    """Five deals: titles of DEALS, opportunities 9, 10, 11, 12, 13."""
    with Sandbox(SandboxConfig()) as running:
        for index, title in enumerate(DEALS):
            links: list[Value] = [str(index)]
            fields: Record = {"title": title, "opportunity": str(9 + index), "contactIds": links}
            running.call("crm.item.add", {"entityTypeId": 2, "fields": fields})
        yield running


@pytest.fixture
def many() -> Iterator[Sandbox]:
    """120 contacts named n0 to n119."""
    with Sandbox(SandboxConfig()) as running:
        for index in range(120):
            fields: Record = {"name": f"n{index}", "originId": str(index)}
            running.call("crm.item.add", {"entityTypeId": 3, "fields": fields})
        yield running


@pytest.mark.parametrize(
    ("condition", "ids"),
    [
        pytest.param({"title": "beta"}, [2], id="bare"),
        pytest.param({"=title": "beta"}, [2], id="="),
        pytest.param({"=title": ""}, [5], id="= empty"),
        pytest.param({"!title": "beta"}, [1, 3, 4, 5], id="!"),
        pytest.param({"!=title": ""}, [1, 2, 3, 4], id="!="),
        pytest.param({">opportunity": "10"}, [3, 4, 5], id="> by number"),
        pytest.param({">=opportunity": 10}, [2, 3, 4, 5], id=">="),
        pytest.param({"<opportunity": "10"}, [1], id="<"),
        pytest.param({"<=opportunity": "10"}, [1, 2], id="<="),
        pytest.param({"@title": ["alpha", "delta"]}, [1, 4], id="@"),
        pytest.param({"title": ["alpha", "delta"]}, [1, 4], id="list without @"),
        pytest.param({"!@title": ["alpha", "delta"]}, [2, 3, 5], id="!@"),
        pytest.param({"%title": "ELTA"}, [4], id="%"),
        pytest.param({"=%title": "gam%"}, [3], id="=%"),
        pytest.param({"!%title": "a"}, [5], id="!%"),
        pytest.param({">id": 3}, [4, 5], id="id"),
        pytest.param({">id": 1, "<id": 4, "!title": "beta"}, [3], id="all must hold"),
        pytest.param({"contactIds": "2"}, [3], id="member of a list"),
        pytest.param({}, [1, 2, 3, 4, 5], id="none"),
    ],
)
def test_a_filter_picks_by_prefix(
    deals: Sandbox, ask: Asker, condition: dict[str, object], ids: list[int]
) -> None:
    """The prefix of a filter key says how to compare."""
    found = ask.result(deals, "crm.item.list", {"entityTypeId": 2, "filter": condition})

    assert [item["id"] for item in found["items"]] == ids


def test_rows_come_in_the_order_asked_for(deals: Sandbox, ask: Asker) -> None:
    """Numbers sort as numbers, by id unless told otherwise."""
    down = {"entityTypeId": 2, "order": {"opportunity": "DESC"}}
    classic = {"order": {"TITLE": "asc"}, "select": ["TITLE"]}

    by_amount = ask.result(deals, "crm.item.list", down)["items"]
    by_title = ask.result(deals, "crm.deal.list", classic)

    assert [item["opportunity"] for item in by_amount] == ["13", "12", "11", "10", "9"]
    assert [item["TITLE"] for item in by_title] == ["", "alpha", "beta", "delta", "Gamma"]


@pytest.mark.parametrize(
    ("start", "rows", "following"), [(0, 50, 50), (50, 50, 100), (100, 20, None), (150, 0, None)]
)
def test_pages_hold_fifty(
    many: Sandbox, ask: Asker, start: int, rows: int, following: int | None
) -> None:
    """Total counts all; next is there while pages remain."""
    answer = ask(many, "crm.contact.list", {"start": start}).json()

    assert len(answer["result"]) == rows
    assert answer["total"] == 120
    assert answer.get("next") == following


def test_start_minus_one_does_not_count(many: Sandbox, ask: Asker) -> None:
    """Total is 0 and next absent, with rows all the same."""
    params = {"entityTypeId": 3, "start": -1, "filter": {">id": 60}, "order": {"id": "ASC"}}

    answer = ask(many, "crm.item.list", params).json()

    assert [item["id"] for item in answer["result"]["items"]] == list(range(61, 111))
    assert answer["total"] == 0
    assert "next" not in answer


def test_catalog_leaves_total_out_when_not_counting(sandbox: Sandbox, ask: Asker) -> None:
    """start=-1 in the catalog: no total at all."""
    params = {"select": ["id", "iblockId"], "filter": {"iblockId": 1}}

    counted = ask(sandbox, "catalog.product.list", params).json()
    uncounted = ask(sandbox, "catalog.product.list", {**params, "start": -1}).json()

    assert counted["total"] == 0
    assert "total" not in uncounted


def test_a_batch_tells_totals_and_next_pages_by_command(many: Sandbox, ask: Asker) -> None:
    """They stand in their own sections, not in the result."""
    sections = ask.batch(many, {"a": "crm.contact.list", "b": "crm.contact.list?start=100"})

    assert sections["result_total"] == {"a": 120, "b": 120}
    assert sections["result_next"] == {"a": 50}


def test_an_external_key_finds_its_records(many: Sandbox, ask: Asker) -> None:
    """Filters by origin id find exact matches, also after the key was changed."""
    many.call("crm.item.update", {"entityTypeId": 3, "id": 8, "fields": {"originId": "new"}})

    def ids(origin: str) -> list[int]:
        params = {"entityTypeId": 3, "filter": {"=originId": origin}, "start": -1}
        found = ask.result(many, "crm.item.list", params)["items"]
        return [item["id"] for item in found]

    assert (ids("5"), ids("7"), ids("new")) == ([6], [], [8])


def test_unknown_filter_fields_are_refused_by_universal_methods_only(
    deals: Sandbox, ask: Asker
) -> None:
    """crm.item.list says so; classic lists ignore the condition."""
    params = {"entityTypeId": 2, "filter": {"nosuch": 1}}

    assert ask.refusal(deals, "crm.item.list", params)[0] == "INVALID_ARG_VALUE"
    assert len(ask.result(deals, "crm.deal.list", {"filter": {"NOSUCH": 1}})) == 5
    with Sandbox(SandboxConfig(unknown_filter_field_is_error=True)) as strict:
        refused = ask.refusal(strict, "crm.deal.list", {"filter": {"NOSUCH": 1}})
        assert refused[0] == "INVALID_ARG_VALUE"


def test_select_picks_fields(deals: Sandbox, ask: Asker) -> None:
    """Only the named fields come, and always the id."""
    params = {"entityTypeId": 2, "select": ["title"], "filter": {"id": 1}}

    assert ask.result(deals, "crm.item.list", params)["items"] == [
        {"id": 1, "entityTypeId": 2, "title": "alpha"}
    ]
    assert ask.result(deals, "crm.deal.list", {"select": ["TITLE"], "filter": {"ID": 1}}) == [
        {"ID": "1", "TITLE": "alpha"}
    ]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("crm.timeline.comment.list", {"filter": {"ENTITY_ID": 1}}),
        ("catalog.product.list", {"select": ["id", "iblockId"]}),
        ("catalog.product.list", {"select": ["id"], "filter": {"iblockId": 1}}),
        ("crm.item.productrow.list", {"filter": {"=ownerId": 1}}),
    ],
)
def test_some_lists_insist_on_fields(
    sandbox: Sandbox, ask: Asker, method: str, params: dict[str, object]
) -> None:
    """Without the required filter or select they refuse."""
    assert ask.refusal(sandbox, method, params)[0] == "INVALID_ARG_VALUE"
