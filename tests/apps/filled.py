"""An application that captures its shop, as a back-fill finds it by name."""

from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, sessionmaker

from b24sync.capture import Computed, Entity, RefTo, capture
from tests.shop import Company, Customer, Member, Seat


def _remark(customer: Customer) -> str:
    if customer.remark == "broken":
        raise RuntimeError("nobody expected this")
    return f"{customer.first_name}: {customer.remark}"


Sessions: sessionmaker[Session] = sessionmaker()

captured = capture(
    Sessions,
    [
        Entity(Company, kind="company", key="code", fields={"title": "name"}),
        Entity(
            Customer,
            kind="contact",
            key="c-{id}",
            portal=Customer.tenant,
            when="is_public",
            fields={
                "name": "first_name",
                "companyId": RefTo("company", "company"),
                "comments": Computed(_remark, ["first_name", "remark"]),
            },
            updates="upsert",
        ),
        Entity(Member, kind="lead", key="m-{id}", fields={"title": "card"}),
        Entity(Seat, kind="deal", key="{hall}-{number}", fields={"title": "name"}),
    ],
)


def firms() -> Select[str, str]:
    """Firms under the names that the portal has for them."""
    return select(Company.code.label("code"), Company.name.label("title"))


def broken() -> Select[Any]:
    """Nothing."""
    raise RuntimeError("no such shop")


def text() -> str:
    """No select."""
    return "SELECT 1"
