"""Rows whose requests come to nothing known, again and again: found, set apart, named.

A *loss* is a request of which nobody knows what became: there was no usable answer, or its worker
went away with it. After each, and before anything else is sent, the portal has to show that it
answers at all; so losses speak of the request, and a portal that is down charges nobody.

One row in such a batch may be to blame: it takes the portal longer than a request may last, ends
its server's process, or ends ours. Rows with losses therefore travel apart from the others and in
ever smaller company, until the one to blame stands alone; lost some more times alone, it is given
up with that reason. A worker that died says more than an answer that did not come, and weighs more.
"""

from collections.abc import Sequence

from b24sync.core.model import Row

SUSPECT = 2
"""Losses from which a row travels apart from those without; one may happen to anybody."""

ALONE = 6
"""Losses from which a row travels alone: five halvings of fifty."""

MOST_LOSSES = 9
"""Losses after which a row is given up, the last three of them alone."""

CRASH_WEIGHT = 3
"""What a worker that died counts after the first, until the row stands alone."""


def room(losses: int, size: int) -> int:
    """How many rows may travel with one that was lost so often, itself included.

    Shape: ``size`` is that of a batch; from ``SUSPECT`` losses on it is halved with each.
    Raises: nothing.
    """
    if losses < SUSPECT:
        return size
    return 1 if losses >= ALONE else max(1, size >> (losses - 1))


def fitting(
    losses: Sequence[int], there: Sequence[int], *, size: int, in_order: bool = False
) -> tuple[int, ...]:
    """Which of these rows may travel with those that are there.

    Shape: rows are given as their losses; the answer are places in ``losses``. With ``in_order``
    none is passed over: the first that may not ends it. Rows that are to be given up always fit,
    because they do not travel.
    Raises: nothing.
    """
    taken: list[int] = []
    company = list(there)
    for place, lost in enumerate(losses):
        if lost >= MOST_LOSSES:
            taken.append(place)
        elif _is_company(company, lost, size):
            company.append(lost)
            taken.append(place)
        elif in_order:
            break
    return tuple(taken)


def _is_company(company: Sequence[int], lost: int, size: int) -> bool:
    if company and (lost >= SUSPECT) is not (company[0] >= SUSPECT):
        return False
    # Of rows that nothing is said against, as many as fit go; that is the batch's affair.
    return lost < SUSPECT or len(company) < room(max((lost, *company)), size)


def complaint(row: Row) -> str:
    """Why a row was given up, for whoever finds it.

    Raises: nothing.
    """
    last = f"; the last time: {row.last_error}" if row.last_error else ""
    return (
        f"{row.losses} times a request with it was lost, at the end with it alone{last}. "
        "It is not known to have been applied: look at the record before you replay it"
    )
