"""Mapped objects become changes by being inserted, updated and deleted.

::

    from b24sync.capture import Computed, Entity, RefTo, capture

    capture(Session, [
        Entity(Company, kind="company", key="code", fields={"title": "name"}),
        Entity(Customer, kind="contact", key="c-{id}", when="is_public", fields={
            "name": "first_name",
            "companyId": RefTo("company", "company"),
            "comments": Computed(lambda c: f"{c.city}, {c.street}", ["city", "street"]),
        }),
    ])

From then on every flush of such a session writes what it changed, in its own transaction and after
the objects' own statements: a change is numbered when its row is locked, so the numbers of one
entity rise in the order of commits. ``declared`` holds the words of a declaration, ``readings``
what they mean for a mapper, ``saying`` how an object becomes a change, ``flushing`` what a flush
did, ``sessions`` which sessions listen, and ``checking`` finds what was written where no session
could see it.
"""

from b24sync.capture.checking import Uncaptured
from b24sync.capture.declared import Computed, Entity, RefTo
from b24sync.capture.sessions import Captured, capture
from b24sync.core.errors import CaptureError

__all__ = [
    "CaptureError",
    "Captured",
    "Computed",
    "Entity",
    "RefTo",
    "Uncaptured",
    "capture",
]
