"""Rows that were there before become changes: all of them, once, below and never after newer ones."""

import threading
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, insert, select, text, update
from sqlalchemy.orm import Session

from b24sync import Change, enqueue
from b24sync.backfill import (
    Asked,
    Feeding,
    Rest,
    captured,
    feed,
    query,
    rehearse,
    selected,
    start,
    steer,
)
from b24sync.core.backfilling import BELOW_ALL, BackfillState, Recipe
from b24sync.core.errors import BackfillError
from b24sync.core.shards import shard_of
from b24sync.drain import Order, drain
from b24sync.edge import tables
from b24sync.edge.database import make_engine, reading, writing
from b24sync.world import World
from tests.apps.filled import Sessions
from tests.fakes import ScriptedPortal
from tests.house import Clerk, add_portal, change, commands_of, in_threads, one, rows_of, world_of
from tests.shop import Base, Company, Customer, Member, Seat

FIRMS = "SELECT id, code, name FROM shop_company"
BY_CODE = Recipe(key="code", fields={"title": "name"})


def _shop(engine: Engine) -> Iterator[Engine]:
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    yield engine
    Base.metadata.drop_all(engine)


@pytest.fixture
def shop(house: Engine) -> Iterator[Engine]:
    """The shop's tables beside the outbox, on each database."""
    yield from _shop(house)


@pytest.fixture
def busy_shop(server_engine: Engine) -> Iterator[Engine]:
    """The same, on the databases that lock rows."""
    add_portal(server_engine)
    yield from _shop(server_engine)


def _firms(engine: Engine, number: int) -> None:
    with writing(engine) as connection:
        connection.execute(
            insert(Company),
            [{"id": n, "code": f"f{n}", "name": f"Firm {n}"} for n in range(1, number + 1)],
        )


def _asked(source: Mapping[str, object], **more: object) -> Asked:
    given: dict[str, Any] = {"code": "b", "portal": "default", "kind": "company"} | more
    return Asked(source=source, **given)


def _of_firms(*, locks: bool = True, **more: object) -> Asked:
    return _asked(query(FIRMS, ["id"], BY_CODE, locks=locks), **more)


def _feed(world: World, *, steps: int = 1000) -> Feeding:
    left = iter(range(steps))
    return feed(world, "b", lasting=lambda: next(left, None) is not None)


def _said(engine: Engine) -> list[tuple[str, Any]]:
    """Entities and fields, in the order of the outbox."""
    return [(row["entity_key"], row["fields"]) for row in rows_of(engine, tables.outbox)]


def _counts(engine: Engine) -> tuple[int, int, int, int]:
    found = one(engine, tables.backfill)
    return found["read_rows"], found["enqueued"], found["skipped"], found["refused"]


def test_objects_are_said_as_live_capture_says_them(shop: Engine) -> None:
    """Fields, references and keys are the same; only how urgent they are differs."""
    with Sessions(bind=shop) as session, session.begin():
        acme = Company(code="acme", name="Acme")
        session.add(acme)
        session.add_all(
            Customer(first_name=f"Ann {n}", company=acme if n % 2 else None) for n in range(5)
        )
    alike = ("portal", "lane", "kind", "entity_key", "operation", "fields", "params", "marker")
    live = [{name: row[name] for name in alike} for row in rows_of(shop, tables.outbox)]
    with writing(shop) as connection:
        connection.execute(tables.outbox.delete())

    world = world_of(shop)
    for code, kind in (("f", "company"), ("b", "contact")):
        start(world, _asked(captured("tests.apps.filled:captured"), code=code, kind=kind, step=2))
        assert feed(world, code, lasting=lambda: True).why is Rest.DONE

    filled = rows_of(shop, tables.outbox)
    assert [{name: row[name] for name in alike} for row in filled] == live
    assert live[2]["fields"]["companyId"] == {"$ref": {"kind": "company", "key": "acme"}}
    assert {row["priority"] for row in filled} == {BELOW_ALL}
    assert [row["headers"] for row in filled] == [{"backfill": "f"}] + [{"backfill": "b"}] * 5


def test_objects_that_are_not_on_this_portal_are_skipped(shop: Engine) -> None:
    """Hidden ones, those of another tenant, and those of a class that is captured by itself."""
    with Session(shop) as session, session.begin():
        session.add_all(
            [
                Customer(first_name="Ann"),
                Customer(first_name="Bob", is_public=False),
                Customer(first_name="Cyd", tenant="other"),
                Member(first_name="Dan", card="gold"),
            ]
        )
    world = world_of(shop)
    start(world, _asked(captured("tests.apps.filled:captured"), kind="contact"))

    assert _feed(world).why is Rest.DONE

    assert [key for key, _ in _said(shop)] == ["c-1"]
    assert _counts(shop) == (4, 1, 3, 0)


def test_a_key_of_several_columns_is_walked_over_in_its_order(shop: Engine) -> None:
    """A page may end inside a hall."""
    with Session(shop) as session, session.begin():
        session.add_all(Seat(hall=h, number=n, name=f"{h}{n}") for h in "ab" for n in range(5))
    world = world_of(shop)
    of_halls = Recipe(key="{hall}-{number}", fields={"title": "name"})
    sources = [
        captured("tests.apps.filled:captured"),
        query("SELECT hall, number, name FROM shop_seat", ["hall", "number"], of_halls),
    ]

    for code, source in zip("xb", sources, strict=True):
        start(world, _asked(source, code=code, kind="deal", step=3))
        assert feed(world, code, lasting=lambda: True).why is Rest.DONE

    expected = [(f"{h}-{n}", {"title": f"{h}{n}"}) for h in "ab" for n in range(5)]
    assert _said(shop) == expected * 2


WORDS = ("a", "A", "á", "b", "B ", "c", "ç", "Ä", "ä", "z", "Z", "é", "e", "E", "ß", "ss", "ё", "ж")


@pytest.mark.parametrize("step", [6, 7, 9])
def test_no_text_key_is_lost_whatever_the_database_takes_for_alike(shop: Engine, step: int) -> None:
    """Here keys are not even unique in the collation of the column, as in MariaDB by default."""
    with writing(shop) as connection:
        for number, word in enumerate(WORDS, start=1):
            connection.execute(insert(Company), {"id": number, "code": f"f{number}", "name": word})
    world = world_of(shop)
    start(world, _asked(query(FIRMS, ["name"], BY_CODE), step=step))

    assert _feed(world).why is Rest.DONE

    assert sorted(fields["title"] for _, fields in _said(shop)) == sorted(WORDS)


def test_a_key_that_a_whole_page_shares_ends_the_run(shop: Engine) -> None:
    """Whoever goes on behind it would lose the rest of them."""
    with writing(shop) as connection:
        rows = [{"id": n, "code": f"f{n}", "name": "same"} for n in range(1, 6)]
        connection.execute(insert(Company), rows)
    world = world_of(shop)
    start(world, _asked(query(FIRMS, ["name"], BY_CODE), step=3))

    assert _feed(world).why is Rest.FAILED

    assert _said(shop) == []
    assert one(shop, tables.backfill)["reason"].endswith("might have one key; it must be unique")


def test_no_more_wait_than_may_and_one_step(shop: Engine) -> None:
    """The rest comes when those are gone; each row once."""
    _firms(shop, 90)
    portal = ScriptedPortal([Clerk()] * 20)
    world = world_of(shop, portal, slice_batches=1, batch_size=10)
    start(world, _of_firms(most_waiting=25, step=10))
    most, ends = 0, list[Rest]()

    for _ in range(20):
        ends.append(_feed(world).why)
        most = max(most, len(rows_of(shop, tables.outbox)))
        drain(world, Order())

    assert most == 30
    assert ends[:3] == [Rest.FULL, Rest.FULL, Rest.FULL]
    assert ends[-1] is Rest.TAKEN
    assert _counts(shop) == (90, 90, 0, 0)
    assert one(shop, tables.backfill)["state"] == "done"
    results = rows_of(shop, tables.result)
    assert sorted(row["entity_key"] for row in results) == sorted(f"f{n}" for n in range(1, 91))
    assert {row["outcome"] for row in results} == {"applied"}


def test_filled_rows_are_shared_out_among_the_lanes_of_their_portal(shop: Engine) -> None:
    """As live ones are; and those of all its lanes count as waiting."""
    change(shop, tables.portal, {"shards": 3}, code="default")
    with writing(shop) as connection:
        connection.execute(insert(tables.lane), [{"portal": "default", "lane": n} for n in (1, 2)])
    world = world_of(shop)
    _firms(shop, 40)
    start(world, _of_firms(step=10, most_waiting=20))

    fed = _feed(world)

    lanes = {row["entity_key"]: row["lane"] for row in rows_of(shop, tables.outbox)}
    assert fed.why is Rest.FULL
    assert lanes == {
        key: shard_of("company", key, 3) for key in (f"f{n}" for n in range(1, 41)) if key in lanes
    }
    assert (len(lanes), set(lanes.values())) == (20, {0, 1, 2})


def test_rows_that_are_held_for_others_count_as_waiting(shop: Engine) -> None:
    """Contacts wait for their companies; to feed all of them would move the table into the outbox."""
    _firms(shop, 40)
    world = world_of(shop, ScriptedPortal([]))
    needs = Recipe(key="code", references={"companyId": ("company", "name")})
    start(world, _asked(query(FIRMS, ["id"], needs), kind="contact", most_waiting=10, step=5))

    for _ in range(5):
        _feed(world)
        drain(world, Order())

    assert {row["state"] for row in rows_of(shop, tables.outbox)} == {"held"}
    assert len(rows_of(shop, tables.outbox)) == 10


def test_a_change_goes_before_all_that_is_filled(shop: Engine) -> None:
    """And with the row of its own entity, if that waits; nothing newer is overwritten."""
    _firms(shop, 120)
    portal = ScriptedPortal([Clerk()] * 3)
    world = world_of(shop, portal, slice_batches=1)
    start(world, _of_firms())
    _feed(world)
    with Session(shop) as session, session.begin():
        enqueue(session, Change("company", "f100", "update", {"title": "newest"}))
        enqueue(session, Change("contact", "c", "upsert", {"name": "hasty"}))

    drain(world, Order())

    lines = list(commands_of(portal.asked[0]).values())
    assert len(lines) == 50
    assert any("hasty" in line for line in lines)
    assert [line for line in lines if "f100" in line] == [ln for ln in lines if "newest" in ln]
    outcomes = {row["outcome"] for row in rows_of(shop, tables.result, entity_key="f100")}
    assert outcomes == {"applied", "merged"}


def test_a_row_behind_a_change_is_as_urgent_as_that(shop: Engine) -> None:
    """Another change may come to stand behind it, and nobody would look at it there."""
    _firms(shop, 3)
    with Session(shop) as session, session.begin():
        enqueue(session, Change("company", "f2", "update", {"title": "new"}, priority=5))
    world = world_of(shop)
    start(world, _of_firms())

    _feed(world)

    assert [(row["entity_key"], row["priority"]) for row in rows_of(shop, tables.outbox)] == [
        ("f2", 5),
        ("f1", BELOW_ALL),
        ("f2", 5),
        ("f3", BELOW_ALL),
    ]


def test_what_is_linked_is_left_out_where_only_the_missing_are_wanted(shop: Engine) -> None:
    """Otherwise an upsert of it is an update."""
    _firms(shop, 4)
    with writing(shop) as connection:
        link = {"portal": "default", "kind": "company", "state": "present"}
        connection.execute(insert(tables.link), link | {"entity_key": "f2", "remote_id": "7"})
        gone = {"entity_key": "f3", "state": "deleted"}
        connection.execute(insert(tables.link), link | gone)
    world = world_of(shop)
    start(world, _of_firms(only_missing=True))

    _feed(world)

    assert [key for key, _ in _said(shop)] == ["f1", "f3", "f4"]
    assert _counts(shop) == (4, 3, 1, 0)


def test_a_row_that_cannot_be_a_change_stops_it_where_it_is(shop: Engine) -> None:
    """A person corrects the row, or says that such rows are passed over."""
    _firms(shop, 6)
    with writing(shop) as connection:
        connection.execute(update(Company).where(Company.id == 4).values(code=" f4"))
    world = world_of(shop)
    start(world, _of_firms(step=2))

    failed = _feed(world)

    assert failed.why is Rest.FAILED
    assert [key for key, _ in _said(shop)] == ["f1", "f2"]
    found = one(shop, tables.backfill)
    assert found["state"] == "failed"
    assert found["reason"].startswith("company: f4: key: begins or ends with white space")

    steer(world, "b", BackfillState.RUNNING, {"skip_bad": True})

    assert _feed(world).why is Rest.DONE
    assert [key for key, _ in _said(shop)] == ["f1", "f2", "f3", "f5", "f6"]
    assert _counts(shop) == (6, 5, 0, 1)
    assert "white space" in one(shop, tables.backfill)["last_refusal"]


def test_a_function_that_breaks_is_about_its_row(shop: Engine) -> None:
    """The other objects are none the worse."""
    with Session(shop) as session, session.begin():
        session.add_all([Customer(first_name="A", remark="broken"), Customer(first_name="B")])
    world = world_of(shop)
    asked = _asked(captured("tests.apps.filled:captured"), kind="contact", skip_bad=True)
    start(world, asked)

    _feed(world)

    assert _counts(shop) == (2, 1, 0, 1)
    assert one(shop, tables.backfill)["last_refusal"] == (
        "Customer 1: RuntimeError: nobody expected this"
    )


def test_a_pause_undoes_the_step_that_is_being_written(shop: Engine) -> None:
    """What a person was told is paused writes nothing more, and goes on where it stopped."""
    _firms(shop, 6)
    world = world_of(shop)
    start(world, _of_firms(step=2))

    def pause(_fed: object) -> None:
        steer(world, "b", BackfillState.PAUSED)

    told = feed(world, "b", lasting=lambda: True, watching=pause)

    assert told.why is Rest.TAKEN
    assert _counts(shop) == (2, 2, 0, 0)
    assert _feed(world).why is Rest.TAKEN
    steer(world, "b", BackfillState.RUNNING)
    assert _feed(world).why is Rest.DONE
    assert [key for key, _ in _said(shop)] == [f"f{n}" for n in range(1, 7)]


def test_what_is_cancelled_or_done_is_over(shop: Engine) -> None:
    """It cannot be resumed, and its code is taken."""
    _firms(shop, 2)
    world = world_of(shop)
    start(world, _of_firms())
    steer(world, "b", BackfillState.CANCELLED)

    with pytest.raises(BackfillError, match="is cancelled; that is its end"):
        steer(world, "b", BackfillState.RUNNING)
    with pytest.raises(BackfillError, match="there is a back-fill 'b' already"):
        start(world, _of_firms())
    with pytest.raises(BackfillError, match="there is no back-fill 'x'; known are: b"):
        steer(world, "x", BackfillState.RUNNING)
    assert _feed(world).why is Rest.TAKEN


def test_one_feeds_at_a_time(shop: Engine) -> None:
    """Nothing is fed twice, however many workers are rung."""
    _firms(shop, 60)
    world = world_of(shop)
    start(world, _of_firms(step=5))

    in_threads([lambda: _feed(world)] * 4)
    _feed(world)

    assert sorted(key for key, _ in _said(shop)) == sorted(f"f{n}" for n in range(1, 61))


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (query(FIRMS, ["number"], BY_CODE), "number"),
        (query(FIRMS, ["id"], Recipe(key="{code}-{town}")), "has no column town; it has id, code"),
        (query("SELECT x FROM nowhere", ["x"], BY_CODE), "the query is refused: "),
        (selected("tests.apps.filled:firms", ["id"], BY_CODE), "no column id; it has code, title"),
        (selected("tests.apps.filled:broken", ["id"], BY_CODE), "fails with RuntimeError: no such"),
        (selected("tests.apps.filled:text", ["id"], BY_CODE), "does not make a select"),
        (selected("tests.apps.nowhere:text", ["id"], BY_CODE), "cannot be imported"),
        (selected("tests.apps.filled:captured", ["id"], BY_CODE), "is not a function"),
        (captured("tests.apps.filled:firms"), "is not what capture"),
        (captured("tests.apps.filled:captured", "Seat"), "captured as company: Company"),
        (query(FIRMS, ["id"], BY_CODE, elsewhere=True), "B24SYNC_SOURCE_URL is not set"),
        (
            query("SELECT NULLIF(id, 2) AS id, code, name FROM shop_company", ["id"], BY_CODE),
            "id is NULL in some rows",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_at_once(
    shop: Engine, source: Mapping[str, object], complaint: str
) -> None:
    """Before anything is written down, in words that name what is wrong."""
    _firms(shop, 3)

    with pytest.raises(BackfillError) as refused:
        start(world_of(shop), _asked(source))

    assert complaint in str(refused.value)
    assert rows_of(shop, tables.backfill) == []


def test_a_select_of_an_application_is_read_like_a_query(shop: Engine) -> None:
    """Under the names that it gives its columns; the key's own column is not sent."""
    _firms(shop, 3)
    world = world_of(shop)
    start(world, _asked(selected("tests.apps.filled:firms", ["code"], Recipe(key="code"))))

    _feed(world)

    assert _said(shop) == [(f"f{n}", {"title": f"Firm {n}"}) for n in (1, 2, 3)]


def test_colons_and_percent_signs_mean_what_they_mean_in_sql(shop: Engine) -> None:
    """They are no parameters of anybody."""
    _firms(shop, 12)
    world = world_of(shop)
    sql = "SELECT id, code, ':id 5%' AS name FROM shop_company WHERE code LIKE '%1%'; "
    start(world, _asked(query(sql, ["id"], BY_CODE), step=2))

    _feed(world)

    assert _said(shop) == [(f"f{n}", {"title": ":id 5%"}) for n in (1, 10, 11, 12)]


def test_the_first_changes_can_be_seen_before_anything_is_written(shop: Engine) -> None:
    """With how many rows there are."""
    _firms(shop, 9)

    shown, number = rehearse(world_of(shop), _of_firms(), limit=2)

    assert [(one.key, one.fields) for one in shown if isinstance(one, Change)] == [
        ("f1", {"title": "Firm 1"}),
        ("f2", {"title": "Firm 2"}),
    ]
    assert number == 9
    assert rows_of(shop, tables.backfill) == rows_of(shop, tables.outbox) == []


def test_another_database_is_read_and_left_as_it_is(house: Engine, tmp_path: Path) -> None:
    """Its journal too, which is not ours to change."""
    theirs = create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    Base.metadata.create_all(theirs)
    with theirs.begin() as connection:
        rows = [{"id": n, "code": f"f{n}", "name": f"Firm {n}"} for n in range(5)]
        connection.execute(insert(Company), rows)
    world = world_of(house, source_url=f"sqlite:///{tmp_path / 'shop.db'}")
    start(world, _asked(query(FIRMS, ["id"], BY_CODE, elsewhere=True), step=2))

    assert _feed(world).why is Rest.DONE

    assert [key for key, _ in _said(house)] == [f"f{n}" for n in range(5)]
    with theirs.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "delete"
    theirs.dispose()


def test_a_query_of_which_no_rows_can_be_locked_is_refused(busy_shop: Engine) -> None:
    """Unless somebody says that nobody writes meanwhile: else old values might overwrite new ones."""
    _firms(busy_shop, 3)
    sql = "WITH firms AS (SELECT * FROM shop_company) SELECT id, code, name FROM firms"
    world = world_of(busy_shop)

    with pytest.raises(BackfillError, match="cannot be locked while they are read"):
        start(world, _asked(query(sql, ["id"], BY_CODE)))
    start(world, _asked(query(sql, ["id"], BY_CODE, locks=False)))

    assert _feed(world).why is Rest.DONE


@pytest.mark.parametrize("source", ["query", "select", "captured"])
def test_a_row_that_is_being_changed_is_fed_when_that_is_over(
    busy_shop: Engine, source: str
) -> None:
    """Up to that row, and then with its new value, behind the change that made it."""
    _firms(busy_shop, 20)
    world = world_of(busy_shop)
    found = {
        "query": query(FIRMS, ["id"], BY_CODE),
        "select": selected("tests.apps.filled:firms", ["code"], Recipe(key="code")),
        "captured": captured("tests.apps.filled:captured"),
    }[source]
    start(world, _asked(found, step=16))
    with busy_shop.connect() as other, other.begin():
        other.execute(update(Company).where(Company.code == "f18").values(name="new"))
        enqueue(other, Change("company", "f18", "update", {"title": "new"}))

        told = _feed(world)

        assert told.why is Rest.LOCKED
        assert "f18" not in [key for key, _ in _said(busy_shop)]
        assert one(busy_shop, tables.backfill)["lease_until"] == 0

    assert _feed(world).why is Rest.DONE
    ours = [fields for key, fields in _said(busy_shop) if key == "f18"]
    assert ours == [{"title": "new"}, {"title": "new"}]
    assert _counts(busy_shop)[1] == 20


@pytest.mark.parametrize("source", ["query", "captured"])
def test_what_is_said_last_of_each_row_is_what_the_row_says(busy_shop: Engine, source: str) -> None:
    """Whatever is changed while it is read: in the order of numbers, nothing newer is overwritten."""
    number = 60
    _firms(busy_shop, number)
    world = world_of(busy_shop)
    found = {
        "query": query(FIRMS, ["id"], BY_CODE),
        "captured": captured("tests.apps.filled:captured"),
    }[source]
    start(world, _asked(found, step=4))
    is_over = threading.Event()
    own = [make_engine(busy_shop.url.render_as_string(hide_password=False)) for _ in range(3)]

    def write(seed: int) -> None:
        dice, values = Random(seed), count()  # noqa: S311 - chance, not cryptography
        while not is_over.is_set():
            ours, name = dice.randint(1, number), f"{seed}-{next(values)}"
            with Session(own[seed]) as session, session.begin():
                session.execute(update(Company).where(Company.id == ours).values(name=name))
                enqueue(session, Change("company", f"f{ours}", "update", {"title": name}))

    def read() -> None:
        try:
            for _ in range(20_000):
                if _feed(world).why is Rest.DONE:
                    return
        finally:
            is_over.set()

    in_threads([lambda: write(0), lambda: write(1), lambda: write(2), read], within_s=60)
    for engine in own:
        engine.dispose()

    last: dict[str, str] = {key: fields["title"] for key, fields in _said(busy_shop)}
    with reading(busy_shop) as connection:
        rows = connection.execute(select(Company.code, Company.name)).all()
    assert last == {row.code: row.name for row in rows}
    assert _counts(busy_shop) == (number, number, 0, 0)
    assert len(rows_of(busy_shop, tables.outbox)) > number * 1.5
