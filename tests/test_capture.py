"""What a session flushes becomes changes: in its transaction, of what changed, in order."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Connection,
    Engine,
    UpdateBase,
    create_engine,
    delete,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from b24sync import Change, ChangeError, enqueue
from b24sync import drain as drains
from b24sync.capture import Captured, CaptureError, Computed, Entity, RefTo, capture
from b24sync.edge import tables
from tests.fakes import ScriptedPortal
from tests.house import Clerk, add_portal, commands_of, in_threads, rows_of, world_of
from tests.shop import Base, Company, Customer, Member, Order, Seat

Makes = sessionmaker[Session]

COMPANY = Entity(Company, kind="company", key="code", fields={"title": "name"})
CUSTOMER = Entity(
    Customer,
    kind="contact",
    key="c-{id}",
    fields={"name": "first_name", "lastName": Customer.last_name},
)


@pytest.fixture
def application(engine: Engine, database_url: str) -> Iterator[Engine]:
    """An application's own engine, on a database with the shop's tables beside the outbox."""
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    own = create_engine(database_url)
    yield own
    own.dispose()
    Base.metadata.drop_all(engine)


@pytest.fixture
def makes(application: Engine) -> Makes:
    """What makes the application's sessions; nothing is captured yet."""
    return sessionmaker(application)


def _said(engine: Engine) -> list[tuple[str, str, Any]]:
    """The changes in the outbox: operation, entity, fields."""
    return [
        (row["operation"], f"{row['kind']}:{row['entity_key']}", row["fields"])
        for row in rows_of(engine, tables.outbox)
    ]


def _there(makes: Makes, *instances: object) -> None:
    """Objects that are in the database before anything is captured."""
    with makes.begin() as session:
        session.add_all(instances)


def _ann(**values: object) -> Customer:
    return Customer(**({"id": 17, "first_name": "Ann", "last_name": "Lee"} | values))


def test_an_insert_is_an_upsert_of_all_fields(engine: Engine, makes: Makes) -> None:
    """Empty ones too, and with a primary key that the database gave a moment before."""
    capture(makes, [CUSTOMER])

    with makes.begin() as session:
        session.add(Customer(first_name="Ann"))

    assert _said(engine) == [("upsert", "contact:c-1", {"name": "Ann", "lastName": None})]


def test_an_update_carries_what_changed_only(engine: Engine, makes: Makes) -> None:
    """A portal's user may have changed the other fields meanwhile."""
    _there(makes, _ann())
    capture(makes, [CUSTOMER])

    with makes.begin() as session:
        session.get_one(Customer, 17).last_name = "May"

    assert _said(engine) == [("update", "contact:c-17", {"lastName": "May"})]


def test_a_change_of_what_is_not_mapped_is_no_change(engine: Engine, makes: Makes) -> None:
    """Nor is an attribute that ends up as it was loaded."""
    _there(makes, _ann())
    capture(makes, [CUSTOMER])

    with makes.begin() as session:
        ann = session.get_one(Customer, 17)
        ann.remark = "called"
        ann.last_name = "May"
        ann.last_name = "Lee"

    assert _said(engine) == []


def test_what_is_set_without_having_been_loaded_is_a_change(engine: Engine, makes: Makes) -> None:
    """Nobody knows the old value of an expired attribute, not even that it is the same."""
    _there(makes, _ann())
    capture(makes, [CUSTOMER])

    with makes.begin() as session:
        ann = session.get_one(Customer, 17)
        session.expire(ann)
        ann.last_name = "Lee"

    assert _said(engine) == [("update", "contact:c-17", {"lastName": "Lee"})]


def test_what_the_database_computes_is_read_back(engine: Engine, makes: Makes) -> None:
    """An attribute set to an SQL expression, and one that every UPDATE sets, have no history."""
    _there(makes, _ann(visits=4))
    fields = {"visits": "visits", "revision": "revision"}
    capture(makes, [Entity(Customer, kind="contact", key="c-{id}", fields=fields)])

    with makes.begin() as session:
        ann = session.get_one(Customer, 17)
        ann.visits = Customer.visits + 3

    assert _said(engine) == [("update", "contact:c-17", {"visits": 7, "revision": 2})]


def test_a_delete_is_a_delete(engine: Engine, makes: Makes) -> None:
    """Under the key that the object had, whatever was loaded or changed of it."""
    _there(makes, Company(id=1, code="acme", name="Acme"), Company(id=2, code="b", name="B"))
    capture(makes, [COMPANY])

    with makes.begin() as session:
        expired, changed = session.get_one(Company, 1), session.get_one(Company, 2)
        session.expire(expired)
        changed.code = "other"
        session.delete(expired)
        session.delete(changed)

    assert sorted(_said(engine)) == [
        ("delete", "company:acme", None),
        ("delete", "company:b", None),
    ]


def test_an_orphan_is_deleted_too(engine: Engine, makes: Makes) -> None:
    """It is the flush that finds out; the session was never told."""
    _there(makes, _ann(orders=[Order(id=1, title="Tea"), Order(id=2, title="Cups")]))
    capture(makes, [Entity(Order, kind="deal", key="o-{id}", fields={"title": "title"})])

    with makes.begin() as session:
        ann = session.get_one(Customer, 17)
        ann.orders.pop(0)

    assert _said(engine) == [("delete", "deal:o-1", None)]


def test_a_deleted_object_and_its_successor_of_the_same_key_are_one_upsert(
    engine: Engine, makes: Makes
) -> None:
    """SQLAlchemy updates the row then; the portal's record stays as well."""
    _there(makes, Seat(hall="A", number=1, name="old"))
    capture(
        makes,
        [Entity(Seat, kind="deal", key="{hall}/{number}", fields={"title": "name"}, inserts="add")],
    )

    with makes.begin() as session:
        session.delete(session.get_one(Seat, ("A", 1)))
        session.add(Seat(hall="A", number=1, name="new"))

    assert _said(engine) == [("upsert", "deal:A/1", {"title": "new"})]


def test_every_flush_of_a_transaction_is_a_change(engine: Engine, makes: Makes) -> None:
    """In their order; who merges them sees the whole outbox."""
    capture(makes, [CUSTOMER])

    with makes.begin() as session:
        ann = _ann()
        session.add(ann)
        session.flush()
        ann.last_name = "May"
        session.flush()
        session.delete(ann)

    assert [operation for operation, _, _ in _said(engine)] == ["upsert", "update", "delete"]


def test_one_flush_says_deletes_first_and_then_in_the_order_of_declarations(
    engine: Engine, makes: Makes
) -> None:
    """So a referenced entity is there before it is referred to, and is gone after that."""
    _there(makes, Company(id=1, code="old", name="Old"), _ann(id=16, company_id=1))
    capture(makes, [COMPANY, CUSTOMER])

    with makes.begin() as session:
        company, customer = session.get_one(Company, 1), session.get_one(Customer, 16)
        with session.no_autoflush:
            session.delete(company)
            session.delete(customer)
        session.add_all([_ann(id=18), _ann(id=19), Company(id=2, code="new", name="New")])

    assert [(operation, entity) for operation, entity, _ in _said(engine)] == [
        ("delete", "contact:c-16"),
        ("delete", "company:old"),
        ("upsert", "company:new"),
        ("upsert", "contact:c-18"),
        ("upsert", "contact:c-19"),
    ]


def test_a_rollback_leaves_nothing(engine: Engine, makes: Makes) -> None:
    """The change exists if and only if the transaction does."""
    capture(makes, [CUSTOMER])

    with makes() as session:
        session.add(_ann())
        session.flush()
        session.rollback()

    assert _said(engine) == []


@pytest.mark.usefixtures("application")
def test_a_savepoint_takes_back_its_own_changes_only(engine: Engine) -> None:
    """What was written outside of it stays. The engine is one whose savepoints work on SQLite."""
    makes = sessionmaker(engine)
    capture(makes, [CUSTOMER])

    with makes.begin() as session:
        session.add(_ann(id=1))
        with session.begin_nested() as savepoint:
            session.add(_ann(id=2))
            session.flush()
            savepoint.rollback()
        session.add(_ann(id=3))

    assert [entity for _, entity, _ in _said(engine)] == ["contact:c-1", "contact:c-3"]


def test_changes_written_by_hand_keep_their_place(engine: Engine, makes: Makes) -> None:
    """Writing one flushes what came before it."""
    capture(makes, [CUSTOMER])

    with makes.begin() as session:
        session.add(_ann())
        enqueue(session, Change("contact", "c-17", "update", {"post": "CEO"}))

    assert [operation for operation, _, _ in _said(engine)] == ["upsert", "update"]


def test_a_computed_field_changes_with_what_it_reads(engine: Engine, makes: Makes) -> None:
    """And with nothing else."""
    _there(makes, _ann(), _ann(id=18))
    full = Computed(lambda c: c.full_name, ["first_name", Customer.last_name])
    capture(makes, [Entity(Customer, kind="contact", key="c-{id}", fields={"name": full})])

    with makes.begin() as session:
        session.get_one(Customer, 17).last_name = "May"
        session.get_one(Customer, 18).remark = "called"

    assert _said(engine) == [("update", "contact:c-17", {"name": "Ann May"})]


def test_a_computed_field_may_read_a_collection(engine: Engine, makes: Makes) -> None:
    """Loaded or not, its members coming and going are changes of it."""
    _there(makes, _ann(orders=[Order(id=1, title="Tea")]))
    titles = Computed(lambda c: [order.title for order in c.orders], ["orders"])
    capture(makes, [Entity(Customer, kind="contact", key="c-{id}", fields={"comments": titles})])

    with makes.begin() as session:
        ann = session.get_one(Customer, 17)
        session.add(Order(id=2, title="Cups", customer=ann))

    assert _said(engine) == [("update", "contact:c-17", {"comments": ["Tea", "Cups"]})]


def _ref(key: str) -> dict[str, dict[str, dict[str, str]]]:
    return {"companyId": {"$ref": {"kind": "company", "key": key}}}


def _referring(ref: RefTo) -> list[Entity]:
    fields = {"companyId": ref}
    return [COMPANY, Entity(Customer, kind="contact", key="c-{id}", fields=fields)]


def test_a_relationship_is_a_reference_by_the_key_of_its_entity(
    engine: Engine, makes: Makes
) -> None:
    """New objects on both ends, and a key that the foreign key does not tell."""
    capture(makes, _referring(RefTo("company", "company")))

    with makes.begin() as session:
        session.add(_ann(company=Company(code="acme", name="Acme")))

    assert _said(engine) == [
        ("upsert", "company:acme", {"title": "Acme"}),
        ("upsert", "contact:c-17", _ref("acme")),
    ]


@pytest.mark.parametrize("new", [True, False], ids=["inserted", "updated"])
def test_a_reference_follows_the_foreign_key(engine: Engine, makes: Makes, new: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Though the relationship still shows what it was loaded with."""
    _there(makes, Company(id=1, code="a", name="A"), Company(id=2, code="b", name="B"))
    _there(makes, *([] if new else [_ann(company_id=1)]))
    capture(makes, _referring(RefTo("company", Customer.company)))

    with makes.begin() as session:
        if new:
            session.add(_ann(company_id=2))
        else:
            ann = session.get_one(Customer, 17)
            assert ann.company is not None
            ann.company_id = 2

    assert [fields for _, _, fields in _said(engine)] == [_ref("b")]


def test_a_reference_follows_the_collection_at_the_other_end(engine: Engine, makes: Makes) -> None:
    """The flush sets the foreign key; no attribute of the object was touched by hand."""
    _there(makes, Company(id=1, code="a", name="A"), _ann())
    capture(makes, _referring(RefTo("company", "company", key="nr-{id}")))

    with makes.begin() as session:
        company = session.get_one(Company, 1)
        company.customers.append(session.get_one(Customer, 17))

    assert _said(engine) == [("update", "contact:c-17", _ref("nr-1"))]


@pytest.mark.parametrize("of", ["company", "nr-{company_id}", "company_id"])
def test_a_reference_to_nothing_is_empty(engine: Engine, makes: Makes, of: str) -> None:
    """Whichever way it is said."""
    _there(makes, Company(id=1, code="a", name="A"), _ann(company_id=1))
    capture(makes, _referring(RefTo("company", of)))

    with makes.begin() as session:
        session.get_one(Customer, 17).company_id = None

    assert _said(engine) == [("update", "contact:c-17", {"companyId": None})]


VISIBLE = replace(CUSTOMER, fields={"name": "first_name"}, when="is_public")


def test_what_is_not_for_the_portal_is_never_said(engine: Engine, makes: Makes) -> None:
    """Not when it is made, changed or deleted: the portal would know no such record."""
    capture(makes, [VISIBLE])

    with makes.begin() as session:
        ann = _ann(is_public=False)
        session.add(ann)
        session.flush()
        ann.first_name = "Anna"
        session.flush()
        session.delete(ann)

    assert _said(engine) == []


def test_coming_into_view_is_an_insert_and_leaving_it_a_delete(
    engine: Engine, makes: Makes
) -> None:
    """Judged by what was, even where it had to be loaded first."""
    _there(makes, _ann(id=1, is_public=False), _ann(id=2), _ann(id=3))
    capture(makes, [VISIBLE])

    with makes.begin() as session:
        comes, goes, stays = (session.get_one(Customer, number) for number in (1, 2, 3))
        session.expire_all()
        comes.is_public = True
        goes.is_public = False
        stays.is_public = True

    assert sorted(_said(engine)) == [
        ("delete", "contact:c-2", None),
        ("upsert", "contact:c-1", {"name": "Ann"}),
    ]


def test_deletes_can_be_left_unsaid(engine: Engine, makes: Makes) -> None:
    """For portals that keep what the application forgets."""
    _there(makes, _ann(id=1), _ann(id=2))
    capture(makes, [replace(VISIBLE, deletes=False, deletes_hidden=False)])

    with makes.begin() as session:
        session.get_one(Customer, 1).is_public = False
        session.delete(session.get_one(Customer, 2))

    assert _said(engine) == []


def test_operations_and_portal_and_priority_are_as_declared(engine: Engine, makes: Makes) -> None:
    """A portal may differ from object to object."""
    entity = replace(VISIBLE, portal=Customer.tenant, inserts="add", updates="upsert", priority=-2)
    capture(makes, [entity])

    with makes.begin() as session:
        ann = _ann(tenant="acme")
        session.add(ann)
        session.flush()
        ann.first_name = "Anna"

    rows = rows_of(engine, tables.outbox)
    assert [(row["operation"], row["portal"], row["priority"]) for row in rows] == [
        ("add", "acme", -2),
        ("upsert", "acme", -2),
    ]


def _rename(session: Session, code: str, *, expired: bool) -> None:
    acme = session.get_one(Company, 1)
    if expired:
        session.expire(acme)
    acme.code = code


@pytest.mark.parametrize("expired", [False, True], ids=["loaded", "expired"])
def test_a_key_may_not_change(engine: Engine, makes: Makes, expired: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """The portal's record belongs to the old one; the transaction ends there."""
    _there(makes, Company(id=1, code="acme", name="Acme"))
    capture(makes, [COMPANY])

    with (
        pytest.raises(CaptureError, match=r"Company 1: .*from 'acme' to 'emca'"),
        makes.begin() as session,
    ):
        _rename(session, "emca", expired=expired)

    assert _said(engine) == []
    assert [row["code"] for row in rows_of(engine, Company.metadata.tables["shop_company"])] == [
        "acme"
    ]


def test_a_key_set_to_what_it_was_is_no_change_of_it(engine: Engine, makes: Makes) -> None:
    """Even on an expired object: its old value is loaded before."""
    _there(makes, Company(id=1, code="acme", name="Acme"))
    capture(makes, [COMPANY])

    with makes.begin() as session:
        _rename(session, "acme", expired=True)

    assert _said(engine) == []


def test_a_key_may_not_be_left_to_sql(makes: Makes) -> None:
    """Nobody could say then which entity was meant."""
    _there(makes, Company(id=1, code="acme", name="Acme"))
    capture(makes, [COMPANY])

    with (
        pytest.raises(CaptureError, match="Company 1: code must be set to plain"),
        makes.begin() as session,
    ):
        session.get_one(Company, 1).code = Company.code + "!"


def test_what_cannot_be_said_names_the_object(engine: Engine, makes: Makes) -> None:
    """Class, primary key, entity and field; and neither row nor change is there."""
    fields = {"name": Computed(lambda _c: object(), ["first_name"])}
    capture(makes, [Entity(Customer, kind="contact", key="c-{id}", fields=fields)])

    with (
        pytest.raises(ChangeError, match=r"Customer 17, contact:c-17: fields\.name: JSON"),
        makes.begin() as session,
    ):
        session.add(_ann())

    assert _said(engine) == []
    with makes() as session:
        assert session.get(Customer, 17) is None


def test_a_key_that_is_missing_names_the_object(makes: Makes) -> None:
    """The template had nothing to be filled with."""
    entity = Entity(Customer, kind="contact", key="{remark}", fields={"name": "first_name"})
    capture(makes, [entity])

    with pytest.raises(ChangeError, match="Customer 17: key: text or"), makes.begin() as session:
        session.add(_ann())


def test_subclasses_are_captured_with_their_class(engine: Engine, makes: Makes) -> None:
    """Unless they are declared themselves: the nearest declaration counts."""
    _there(makes, Member(id=17, first_name="Ann", card="gold"))
    capture(makes, [CUSTOMER])
    with makes.begin() as session:
        session.get_one(Customer, 17).first_name = "Anna"
    fields = {"post": "card", "name": "first_name"}
    capture(makes, [Entity(Member, kind="contact", key="m-{id}", fields=fields)])

    with makes.begin() as session:
        session.get_one(Member, 17).card = "tin"

    assert _said(engine) == [
        ("update", "contact:c-17", {"name": "Anna"}),
        ("update", "contact:m-17", {"post": "tin"}),
    ]


def test_a_class_may_be_several_entities(engine: Engine, makes: Makes) -> None:
    """Each with its own kind, in the order in which they were declared."""
    lead = Entity(Customer, kind="lead", key="l-{id}", fields={"title": "last_name"})
    capture(makes, [CUSTOMER, lead])

    with makes.begin() as session:
        session.add(_ann())

    assert [entity for _, entity, _ in _said(engine)] == ["contact:c-17", "lead:l-17"]


def test_only_sessions_of_the_target_are_captured(
    engine: Engine, application: Engine, makes: Makes
) -> None:
    """A sessionmaker's sessions, not those of another one on the same engine."""
    capture(makes, [CUSTOMER])

    with sessionmaker(application).begin() as session:
        session.add(_ann())

    assert _said(engine) == []


class _OwnSession(Session):
    """An application's class of sessions."""


def test_a_class_of_sessions_a_session_and_a_scoped_session_can_be_captured(
    engine: Engine, application: Engine
) -> None:
    """Those above a session's class are captured with it, and everything once."""
    kept = capture(_OwnSession, [CUSTOMER])
    scoped = scoped_session(sessionmaker(application, class_=_OwnSession))
    capture(scoped, [COMPANY])
    session = scoped()
    capture(session, [CUSTOMER, COMPANY])

    session.add_all([_ann(), Company(code="acme", name="Acme")])
    session.commit()
    scoped.remove()
    kept.remove()

    assert [entity for _, entity, _ in _said(engine)] == ["contact:c-17", "company:acme"]


def test_capturing_again_captures_once_and_as_said_last(engine: Engine, makes: Makes) -> None:
    """Whether or not the declarations are equal."""
    capture(makes, [COMPANY, CUSTOMER])
    capture(makes, [CUSTOMER])
    capture(makes, [Entity(Customer, kind="contact", key="c-{id}", fields={"name": "last_name"})])

    with makes.begin() as session:
        session.add(_ann())

    assert _said(engine) == [("upsert", "contact:c-17", {"name": "Lee"})]


def test_what_is_removed_is_captured_no_more(engine: Engine, makes: Makes) -> None:
    """Removing twice is as good as once, and leaves alone what others capture there."""
    companies = capture(makes, [COMPANY])
    customers = capture(makes, [CUSTOMER])

    companies.remove()
    companies.remove()
    with makes.begin() as session:
        session.add_all([_ann(), Company(code="acme", name="Acme")])
    customers.remove()
    with makes.begin() as session:
        session.add(_ann(id=18))
        session.execute(update(Customer).values(remark="called"))

    assert [entity for _, entity, _ in _said(engine)] == ["contact:c-17"]


def test_each_object_is_said_where_it_is_written(
    engine: Engine, application: Engine, tmp_path: Path
) -> None:
    """One session on two databases: the change goes with its object's transaction."""
    aside = create_engine(f"sqlite:///{tmp_path / 'aside.db'}")
    Base.metadata.create_all(aside)
    tables.metadata.create_all(aside)
    makes = sessionmaker(binds={Customer: application, Company: aside})
    capture(makes, [COMPANY, CUSTOMER])

    with makes.begin() as session:
        session.add_all([_ann(), Company(code="acme", name="Acme")])

    assert [entity for _, entity, _ in _said(engine)] == ["contact:c-17"]
    assert [entity for _, entity, _ in _said(aside)] == ["company:acme"]
    aside.dispose()


BULK = {
    "update": update(Customer).values(remark="called"),
    "delete": delete(Customer),
    "insert": insert(Customer).values(id=18),
    "a subclass": update(Member).values(card="tin"),
    "the table": update(Base.metadata.tables["shop_customer"]).values(remark="called"),
}


@pytest.mark.parametrize("statement", BULK.values(), ids=BULK)
def test_a_bulk_statement_on_a_captured_class_is_refused(
    makes: Makes, statement: UpdateBase
) -> None:
    """It would pass every flush by; the message says how to allow it."""
    capture(makes, [CUSTOMER])

    with (
        makes.begin() as session,
        pytest.raises(CaptureError, match=r"Customer: .*execution_options\(b24sync_uncaptured"),
    ):
        session.execute(statement)


def test_a_bulk_statement_of_a_query_is_refused(makes: Makes) -> None:
    """The older way to say the same."""
    capture(makes, [CUSTOMER])

    with makes.begin() as session, pytest.raises(CaptureError, match="Customer: is captured"):
        session.query(Customer).update({"remark": "called"})


def test_a_bulk_statement_can_be_allowed(engine: Engine, makes: Makes) -> None:
    """By its own options or by those of the call; other classes need no leave."""
    _there(makes, _ann())
    capture(makes, [CUSTOMER])
    statement = update(Customer).values(last_name="May")

    with makes.begin() as session:
        session.execute(statement.execution_options(b24sync_uncaptured=True))
        session.execute(delete(Member), execution_options={"b24sync_uncaptured": True})
        session.execute(update(Company).values(name="Acme"))

    assert _said(engine) == []


WRONG = {
    "not mapped": (
        Entity(int, kind="contact", key="id", fields={"a": "b"}),
        "int: is not a mapped",
    ),
    "kind": (
        Entity(Customer, kind="kontakt", key="id", fields={"a": "id"}),
        "Customer: the kind 'kontakt'",
    ),
    "no such attribute": (
        Entity(Customer, kind="contact", key="id", fields={"name": "nmae"}),
        r"Customer\.nmae: is neither",
    ),
    "a property": (
        Entity(Customer, kind="contact", key="id", fields={"name": "full_name"}),
        r"Customer\.full_name: is neither .*Computed",
    ),
    "template": (
        Entity(Customer, kind="contact", key="c-{nr}", fields={"name": "first_name"}),
        r"Customer\.nr: is neither",
    ),
    "bare function": (
        Entity(Customer, kind="contact", key=lambda c: c.id, fields={"name": "first_name"}),  # type: ignore[arg-type]  # the mistake under test
        "Customer: .*write Computed",
    ),
    "nothing read": (
        Entity(Customer, kind="contact", key=Computed(str, []), fields={"name": "first_name"}),
        "Customer: .*must name the attributes",
    ),
    "fields": (Entity(Customer, kind="contact", key="id", fields={}), "Customer: fields are"),
    "inserts": (
        Entity(Customer, kind="contact", key="id", fields={"a": "id"}, inserts="update"),
        "Customer: inserts is 'update'; upsert or add",
    ),
    "updates": (
        Entity(Customer, kind="contact", key="id", fields={"a": "id"}, updates="add"),
        "Customer: updates is 'add'; update or upsert",
    ),
    "reference to an uncaptured class": (
        Entity(Customer, kind="contact", key="id", fields={"a": RefTo("company", "company")}),
        r"Customer\.company: no entity of the kind 'company'",
    ),
    "a key that is related": (
        Entity(Customer, kind="contact", key="company", fields={"name": "first_name"}),
        "Customer: company: key, portal and when read columns",
    ),
    "reference to many": (
        Entity(Customer, kind="contact", key="id", fields={"a": RefTo("deal", "orders")}),
        r"Customer\.orders: leads to many",
    ),
    "key of a key": (
        Entity(
            Customer,
            kind="contact",
            key="id",
            fields={"a": RefTo("company", "company_id", key="code")},
        ),
        "Customer: company_id is no relationship",
    ),
}


@pytest.mark.parametrize(("entity", "message"), WRONG.values(), ids=WRONG)
def test_a_declaration_that_makes_no_sense_is_refused(entity: Entity, message: str) -> None:
    """By the call that makes it, with nothing installed."""
    target = sessionmaker()

    with pytest.raises(CaptureError, match=message):
        capture(target, [entity])

    assert list(target().dispatch.after_flush) == []


def test_what_makes_no_sessions_is_refused() -> None:
    """With a word on asyncio, whose sessions carry another one inside."""
    with pytest.raises(CaptureError, match="sync_session_class"):
        capture(int, [CUSTOMER])  # type: ignore[arg-type]  # the mistake under test


def _seen(captured: Captured, engine: Engine, chunk: int = 2) -> list[str]:
    with engine.connect() as connection:
        return [f"{row.kind}:{row.key}" for row in captured.uncaptured(connection, chunk=chunk)]


def test_rows_that_no_session_saw_are_listed(engine: Engine, makes: Makes) -> None:
    """What is linked, waiting, given up on or finished was seen; what is hidden need not be."""
    _there(makes, *(_ann(id=number) for number in range(1, 8)), _ann(id=8, is_public=False))
    captured = capture(makes, [VISIBLE])
    with makes.begin() as session:
        session.get_one(Customer, 3).first_name = "Anna"
        session.execute(
            insert(tables.link),
            {
                "portal": "default",
                "kind": "contact",
                "entity_key": "c-5",
                "state": "present",
                "remote_id": "9",
            },
        )
        session.execute(
            text(
                "INSERT INTO shop_customer (id, sort, tenant, is_public, visits, revision) VALUES (9, 'usual', 'default', '1', 0, 1)"
            )
        )

    assert _seen(captured, engine) == [f"contact:c-{number}" for number in (1, 2, 4, 6, 7, 9)]


def test_a_row_known_to_another_portal_only_is_listed(engine: Engine, makes: Makes) -> None:
    """Composite keys and portals that alternate from row to row do not confuse the list."""
    _there(
        makes,
        *(Seat(hall=hall, number=number, name="x") for hall in "AB" for number in (1, 2, 3)),
    )
    portal = Computed(lambda seat: f"p{seat.number % 2}", ["number"])
    captured = capture(
        makes,
        [Entity(Seat, kind="deal", key="{hall}{number}", portal=portal, fields={"title": "name"})],
    )
    with makes.begin() as session:
        enqueue(session, Change("deal", "A1", "upsert", {"title": "x"}, portal="p1"))
        enqueue(session, Change("deal", "A2", "upsert", {"title": "x"}, portal="p1"))

    assert _seen(captured, engine) == ["deal:A2", "deal:A3", "deal:B1", "deal:B2", "deal:B3"]


def test_what_was_missed_can_be_written(engine: Engine, makes: Makes) -> None:
    """In full, while the list is still being read; afterwards nothing is missing."""
    _there(makes, _ann(id=1), _ann(id=2, first_name="Bob"))
    captured = capture(makes, [VISIBLE])

    with makes.begin() as session:
        for row in captured.uncaptured(session.connection(), chunk=1):
            captured.enqueue(session, [session.get_one(row.mapped, row.identity)])

    assert _said(engine) == [
        ("upsert", "contact:c-1", {"name": "Ann"}),
        ("upsert", "contact:c-2", {"name": "Bob"}),
    ]
    assert _seen(captured, engine) == []


def test_what_is_captured_reaches_the_portal(engine: Engine, makes: Makes) -> None:
    """A new customer of a new company, both known to the portal after one call of the drain."""
    add_portal(engine)
    capture(makes, _referring(RefTo("company", "company")))
    with makes.begin() as session:
        session.add(_ann(company=Company(code="acme", name="Acme")))
    portal = ScriptedPortal(repeat(Clerk()))

    tally = drains.drain(world_of(engine, portal), drains.Order())

    assert tally.outcomes == {"applied": 2}
    commands = [line for asked in portal.asked for line in commands_of(asked).values()]
    assert "fields[title]=Acme" in commands[0]
    assert "fields[companyId]=1" in commands[1]


def _signals(application: Engine, word: str) -> threading.Event:
    """Set once a statement with this word is about to be executed."""
    reached = threading.Event()

    def look(_connection: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        if word in statement:
            reached.set()

    event.listen(application, "before_cursor_execute", look)
    return reached


@pytest.mark.parametrize("backend", ["postgresql", "mariadb"], indirect=True)
@pytest.mark.parametrize("member", [False, True], ids=["a column", "a member of a collection"])
def test_numbers_of_an_entity_rise_in_the_order_of_commits(
    engine: Engine,
    database_url: str,
    makes: Makes,
    member: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Who waits for the row has no number yet. SQLite has one writer at a time anyway."""
    _there(makes, _ann())
    count = Computed(lambda c: len(c.orders), ["orders"])
    entity = replace(CUSTOMER, fields={"name": "first_name", "comments": count})
    late_engine = create_engine(database_url)
    late = sessionmaker(late_engine)
    for target in (makes, late):
        capture(target, [entity])
    # MariaDB checks a foreign key with a lock on the row that it points to, PostgreSQL does not.
    locks = {"postgresql": "FOR NO KEY UPDATE", "mysql": "INSERT INTO shop_order"}
    word = locks[engine.dialect.name] if member else "UPDATE shop_customer"
    waits = _signals(late_engine, word)

    def change_later() -> None:
        with late.begin() as session:
            ann = session.get_one(Customer, 17)
            if member:
                ann.orders.append(Order(title="Tea"))
            else:
                ann.first_name = "later"

    with makes() as session:
        ann = session.get_one(Customer, 17)
        ann.first_name = "first"
        session.flush()
        later = threading.Thread(target=change_later, daemon=True)
        later.start()
        assert waits.wait(20)
        ann.first_name = "second"
        session.commit()
    in_threads([later.join])

    names = [row["fields"].get("name", "member") for row in rows_of(engine, tables.outbox)]
    assert names == ["first", "second", "member" if member else "later"]
    late_engine.dispose()


def test_rows_are_what_they_were_when_nothing_is_captured(engine: Engine, makes: Makes) -> None:
    """Sessions of another sessionmaker pay nothing: no listener is theirs."""
    capture(makes, [CUSTOMER])

    with Session(engine) as session, session.begin():
        session.add(_ann())
        session.execute(update(Customer).values(remark="x"))

    with makes() as session:
        assert session.scalars(select(Customer.remark)).all() == ["x"]
    assert _said(engine) == []
