"""What the demonstration writes into the outbox, and what its portal does to it.

Everything is made of the counter, so that two runs show the same. Some changes are wrong on purpose
and some of the portal's answers are trouble on purpose; the end of the show tells which was which.
"""

from collections.abc import Iterator

from b24sync.core.model import Change, Ref
from b24sync.sandbox import Fault, FaultAction, SandboxConfig

FIRST = ("Ann", "Boris", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hana", "Ivo", "Jana")
LAST = ("Almeida", "Berg", "Costa", "Dvorak", "Eriksen", "Fischer", "Garcia", "Horvat")
FIRMS = ("Mill", "Forge", "Harbour", "Orchard", "Quarry", "Foundry", "Bakery", "Press")
STAGES = ("NEW", "PREPARATION", "EXECUTING", "WON")
COMMENTS_BEFORE_A_REST = 15
"""How many timeline comments the portal takes before their method has to rest."""


def changes(rows: int) -> tuple[Change, ...]:
    """As many changes as asked for, forty or more, mixed as in an application's day.

    Raises: nothing.
    """
    part = max(1, rows // 22)
    contacts, deals = 6 * part, 4 * part
    companies = max(1, rows - len(_others(part, contacts, deals, 1)))
    return (*_companies(companies), *_others(part, contacts, deals, companies))


def _others(part: int, contacts: int, deals: int, companies: int) -> tuple[Change, ...]:
    """Everything behind the companies, on which it builds."""
    return (
        *_contacts(contacts, companies),
        *_deals(deals, contacts, companies),
        *_activities(part, deals),
        *_comments(2 * part, contacts),
        *_updates(2 * part, deals, contacts),
        *_deletes(part),
        *_wrong(max(1, part // 2), companies),
        Change("call", "who-am-i", "call", method="profile"),
    )


def _companies(count: int) -> Iterator[Change]:
    for n in range(count):
        title = f"{LAST[n % len(LAST)]} {FIRMS[n // len(LAST) % len(FIRMS)]} {n + 1}"
        yield Change("company", f"firm-{n}", "upsert", fields={"title": title})


def _contacts(count: int, companies: int) -> Iterator[Change]:
    for n in range(count):
        yield Change(
            "contact",
            f"person-{n}",
            "upsert",
            fields={
                "name": FIRST[n % len(FIRST)],
                "lastName": LAST[n // len(FIRST) % len(LAST)],
                "companyId": Ref("company", f"firm-{n % companies}"),
            },
        )


def _deals(count: int, contacts: int, companies: int) -> Iterator[Change]:
    for n in range(count):
        yield Change(
            "deal",
            f"order-{n}",
            "add",
            fields={
                "title": f"Order {1000 + n}",
                "opportunity": 100 + 25 * (n % 17),
                "currencyId": "EUR",
                "companyId": Ref("company", f"firm-{n % companies}"),
                "contactId": Ref("contact", f"person-{n % contacts}"),
            },
        )


def _activities(count: int, deals: int) -> Iterator[Change]:
    for n in range(count):
        yield Change(
            "activity.todo",
            f"call-{n}",
            "add",
            fields={
                "ownerTypeId": 2,
                "ownerId": Ref("deal", f"order-{n % deals}"),
                "deadline": "2030-01-15T12:00:00+00:00",
                "title": "Call back",
                "description": f"About order {1000 + n % deals}",
            },
        )


def _comments(count: int, contacts: int) -> Iterator[Change]:
    for n in range(count):
        yield Change(
            "comment",
            f"note-{n}",
            "add",
            fields={
                "ENTITY_TYPE": "contact",
                "ENTITY_ID": Ref("contact", f"person-{n % contacts}"),
                "COMMENT": f"Prefers e-mail; wrote on day {n + 1}",
            },
        )


def _updates(count: int, deals: int, contacts: int) -> Iterator[Change]:
    for n in range(count // 2):
        stage = STAGES[n % len(STAGES)]
        yield Change("deal", f"order-{n % deals}", "update", fields={"stageId": stage})
    for n in range(count - count // 2):
        post = {"post": "buyer" if n % 2 else "owner"}
        yield Change("contact", f"person-{n % contacts}", "update", fields=post)


def _deletes(count: int) -> Iterator[Change]:
    """Contacts that come and go; the last one was never there."""
    for n in range(count):
        yield Change("contact", f"passing-{n}", "add", fields={"name": f"Passing {n + 1}"})
        yield Change("contact", f"passing-{n}", "delete")


def _wrong(count: int, companies: int) -> Iterator[Change]:
    """What a portal refuses, each for a reason of its own."""
    for n in range(count):
        yield Change(
            "company", f"taxless-{n}", "add", fields={"title": "No tax number", "vat": "?"}
        )
        yield Change("deal", f"secret-{n}", "add", fields={"title": f"Confidential {n + 1}"})
    yield Change("deal", "unheard-of", "update", fields={"title": "Never added"})
    yield Change("call", "misspelt", "call", method="crm.compnay.list")
    firm = Ref("company", f"firm-{companies - 1}")
    yield Change("company", f"firm-{companies - 1}", "update", fields={"vat": "?", "title": "x"})
    yield Change("deal", "last", "add", fields={"title": "Last order", "companyId": firm})


def portal() -> SandboxConfig:
    """A portal that takes its time, and rests a method that was used much."""
    cost_s = 0.1
    return SandboxConfig(
        latency_s=0.05,
        command_latency_s=0.004,
        method_costs={"crm.timeline.comment.add": cost_s},
        operating_limit_s=COMMENTS_BEFORE_A_REST * cost_s,
        operating_window_s=3.0,
    )


def faults() -> tuple[Fault, ...]:
    """What goes wrong on the portal's side."""
    return (
        Fault(
            action=FaultAction.COMMAND,
            times=None,
            method="crm.item.*",
            field="vat",
            code="CRM_FIELD_ERROR_VALUE_NOT_VALID",
            text='Invalid value of the field "VAT number"',
        ),
        Fault(
            action=FaultAction.COMMAND,
            times=None,
            method="crm.item.add",
            field="title",
            matches="^Confidential",
            code="ACCESS_DENIED",
            text="Access denied: the user may not create deals of this category",
        ),
        Fault(
            action=FaultAction.ERROR,
            method="batch",
            skip=3,
            times=2,
            code="QUERY_LIMIT_EXCEEDED",
            text="Too many requests",
        ),
    )
