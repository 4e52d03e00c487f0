"""How far an audit has come is kept, and one process at a time goes on with it."""

from functools import partial

from sqlalchemy import Engine, insert

from b24sync.core.auditing import Linked
from b24sync.edge import auditing, tables
from b24sync.edge.auditing import Place, Round
from b24sync.edge.database import reading, transact, writing
from tests.house import add_portal, change, database_now, one

DAY_MS = 86_400_000
LONG = "a" * 64


def _begin(engine: Engine, code: str = "default") -> Round | None:
    begin = partial(auditing.begin, code=code, every_ms=DAY_MS, lease_ms=60_000)
    return transact(engine, begin)


def _begun(engine: Engine, code: str = "default") -> Round:
    mine = _begin(engine, code)
    assert mine is not None
    return mine


def _keep(engine: Engine, token: int, place: Place, code: str = "default") -> bool:
    keep = partial(auditing.keep, code=code, token=token, place=place, lease_ms=60_000)
    return transact(engine, keep)


def _leave(engine: Engine, token: int, *, is_over: bool, code: str = "default") -> None:
    transact(engine, partial(auditing.leave, code=code, token=token, is_over=is_over))


def _due(engine: Engine) -> tuple[str, ...]:
    with reading(engine) as connection:
        return auditing.due(connection, every_ms=DAY_MS)


def test_a_round_is_one_process_at_a_time(engine: Engine) -> None:
    """And is gone on with where it was left, however soon."""
    add_portal(engine)
    mine = _begun(engine)
    assert _begin(engine) is None
    assert _due(engine) == ()

    _keep(engine, mine.token, Place(kind="contact", key='quote " and ü', kinds=("contact", "lead")))
    _leave(engine, mine.token, is_over=False)
    again = _begun(engine)

    assert mine.place == Place()
    assert again.place == Place(kind="contact", key='quote " and ü', kinds=("contact", "lead"))


def test_a_round_that_is_over_is_begun_anew_when_it_is_time(engine: Engine) -> None:
    """From its beginning, counted from that of the last one."""
    add_portal(engine)
    mine = _begun(engine)
    _keep(engine, mine.token, Place(kind="contact", key="a"))
    _leave(engine, mine.token, is_over=True)

    early = (_due(engine), _begin(engine))
    change(engine, tables.chore, {"last_run_at": database_now(engine) - DAY_MS})
    due, later = _due(engine), _begin(engine)

    assert early == ((), None)
    assert due == ("default",)
    assert later is not None
    assert later.place == Place()
    assert one(engine, tables.chore)["last_run_at"] > database_now(engine) - 60_000


def test_whoever_was_away_too_long_keeps_nothing(engine: Engine) -> None:
    """Its lease has ended and somebody else goes on."""
    add_portal(engine)
    lost = _begun(engine)
    change(engine, tables.chore, {"lease_until": 0})
    mine = _begun(engine)
    _keep(engine, mine.token, Place(kind="contact", key="b"))

    kept = _keep(engine, lost.token, Place(kind="contact", key="a"))
    _leave(engine, lost.token, is_over=True)

    assert not kept
    assert _begin(engine) is None
    _leave(engine, mine.token, is_over=False)
    assert _begun(engine).place.key == "b"


def test_portals_are_audited_apart_the_longest_neglected_first(engine: Engine) -> None:
    """A long code has a row of its own, too; a portal that is stopped has no turn."""
    for code in ("acme", "zeta", LONG, LONG[:-1] + "b"):
        add_portal(engine, code)
    add_portal(engine, "gone", state="gone", state_reason="?")
    for code, age in (("acme", 3), (LONG, 2)):
        mine = _begun(engine, code)
        _leave(engine, mine.token, is_over=True, code=code)
        change(
            engine,
            tables.chore,
            {"last_run_at": database_now(engine) - age * DAY_MS},
            name=auditing.chore_of(code),
        )

    assert _due(engine) == (LONG[:-1] + "b", "zeta", "acme", LONG)
    assert auditing.chore_of("acme") == "audit:acme"
    assert len(auditing.chore_of(LONG)) == 32


def test_a_round_can_be_begun_before_its_time(engine: Engine) -> None:
    """Of some kinds, or all; one that somebody is at goes on as it is."""
    add_portal(engine)
    mine = _begun(engine)
    transact(engine, partial(auditing.renew, code="default", kinds=("lead",)))
    _leave(engine, mine.token, is_over=True)
    assert _begin(engine) is None

    transact(engine, partial(auditing.renew, code="default", kinds=("lead",)))

    assert _due(engine) == ("default",)
    assert _begun(engine).place == Place(kinds=("lead",))


def test_links_are_walked_over_in_their_order(engine: Engine) -> None:
    """Kind by kind, key by key; those without a record are passed over."""
    link = {"portal": "default", "kind": "contact", "state": "present"}
    with writing(engine) as connection:
        connection.execute(
            insert(tables.link),
            [
                link | {"entity_key": "b", "remote_id": "2", "generation": 1},
                link | {"entity_key": "a", "remote_id": "1", "generation": 0},
                link | {"entity_key": "B", "remote_id": "3", "generation": 0},
                link | {"entity_key": "c", "remote_id": "4", "generation": 0, "kind": "lead"},
                link | {"entity_key": "d", "remote_id": "1", "generation": 0, "portal": "acme"},
            ],
        )
        connection.execute(
            insert(tables.link), link | {"entity_key": "aa", "remote_id": None, "state": "deleted"}
        )
        walked = auditing.linked_after(connection, "default", "contact", "", limit=2)
        rest = auditing.linked_after(connection, "default", "contact", "a", limit=2)
        kinds = [
            auditing.next_kind(connection, "default", kind) for kind in ("", "contact", "lead")
        ]
        counts = [
            auditing.count_links(connection, "default", of) for of in ((), ("lead",), ("deal",))
        ]
        still = auditing.still_linked(
            connection,
            "default",
            [Linked(kind="contact", key=key, remote_id="1") for key in ("a", "b", "aa")],
        )

    assert [one.key for one in walked] == ["B", "a"]
    assert rest == (Linked(kind="contact", key="b", remote_id="2", generation=1),)
    assert kinds == ["contact", "lead", None]
    assert counts == [4, 1, 0]
    assert still == {("contact", "a", "1"), ("contact", "b", "2")}
