"""Records that were on the portal before: adopted, shown, forgotten; on every database."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, create_engine, event, insert, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from b24sync import Change, ChangeError, adopt, enqueue
from b24sync.adoption import Adoption, Conflict, known_records, link_known, rehearse
from b24sync.core.kinds import Kind, Method
from b24sync.drain import Order, drain
from b24sync.edge import tables
from b24sync.edge.adopting import KnownLink, forget, known_links
from b24sync.edge.database import make_engine, reading, writing
from tests.fakes import ScriptedPortal
from tests.house import (
    Clerk,
    Found,
    add_portal,
    add_rows,
    change,
    commands_of,
    endings,
    one,
    rows_in,
    rows_of,
    states,
    world_of,
)

MANY = 10_000
PARTS = MANY // 500

Link = tuple[str, str, str | int]


@pytest.fixture
def application(database_url: str) -> Iterator[Engine]:
    """An application's own engine on the database of ``engine``, with SQLAlchemy's defaults."""
    own = create_engine(database_url)
    yield own
    own.dispose()


def _contacts(**ids: str | int) -> list[Link]:
    return [("contact", key, remote_id) for key, remote_id in ids.items()]


def _adopt(engine: Engine, links: list[Link], *, replace: bool = False) -> Adoption:
    with writing(engine) as connection:
        return adopt(connection, links, replace=replace)


def _add_link(engine: Engine, key: str, **values: object) -> None:
    row = {"portal": "default", "kind": "contact", "entity_key": key}
    with writing(engine) as connection:
        connection.execute(insert(tables.link), row | values)


def _ids(engine: Engine) -> dict[str, str | None]:
    return {row["entity_key"]: row["remote_id"] for row in rows_of(engine, tables.link)}


def _link(engine: Engine, key: str) -> Found:
    return one(engine, tables.link, entity_key=key)


def test_known_ids_become_links(engine: Engine) -> None:
    """As text or as a number, of several kinds in one call."""
    told = _adopt(
        engine, [("contact", "c-17", "4711"), ("contact", "c-18", 4712), ("deal", "d", 9)]
    )

    assert told == Adoption(adopted=3, replaced=0, unchanged=0)
    link = _link(engine, "c-17")
    assert (link["portal"], link["kind"]) == ("default", "contact")
    assert (link["remote_id"], link["state"], link["generation"]) == ("4711", "present", 0)
    assert link["updated_at"] > 1_500_000_000_000
    assert _ids(engine) == {"c-17": "4711", "c-18": "4712", "d": "9"}


def test_what_is_there_already_is_not_touched(engine: Engine) -> None:
    """A second run of the same file finds nothing to do, and what was sent is not forgotten."""
    _adopt(engine, _contacts(a=1, b=2))
    _add_link(engine, "c", remote_id="3", state="present", sent_fields={"name": "1f"}, updated_at=5)
    before = rows_of(engine, tables.link)

    told = _adopt(engine, _contacts(a=1, b=2, c=3))

    assert told == Adoption(adopted=0, replaced=0, unchanged=3)
    assert rows_of(engine, tables.link) == before


def test_portals_and_kinds_number_their_records_each_for_itself(engine: Engine) -> None:
    """Contact 1 and deal 1 are two records, and so is contact 1 of another portal."""
    with writing(engine) as connection:
        first = adopt(connection, [("contact", "a", 1), ("deal", "a", 1)])
        second = adopt(connection, [("contact", "b", 1), ("contact", "a", 2)], portal="acme")

    assert (first.adopted, second.adopted) == (2, 2)
    assert (first.conflicts, second.conflicts) == ((), ())


def test_a_key_that_is_linked_to_another_id_keeps_it(engine: Engine) -> None:
    """Nothing is overwritten silently: both ids are told, and the other links are written."""
    _adopt(engine, _contacts(a=46))

    told = _adopt(engine, _contacts(b=1, a=47, c=2))

    assert told.conflicts == (
        Conflict(position=1, kind="contact", key="a", remote_id="47", known_id="46"),
    )
    assert str(told.conflicts[0]) == ("contact a is not linked to 47: it is linked to 46 already")
    assert told.adopted == 2
    assert _ids(engine) == {"a": "46", "b": "1", "c": "2"}


@pytest.mark.parametrize("replace", [False, True])
def test_an_id_that_another_key_holds_is_not_taken(engine: Engine, *, replace: bool) -> None:
    """Two entities must not write to one record, not even if keys may get other ids."""
    _adopt(engine, _contacts(a=46))

    told = _adopt(engine, _contacts(b=46), replace=replace)

    assert told == Adoption(
        adopted=0,
        replaced=0,
        unchanged=0,
        conflicts=(Conflict(position=0, kind="contact", key="b", remote_id="46", held_by="a"),),
    )
    assert str(told.conflicts[0]) == (
        "contact b is not linked to 46: 46 is linked to contact a already"
    )
    assert _ids(engine) == {"a": "46"}


def test_both_sides_of_a_conflict_are_told_where_there_are_two(engine: Engine) -> None:
    """The key has another id, and another key has the id."""
    _adopt(engine, _contacts(a=1, b=2))

    (conflict,) = _adopt(engine, _contacts(a=2)).conflicts

    assert (conflict.known_id, conflict.held_by) == ("1", "b")


def test_replace_gives_keys_another_id(engine: Engine) -> None:
    """What was known of the old record goes with it; the number of its life stays."""
    _add_link(
        engine,
        "a",
        remote_id="46",
        state="present",
        generation=3,
        sent_fields={"name": "1f"},
        multifield_ids={"PHONE": ["7"]},
        updated_at=5,
    )

    told = _adopt(engine, _contacts(a=47), replace=True)

    link = _link(engine, "a")
    assert told == Adoption(adopted=0, replaced=1, unchanged=0)
    assert (link["remote_id"], link["state"], link["generation"]) == ("47", "present", 3)
    assert (link["sent_fields"], link["multifield_ids"]) == (None, None)
    assert link["updated_at"] > 5


def test_a_whole_column_that_was_wrong_is_put_right_in_one_run(engine: Engine) -> None:
    """An id goes from key to key, in whatever order the lines stand and round in a circle too."""
    _adopt(engine, _contacts(a=1, b=2, c=3, d=4))

    told = _adopt(engine, _contacts(a=2, b=3, c=1, d=5, e=4), replace=True)

    assert told == Adoption(adopted=1, replaced=4, unchanged=0)
    assert _ids(engine) == {"a": "2", "b": "3", "c": "1", "d": "5", "e": "4"}


def test_whoever_was_to_have_the_id_of_a_key_that_is_stuck_is_stuck_too(engine: Engine) -> None:
    """The third cannot leave its id, so that neither the second nor the first can have theirs."""
    _adopt(engine, _contacts(a=1, b=2, c=3, stranger=4))

    told = _adopt(engine, _contacts(a=2, b=3, c=4, d=1), replace=True)

    assert [(c.key, c.held_by) for c in told.conflicts] == [
        ("a", "b"),
        ("b", "c"),
        ("c", "stranger"),
        ("d", "a"),
    ]
    assert _ids(engine) == {"a": "1", "b": "2", "c": "3", "stranger": "4"}


def test_of_lines_that_contradict_each_other_the_first_wins(engine: Engine) -> None:
    """Whichever side they contradict on; the later one names the earlier."""
    links: list[Link] = [
        ("contact", "a", 1),
        ("contact", "a", 2),
        ("contact", "b", 1),
        ("deal", "a", 2),
    ]

    told = _adopt(engine, links, replace=True)

    assert told.adopted == 2
    assert told.conflicts == (
        Conflict(position=1, kind="contact", key="a", remote_id="2", known_id="1", earlier=0),
        Conflict(position=2, kind="contact", key="b", remote_id="1", held_by="a", earlier=0),
    )
    assert str(told.conflicts[0]).endswith("it is linked to 1 by an earlier line")
    assert [(row["kind"], row["remote_id"]) for row in rows_of(engine, tables.link)] == [
        ("contact", "1"),
        ("deal", "2"),
    ]


def test_a_line_that_is_there_twice_counts_as_unchanged(engine: Engine) -> None:
    """It says nothing new, and contradicts nothing."""
    told = _adopt(engine, [*_contacts(a=1), *_contacts(a="1")])

    assert told == Adoption(adopted=1, replaced=0, unchanged=1)


def test_a_conflict_that_is_there_twice_is_two_conflicts(engine: Engine) -> None:
    """Neither of the lines is linked, so neither is counted as if it were."""
    _adopt(engine, _contacts(a=1))

    told = _adopt(engine, [*_contacts(a=2), *_contacts(a=2)])

    assert [(c.position, c.known_id, c.earlier) for c in told.conflicts] == [
        (0, "1", None),
        (1, "1", None),
    ]
    assert told.unchanged == 0


@pytest.mark.parametrize("state", ["deleted", "absent", "doubt", "conflict"])
def test_a_link_without_an_id_is_present_again(engine: Engine, state: str) -> None:
    """A person has looked: what was unclear is clear now, and the number of its life stays."""
    _add_link(engine, "a", state=state, generation=2, dup_ids=["8", "9"], sent_fields={"x": "1f"})

    told = _adopt(engine, _contacts(a=46))

    link = _link(engine, "a")
    assert told == Adoption(adopted=1, replaced=0, unchanged=0)
    assert (link["remote_id"], link["state"], link["generation"]) == ("46", "present", 2)
    assert (link["dup_ids"], link["sent_fields"]) == (None, None)


def test_rows_that_wait_for_an_adopted_entity_go_on(engine: Engine) -> None:
    """And no others: not those of another portal, nor of a link that was not written."""
    _adopt(engine, _contacts(known=1))
    add_rows(engine, "child", "sibling", state="held", waits_for="contact a", state_reason="waits")
    add_rows(engine, "orphan", state="held", waits_for="contact b")
    add_rows(engine, "abroad", state="held", waits_for="contact a", portal="acme")
    add_rows(engine, "by a person", state="held")

    told = _adopt(engine, _contacts(a=46, b=1))

    assert told.released == 2
    assert states(engine) == {
        "child": "ready",
        "sibling": "ready",
        "orphan": "held",
        "abroad": "held",
        "by a person": "held",
    }
    row = one(engine, tables.outbox, entity_key="child")
    assert (row["waits_for"], row["state_reason"]) == (None, None)


def test_an_upsert_of_an_adopted_entity_is_an_update_of_its_record(engine: Engine) -> None:
    """That is what adoption is for: no second record."""
    add_portal(engine)
    _adopt(engine, _contacts(**{"c-17": 4711}))
    (known, new) = add_rows(engine, "c-17", "c-18")
    portal = ScriptedPortal([Clerk()])

    drain(world_of(engine, portal), Order())

    update, addition = commands_of(portal.asked[0]).values()
    assert update.startswith("crm.item.update?")
    assert "&id=4711&" in f"&{update.partition('?')[2]}&"
    assert addition.startswith("crm.item.add?")
    assert endings(engine) == {known: ["applied"], new: ["applied"]}
    assert _ids(engine)["c-17"] == "4711"


def test_ten_thousand_links_are_few_statements(engine: Engine) -> None:
    """And a second look at them even fewer; a statement each would take all day over a network."""
    links: list[Link] = [("contact", f"c-{number}", number) for number in range(1, MANY + 1)]
    moved: list[Link] = [("contact", key, int(number) + 1) for _, key, number in links]
    statements: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def _count(*args: object) -> None:
        statements.append(str(args[2]))

    first = _adopt(engine, links)
    adopting = len(statements)
    again = _adopt(engine, links)
    looking = len(statements) - adopting
    replaced = _adopt(engine, moved, replace=True)
    replacing = len(statements) - adopting - looking

    assert first == Adoption(adopted=MANY, replaced=0, unchanged=0)
    assert again == Adoption(adopted=0, replaced=0, unchanged=MANY)
    assert replaced == Adoption(adopted=0, replaced=MANY, unchanged=0)
    assert adopting <= 6 * PARTS + 1
    assert looking <= 2 * PARTS + 1
    assert replacing <= 7 * PARTS + 1
    assert _ids(engine)["c-10000"] == "10001"


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_no_plan_that_was_made_for_an_empty_table_is_kept(engine: Engine) -> None:
    """PostgreSQL only: with a kept plan, a table that fills is read whole by each statement."""
    mode = text("SHOW plan_cache_mode")
    with engine.connect() as connection:
        with connection.begin():
            adopt(connection, _contacts(a=1))
            within = connection.execute(mode).scalar_one()
        after = connection.execute(mode).scalar_one()

    assert (within, after) == ("force_custom_plan", "auto")


def test_how_far_it_went_is_told(engine: Engine) -> None:
    """First what is compared, then what is written, each to its end."""
    records = known_records([("contact", f"c-{number}", number) for number in range(1, 701)])
    heard: list[tuple[str, int, int]] = []

    with writing(engine) as connection:
        link_known(connection, "default", records, follow=lambda *so_far: heard.append(so_far))

    assert heard == [
        ("comparing", 500, 700),
        ("comparing", 700, 700),
        ("linking", 500, 700),
        ("linking", 700, 700),
    ]


def test_a_rehearsal_says_the_same_and_writes_nothing(engine: Engine) -> None:
    """A dry run that told something else than the run would be worse than none."""
    _adopt(engine, _contacts(a=1, b=2, c=3))
    _add_link(engine, "gone", state="deleted")
    before = rows_of(engine, tables.link)
    records = known_records(_contacts(a=1, b=9, d=3, gone=5, new=6))

    with reading(engine) as connection:
        said = rehearse(connection, "default", records, replace=True)
    after = rows_of(engine, tables.link)
    with writing(engine) as connection:
        done = link_known(connection, "default", records, replace=True)

    assert after == before
    assert said == done
    assert (said.adopted, said.replaced, said.unchanged, len(said.conflicts)) == (2, 1, 1, 1)


@pytest.mark.parametrize(
    ("link", "field", "problem"),
    [
        (("contakt", "a", 1), "kind", "did you mean 'contact'"),
        (("product_rows", "a", 1), "kind", "nothing to link"),
        (("call", "a", 1), "kind", "nothing to link"),
        (("", "a", 1), "kind", "is missing"),
        (("contact", "", 1), "key", "is missing"),
        (("contact", " a", 1), "key", "white space"),
        (("contact", "a" * 191, 1), "key", "190 may be"),
        (("contact", 17, 1), "key", "write str(…) around it"),
        (("contact", "a", ""), "id", "is missing"),
        (("contact", "a", None), "id", "is missing"),
        (("contact", "a", 0), "id", "whole number above 0"),
        (("contact", "a", -1), "id", "whole number above 0"),
        (("contact", "a", 2**63), "id", "whole number above 0"),
        (("contact", "a", True), "id", "whole number above 0"),
        (("contact", "a", 4711.0), "id", "whole number above 0"),
        (("contact", "a", "0"), "id", "write the number alone"),
        (("contact", "a", "0042"), "id", "write the number alone"),
        (("contact", "a", " 42"), "id", "write the number alone"),
        (("contact", "a", "C_42"), "id", "write the number alone"),
        (("contact", "a", "٤٢"), "id", "write the number alone"),
        (("contact", "a", "42\n"), "id", "write the number alone"),
        (("contact", "a", str(2**63)), "id", "write the number alone"),
        (("contact", "a"), "link", "a kind, a key and an id"),
        ("abc", "link", "a kind, a key and an id"),
    ],
)
def test_a_link_that_cannot_be_one_is_refused_and_nothing_is_written(
    sqlite_engine: Engine, link: tuple[str, str, int], field: str, problem: str
) -> None:
    """Named by position, field and what to do, and the good links before it are not there."""
    with writing(sqlite_engine) as connection:
        with pytest.raises(ChangeError) as caught:
            adopt(connection, [*_contacts(good=1), link])
        left = rows_in(connection, tables.link)

    assert (caught.value.field, caught.value.position) == (field, 1)
    assert problem in str(caught.value)
    assert left == []


def test_a_portal_that_no_table_takes_is_refused(sqlite_engine: Engine) -> None:
    """As for a change."""
    with writing(sqlite_engine) as connection, pytest.raises(ChangeError, match="portal"):
        adopt(connection, _contacts(a=1), portal="")


def test_declared_kinds_are_adopted_too(sqlite_engine: Engine) -> None:
    """They are given as to the outbox."""
    stock = Kind(name="stock", update=Method(name="stock.update", id_param="id"))

    with writing(sqlite_engine) as connection:
        told = adopt(connection, [("stock", "s", 1)], kinds={"stock": stock})

    assert told.adopted == 1


def _write_with(where: Connection | Session | scoped_session[Session]) -> None:
    adopt(where, _contacts(a=1))
    enqueue(where, Change("contact", key="a", operation="upsert", fields={"name": "Ann"}))


def test_links_are_written_in_the_transaction_of_a_session(
    engine: Engine, application: Engine
) -> None:
    """With SQLAlchemy's defaults; they are there when it commits, and not if it does not."""
    with Session(application) as session:
        _write_with(session)
        session.rollback()
    undone = _ids(engine)
    with Session(application) as session, session.begin():
        _write_with(session)

    assert undone == {}
    assert _ids(engine) == {"a": "1"}


def test_links_are_written_in_the_transaction_of_a_connection_or_a_scoped_session(
    engine: Engine, application: Engine
) -> None:
    """Whatever the application's transaction runs in."""
    with application.begin() as connection:
        _write_with(connection)
    scoped = scoped_session(sessionmaker(application))
    adopt(scoped, _contacts(b=2))
    scoped.commit()
    scoped.remove()

    assert _ids(engine) == {"a": "1", "b": "2"}


def test_rows_of_a_query_are_links(engine: Engine, application: Engine) -> None:
    """An application that keeps the ids in a table of its own adopts them from there."""
    with Session(application) as session, session.begin():
        session.execute(text("CREATE TEMPORARY TABLE crm_ids (code VARCHAR(9), crm_id INTEGER)"))
        session.execute(text("INSERT INTO crm_ids VALUES ('a', 1), ('b', 2)"))
        found = session.execute(text("SELECT 'contact', code, crm_id FROM crm_ids")).all()
        told = adopt(session, found)

    assert told.adopted == 2
    assert _ids(engine) == {"a": "1", "b": "2"}


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_the_tables_may_stand_in_a_schema_of_their_own(
    application: Engine, database_url: str
) -> None:
    """PostgreSQL only; what the caller does on the same connection afterwards is not sent there."""
    aside = make_engine(database_url, schema="aside")
    with application.begin() as connection:
        connection.execute(text("CREATE SCHEMA aside"))
    try:
        with aside.begin() as connection:
            tables.metadata.create_all(connection)

        with Session(application) as session, session.begin():
            adopt(session, _contacts(a=1), schema="aside")
            adopt(session, _contacts(b=2))

        assert _ids(aside) == {"a": "1"}
        assert _ids(application) == {"b": "2"}
    finally:
        aside.dispose()
        with application.begin() as connection:
            connection.execute(text("DROP SCHEMA aside CASCADE"))


def _just_before(statement: str, mine: Connection, work: Callable[[], None]) -> None:
    """Have somebody else work just before the first statement of mine that begins so."""
    done: list[str] = []

    @event.listens_for(mine, "before_cursor_execute")
    def _work(*args: object) -> None:
        if not done and str(args[2]).startswith(statement):
            done.append(statement)
            work()


def _while_it_writes(mine: Connection, others: Engine, key: str, **row: object) -> None:
    """Have a worker add a link between the look at the table and the first insert."""
    _just_before("INSERT", mine, lambda: _add_link(others, key, **row))


def test_a_link_that_a_worker_writes_meanwhile_is_not_written_over(server_engine: Engine) -> None:
    """It came after the look and before the write; it is a conflict like any other."""
    add_rows(server_engine, "child", state="held", waits_for="contact a")
    with server_engine.connect() as mine, mine.begin():
        _while_it_writes(mine, server_engine, "a", remote_id="5", state="present")

        told = adopt(mine, [*_contacts(a=46, b=47), *_contacts(a=46)])

    assert [(c.position, c.key, c.remote_id, c.known_id) for c in told.conflicts] == [
        (0, "a", "46", "5"),
        (2, "a", "46", "5"),
    ]
    assert (told.adopted, told.unchanged, told.released) == (1, 0, 0)
    assert _ids(server_engine) == {"a": "5", "b": "47"}


def test_an_id_that_a_link_gets_meanwhile_stays(server_engine: Engine) -> None:
    """The same where the link was there, and had no id when it was looked at."""
    _add_link(server_engine, "a", state="deleted")
    learnt = {"remote_id": "5", "state": "present"}
    with server_engine.connect() as mine, mine.begin():
        _just_before(
            "INSERT", mine, lambda: change(server_engine, tables.link, learnt, entity_key="a")
        )

        (conflict,) = adopt(mine, _contacts(a=46)).conflicts

    assert conflict.known_id == "5"
    assert _ids(server_engine) == {"a": "5"}


def test_a_key_that_gets_a_third_id_meanwhile_keeps_it(server_engine: Engine) -> None:
    """Replacing is about the id that was seen, not about whatever is there by then."""
    _add_link(server_engine, "a", state="present", remote_id="1")
    learnt = {"remote_id": "5"}
    with server_engine.connect() as mine, mine.begin():
        _just_before(
            "UPDATE", mine, lambda: change(server_engine, tables.link, learnt, entity_key="a")
        )

        (conflict,) = adopt(mine, _contacts(a=46), replace=True).conflicts

    assert conflict.known_id == "5"
    assert _ids(server_engine) == {"a": "5"}


def test_an_id_that_a_worker_gives_away_meanwhile_is_not_given_twice(server_engine: Engine) -> None:
    """Nor does the caller's transaction break over it."""
    with server_engine.connect() as mine, mine.begin():
        _while_it_writes(mine, server_engine, "z", remote_id="46", state="present")

        told = adopt(mine, _contacts(a=46, b=47))

    assert told.conflicts == (
        Conflict(position=0, kind="contact", key="a", remote_id="46", held_by="z"),
    )
    assert _ids(server_engine) == {"z": "46", "b": "47"}


def test_a_link_that_is_in_doubt_meanwhile_is_told_and_left(server_engine: Engine) -> None:
    """A worker made the record just now and does not know its id; nobody is named."""
    with server_engine.connect() as mine, mine.begin():
        _while_it_writes(mine, server_engine, "a", state="doubt")

        (conflict,) = adopt(mine, _contacts(a=46)).conflicts

    assert str(conflict).endswith("its link was written by somebody else meanwhile, try again")
    assert _link(server_engine, "a")["state"] == "doubt"


def test_an_id_lost_while_a_link_is_filled_ends_the_transaction_loudly(
    server_engine: Engine,
) -> None:
    """The one race that cannot be told as a conflict; the next try tells it."""
    _add_link(server_engine, "a", state="deleted")
    with server_engine.connect() as mine:
        _while_it_writes(mine, server_engine, "z", remote_id="46", state="present")
        with pytest.raises(IntegrityError):
            adopt(mine, _contacts(a=46, b=47))

    assert _ids(server_engine) == {"a": None, "z": "46"}
    assert [c.held_by for c in _adopt(server_engine, _contacts(a=46, b=47)).conflicts] == ["z"]


KEYS, IDS = "abcde", "12345"


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    before=st.dictionaries(st.sampled_from(KEYS), st.sampled_from(IDS)),
    lines=st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(IDS)), max_size=8),
    replace=st.booleans(),
)
def test_whatever_is_adopted_every_line_is_counted_once_and_links_stay_unique(
    sqlite_engine: Engine, before: dict[str, str], lines: list[tuple[str, str]], *, replace: bool
) -> None:
    """What is no conflict is linked as it was said; what the tables are against is not."""
    start = {remote_id: key for key, remote_id in before.items()}
    said = [("contact", key, remote_id) for key, remote_id in lines]
    with sqlite_engine.connect() as connection, connection.begin() as transaction:
        adopt(connection, [("contact", key, remote_id) for remote_id, key in start.items()])

        told = adopt(connection, said, replace=replace)

        after = {row["entity_key"]: row["remote_id"] for row in rows_in(connection, tables.link)}
        transaction.rollback()
    beaten = {conflict.position for conflict in told.conflicts}
    counted = told.adopted + told.replaced + told.unchanged + len(told.conflicts)
    assert counted == len(lines)
    against = {conflict.position for conflict in told.conflicts if conflict.earlier is None}
    for at, (key, wanted) in enumerate(lines):
        assert at in beaten or after[key] == wanted
        assert at not in against or after.get(key) != wanted
    if not replace:
        assert after.items() >= {key: remote_id for remote_id, key in start.items()}.items()
        assert told.replaced == 0


def test_links_are_shown_by_portal_kind_and_key(engine: Engine) -> None:
    """With the ids that a conflict is about; every condition narrows."""
    _adopt(engine, [("contact", "b", 2), ("contact", "a", 1), ("deal", "a", 3)])
    _add_link(engine, "c", state="conflict", dup_ids=["8", "9"], generation=1)
    _add_link(engine, "d", state="present", remote_id="5", portal="acme")

    with reading(engine) as connection:
        every = known_links(connection)
        of_kind = known_links(connection, portal="default", kind="contact", limit=2)
        (unclear,) = known_links(connection, kind="contact", key="c", state="conflict")

    assert [(view.portal, view.kind, view.key) for view in every] == [
        ("acme", "contact", "d"),
        ("default", "contact", "a"),
        ("default", "contact", "b"),
        ("default", "contact", "c"),
        ("default", "deal", "a"),
    ]
    assert [view.remote_id for view in of_kind] == ["1", "2"]
    assert unclear == KnownLink(
        portal="default",
        kind="contact",
        key="c",
        remote_id=None,
        state="conflict",
        generation=1,
        duplicates=("8", "9"),
        updated_at_ms=unclear.updated_at_ms,
        age_ms=unclear.age_ms,
    )
    assert 0 <= unclear.age_ms < 60_000


def test_an_upsert_of_a_forgotten_entity_adds_a_record_of_another_name(engine: Engine) -> None:
    """The old record still carries the old name, and must not be found in the new one's place."""
    add_portal(engine)
    _adopt(engine, _contacts(a=46))

    with writing(engine) as connection:
        forgotten = forget(connection, "default", "contact", "a")
    add_rows(engine, "a")
    portal = ScriptedPortal([Clerk()])
    drain(world_of(engine, portal), Order())

    (addition,) = commands_of(portal.asked[0]).values()
    assert forgotten
    assert addition.startswith("crm.item.add?")
    assert "contact:a#1" in addition
    assert _ids(engine) == {"a": "1"}


def test_a_conflict_can_be_forgotten_and_what_is_not_linked_cannot(engine: Engine) -> None:
    """A second time, or for a stranger, there is nothing to forget."""
    _add_link(engine, "a", state="conflict", dup_ids=["8"], sent_fields={"x": "1f"})
    _add_link(engine, "gone", state="deleted", generation=1)

    with writing(engine) as connection:
        told = [
            forget(connection, "default", "contact", key) for key in ("a", "a", "gone", "stranger")
        ]

    link = _link(engine, "a")
    assert told == [True, False, False, False]
    assert (link["state"], link["generation"]) == ("absent", 1)
    assert (link["dup_ids"], link["sent_fields"]) == (None, None)
    assert _link(engine, "gone")["state"] == "deleted"
