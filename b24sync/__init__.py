"""What a writing application imports: a change, a reference, and how they are written.

::

    from b24sync import Change, Ref, enqueue

    with Session(engine) as session, session.begin():
        session.add(customer)
        enqueue(session, Change("contact", key="c-17", operation="upsert",
                                fields={"name": "Ann", "companyId": Ref("company", "acme")}))

Celery is not imported by this; see ``b24sync.plugin`` for the worker's side.
"""

from b24sync.adoption import adopt
from b24sync.core.errors import B24SyncError, ChangeError, SettingsError
from b24sync.core.model import Change, Ref
from b24sync.outbox import Outbox, enqueue, enqueue_many
from b24sync.version import VERSION

__version__ = VERSION

__all__ = [
    "B24SyncError",
    "Change",
    "ChangeError",
    "Outbox",
    "Ref",
    "SettingsError",
    "__version__",
    "adopt",
    "enqueue",
    "enqueue_many",
]
