"""The table of portal error codes: what each complaint means and where it is documented.

The same code can mean different things in different places, so every row says where it applies:
to a request of any sort (``request``), to a whole batch only (``batch``), or to one command
(``command``). Codes are compared in any case and decide wherever they can; texts may be
localised and hold HTML, and are consulted only where the portal gives no telling code.
What is not listed is never guessed to be harmless. What becomes of a row is not decided here.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from b24sync.core.model import Fault, FaultKind, PortalState


class Where(StrEnum):
    """What a code was said about."""

    REQUEST = "request"
    BATCH = "batch"
    COMMAND = "command"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRow:
    """One line of the table.

    ``text``: a pattern (regular expression, any case) that must also be found, if not empty.
    ``source``: the page that documents the code, in words. ``passes``: where the state does not
    say it, that the portal may be well again without anything being changed that is stored here, and
    that asking it now and then does no harm.
    """

    code: str
    where: Where
    kind: FaultKind
    portal_state: PortalState | None = None
    source: str
    text: str = ""
    passes: bool = False


def _rows(
    where: Where,
    kind: FaultKind,
    source: str,
    *codes: str,
    portal_state: PortalState | None = None,
    text: str = "",
    passes: bool = False,
) -> tuple[FaultRow, ...]:
    return tuple(
        FaultRow(
            code=code,
            where=where,
            kind=kind,
            portal_state=portal_state,
            source=source,
            text=text,
            passes=passes,
        )
        for code in codes
    )


_SYSTEM = "system error codes page"
_OAUTH = "OAuth error codes page"
_BATCH_PAGE = "batch page"
_SDK = "error classes of the official Python SDK"
_LIMITS = "performance limits page"

_TEMPORARY = tuple(
    row
    for where in (Where.REQUEST, Where.COMMAND)
    for row in (
        *_rows(where, FaultKind.RATE, _SYSTEM, "QUERY_LIMIT_EXCEEDED"),
        *_rows(where, FaultKind.METHOD_TIME, _LIMITS, "OPERATION_TIME_LIMIT"),
        *_rows(where, FaultKind.TOKEN, _SYSTEM, "expired_token"),
        *_rows(
            where, FaultKind.SERVER, _SYSTEM, "INTERNAL_SERVER_ERROR", "ERROR_UNEXPECTED_ANSWER"
        ),
    )
)

_PORTAL_WIDE = (
    *_rows(
        Where.REQUEST,
        FaultKind.PORTAL,
        _SYSTEM,
        "NO_AUTH_FOUND",
        "INVALID_CREDENTIALS",
        portal_state=PortalState.AUTH_LOST,
    ),
    *_rows(
        Where.REQUEST,
        FaultKind.PORTAL,
        _SYSTEM,
        "user_access_error",
        portal_state=PortalState.AUTH_LOST,
        passes=True,
    ),
    *_rows(
        Where.REQUEST,
        FaultKind.PORTAL,
        _SDK,
        "authorization_error",
        portal_state=PortalState.AUTH_LOST,
        passes=True,
    ),
    *_rows(
        Where.REQUEST,
        FaultKind.PORTAL,
        _SDK,
        "invalid_token",
        "AUTHORIZE_ERROR",
        "APPLICATION_NOT_FOUND",
        "ERROR_OAUTH",
        "NOT_INSTALLED",
        portal_state=PortalState.AUTH_LOST,
    ),
    *_rows(
        Where.REQUEST,
        FaultKind.PORTAL,
        _OAUTH,
        "invalid_grant",
        "bad_verification_code",
        "invalid_client",
        "wrong_client",
        "invalid_scope",
        portal_state=PortalState.AUTH_LOST,
    ),
    *_rows(
        Where.REQUEST,
        FaultKind.PORTAL,
        _OAUTH,
        "PAYMENT_REQUIRED",
        portal_state=PortalState.PLAN_LOST,
    ),
    *_rows(
        Where.REQUEST,
        FaultKind.PORTAL,
        _SYSTEM,
        "ACCESS_DENIED",
        portal_state=PortalState.PLAN_LOST,
        text=r"commercial plan",
    ),
    *_rows(
        Where.REQUEST,
        FaultKind.PORTAL,
        _SYSTEM,
        "OVERLOAD_LIMIT",
        portal_state=PortalState.OVERLOADED,
    ),
    *_rows(
        Where.REQUEST,
        FaultKind.PORTAL,
        _SYSTEM,
        "PORTAL_DELETED",
        portal_state=PortalState.GONE,
    ),
    *_rows(
        Where.REQUEST,
        FaultKind.PORTAL,
        _SYSTEM,
        "INVALID_REQUEST",
        portal_state=PortalState.MISCONFIGURED,
    ),
)

_WHOLE_BATCH = (
    *_rows(
        Where.BATCH,
        FaultKind.PORTAL,
        _SYSTEM,
        "ACCESS_DENIED",
        portal_state=PortalState.PLAN_LOST,
    ),
    *_rows(
        Where.BATCH,
        FaultKind.PORTAL,
        _SYSTEM,
        "insufficient_scope",
        "allowed_only_intranet_user",
        portal_state=PortalState.AUTH_LOST,
        passes=True,
    ),
    *_rows(
        Where.BATCH,
        FaultKind.PORTAL,
        _BATCH_PAGE,
        "ERROR_BATCH_METHOD_NOT_ALLOWED",
        "ERROR_METHOD_NOT_FOUND",
        "100",
        portal_state=PortalState.MISCONFIGURED,
    ),
    *_rows(Where.BATCH, FaultKind.TOO_LARGE, _BATCH_PAGE, "ERROR_BATCH_LENGTH_EXCEEDED"),
)

_OF_THE_BATCH = (
    *_rows(Where.COMMAND, FaultKind.TOO_LARGE, _BATCH_PAGE, "ERROR_BATCH_LENGTH_EXCEEDED"),
    *_rows(Where.COMMAND, FaultKind.INVALID, _BATCH_PAGE, "ERROR_BATCH_METHOD_NOT_ALLOWED"),
)

_FORBIDDEN = (
    *_rows(
        Where.COMMAND,
        FaultKind.FORBIDDEN,
        _SYSTEM,
        "ACCESS_DENIED",
        "insufficient_scope",
        "user_access_error",
        "INVALID_CREDENTIALS",
    ),
    *_rows(
        Where.COMMAND,
        FaultKind.FORBIDDEN,
        _SDK,
        "invalid_token",
        "WRONG_AUTH_TYPE",
    ),
    *_rows(
        Where.COMMAND,
        FaultKind.FORBIDDEN,
        "confirmation of methods page",
        "METHOD_CONFIRM_WAITING",
        "METHOD_CONFIRM_DENIED",
    ),
    *_rows(
        Where.COMMAND,
        FaultKind.FORBIDDEN,
        "crm.item.add page",
        "allowed_only_intranet_user",
        "CREATE_DYNAMIC_ITEM_RESTRICTED",
        "UPDATE_DYNAMIC_ITEM_RESTRICTED",
    ),
    *_rows(
        Where.COMMAND,
        FaultKind.FORBIDDEN,
        "crm.deal.add and crm.activity.delete pages",
        "",
        text=r"access denied|application context required",
    ),
    *_rows(
        Where.COMMAND,
        FaultKind.FORBIDDEN,
        "user.update and department.delete pages",
        "ERROR_CORE",
        text=r"access.denied",
    ),
    *_rows(Where.COMMAND, FaultKind.FORBIDDEN, "tasks.task.delete page", "1048582"),
    *_rows(
        Where.COMMAND,
        FaultKind.FORBIDDEN,
        "catalog.product.add page",
        "200040300010",
        "200040300020",
        "200040300030",
        "200040300040",
        "200040300043",
        "200040300050",
    ),
)

_GONE = (
    *_rows(Where.COMMAND, FaultKind.GONE, "crm.item.delete page", "NOT_FOUND"),
    *_rows(Where.COMMAND, FaultKind.GONE, "crm.item.productrow.delete page", "OWNER_NOT_FOUND"),
    *_rows(Where.COMMAND, FaultKind.GONE, "crm.deal.userfield.delete page", "ERROR_NOT_FOUND"),
    *_rows(Where.COMMAND, FaultKind.GONE, "lists.element.delete page", "ERROR_ELEMENT_NOT_FOUND"),
    *_rows(Where.COMMAND, FaultKind.GONE, "catalog.section.delete page", "200700300030"),
    *_rows(
        Where.COMMAND,
        FaultKind.GONE,
        "crm.lead.update, crm.company.delete and crm.requisite.delete pages",
        "",
        text=r"^\W*not found\b|\b(contact|company|activity|status|with id \S+) is not found\b",
    ),
    *_rows(
        Where.COMMAND, FaultKind.GONE, "crm.address.add page", "", text=r"typeaddress not found"
    ),
    *_rows(
        Where.COMMAND,
        FaultKind.GONE,
        "crm.contact.delete and department.delete pages",
        "ERROR_CORE",
        text=r"\b(element|department) not found\b",
    ),
    *_rows(
        Where.COMMAND,
        FaultKind.GONE,
        "catalog.price.delete and crm.type.delete pages",
        "0",
        text=r"does not exist|smart process not found",
    ),
)

_INVALID = (
    *_rows(Where.COMMAND, FaultKind.INVALID, "REST 3.0 overview page", "ERROR_METHOD_NOT_FOUND"),
    *_rows(Where.COMMAND, FaultKind.INVALID, _SYSTEM, "ERROR_MANIFEST_IS_NOT_AVAILABLE"),
    *_rows(Where.COMMAND, FaultKind.INVALID, "crm.deal.add page", ""),
    *_rows(Where.COMMAND, FaultKind.INVALID, "crm.item.productrow.set page", "0"),
    *_rows(Where.COMMAND, FaultKind.INVALID, "crm.item.import and tasks.task.get pages", "100"),
    *_rows(
        Where.COMMAND,
        FaultKind.INVALID,
        "tasks.task.add and user.add pages",
        "ERROR_CORE",
        "ERROR_ARGUMENT",
    ),
    *_rows(
        Where.COMMAND,
        FaultKind.INVALID,
        "crm.item.add and crm.item.update pages",
        "-",
        "CRM_FIELD_ERROR_VALUE_NOT_VALID",
        "CRM_FIELD_ERROR_REQUIRED",
        "ENTITY_TYPE_NOT_SUPPORTED",
    ),
    *_rows(
        Where.COMMAND,
        FaultKind.INVALID,
        "crm.item.list and crm.timeline.comment.add pages",
        "INVALID_ARG_VALUE",
    ),
    *_rows(
        Where.COMMAND,
        FaultKind.INVALID,
        "crm.item.batchImport page",
        "MAX_IMPORT_BATCH_SIZE_EXCEEDED",
    ),
    *_rows(
        Where.COMMAND, FaultKind.INVALID, "crm.timeline.comment.delete page", "MULTIPLE_BINDINGS"
    ),
    *_rows(
        Where.COMMAND,
        FaultKind.INVALID,
        "catalog.product.add page",
        "200040300000",
    ),
    *_rows(
        Where.COMMAND,
        FaultKind.INVALID,
        "lists.element.add page",
        "ERROR_ELEMENT_ALREADY_EXISTS",
        "ERROR_IBLOCK_NOT_FOUND",
        "ERROR_REQUIRED_PARAMETERS_MISSING",
        "ERROR_ELEMENT_FIELD_VALUE",
        "ERROR_ADD_ELEMENT",
        "ERROR_UPDATE_ELEMENT",
        "ERROR_DELETE_ELEMENT",
    ),
)

FAULTS: tuple[FaultRow, ...] = (
    *_TEMPORARY,
    *_PORTAL_WIDE,
    *_WHOLE_BATCH,
    *_OF_THE_BATCH,
    *_FORBIDDEN,
    *_GONE,
    *_INVALID,
)
"""Every listed code; of several rows for one code and place, the first whose text is found."""

_FAMILIES = (("CRM_FIELD_ERROR_", FaultKind.INVALID),)
"""Beginnings of command codes that the portal varies per field check (crm.item.add page)."""

_VAGUE = frozenset({"", "0", "error_core"})
"""Command codes that say too little to outweigh a status of 500 and above."""

_REDIRECTS = range(300, 400)
_REFUSALS = range(400, 500)
_FAILURES = range(500, 1000)
_WRONG_ADDRESS = frozenset({403, 404})


def classify_envelope(code: str, text: str, status: int) -> Fault:
    """Say what it means that a whole request was refused with this code.

    An unlisted code with a 4xx is loud and safe: nothing ran, and a person is asked to look.
    With any other status nobody knows what ran.
    Raises: nothing.
    Source: section on general codes of the portal's manual, "System error codes".
    """
    row = _find(code, text, Where.REQUEST, Where.BATCH)
    if row is not None:
        return _fault(code, text, row.kind, status, row.portal_state)
    kind = _kind_by_status(status)
    if kind is None and status in _REFUSALS:
        return _fault(code, text, FaultKind.UNLISTED, status, PortalState.MISCONFIGURED)
    return _fault(code, text, kind or FaultKind.SERVER, status)


def classify_command(code: str, text: str) -> Fault:
    """Say what it means that the portal judged one command and answered with this code.

    Raises: nothing. What is not listed is UNLISTED.
    Source: the method pages named in ``FAULTS``.
    """
    return _fault(code, text, _command_kind(code, text), None)


def classify_single(code: str, text: str, status: int) -> Fault:
    """Say what the refusal of a single call means: of the portal's, or of this command only.

    Raises: nothing.
    Source: as ``FAULTS``; a status of 500 and above outweighs a code that says little.
    """
    row = _find(code, text, Where.REQUEST)
    if row is not None:
        return _fault(code, text, row.kind, status, row.portal_state)
    kind = _command_kind(code, text)
    if kind is FaultKind.UNLISTED or code.casefold() in _VAGUE:
        kind = _kind_by_status(status) or kind
    return _fault(code, text, kind, status)


def classify_bodyless(status: int) -> Fault | None:
    """Say what an answer without a usable body means by its status alone.

    Shape: ``None`` where nobody can say whether the request was executed.
    Raises: nothing.
    Source: portal's manual, "Changing the portal address" for 3xx; HTTP for 413, 414 and 429;
    403 and 404 pages as the official Python SDK knows them.
    """
    code = f"HTTP_{status}"
    text = f"HTTP {status} without a readable answer"
    if status in _REDIRECTS:
        return _fault(code, text, FaultKind.MOVED, status)
    if status in _WRONG_ADDRESS:
        return _fault(code, text, FaultKind.PORTAL, status, PortalState.MISCONFIGURED)
    kind = _kind_by_status(status)
    if kind is None or kind is FaultKind.SERVER:
        return None
    return _fault(code, text, kind, status)


def is_gone(patterns: tuple[tuple[str, str], ...], code: str, text: str) -> bool:
    """Say whether an answer means that the record does not exist.

    The code must be equal and the pattern found, both in any case; a pair that is empty in both
    would fit every unspecific complaint and fits none.
    Raises: ``re.error`` for a pattern that is no regular expression.
    """
    return any(
        code.casefold() == gone_code.casefold()
        and re.search(pattern, text, re.IGNORECASE) is not None
        for gone_code, pattern in patterns
        if gone_code or pattern
    )


def may_pass(code: str) -> bool:
    """Whether a lost credential or a wrong setting may be well by itself, and asking does no harm.

    Shape: ``code`` is that of the refusal of a whole request, ``HTTP_…`` where it had no body. What
    is not listed does not pass: nobody knows what asking again would do.
    Raises: nothing.
    """
    wanted = code.casefold()
    return wanted in _PASSING or any(row.passes and row.code.casefold() == wanted for row in FAULTS)


_PASSING = frozenset(f"http_{status}" for status in (*_REDIRECTS, *_WRONG_ADDRESS))
"""Pages where an answer was due: a server under repair, an address barred for a while, a redirect.
The credential goes where it always went, and no further."""


def remedy(state: PortalState, code: str = "", *, portal: str = "CODE") -> str:
    """Tell in one short sentence what is to be mended on a portal that is not called.

    Shape: by the code of its complaint, where that says more than the state; ``portal`` is the
    portal's own code, for the commands.
    Raises: nothing.
    """
    by_code = None if state in _WITHOUT_CODE else _CODE_REMEDIES.get(code.casefold())
    return (by_code or _STATE_REMEDIES[state]).replace("CODE", portal)


def advice(subject: FaultKind | PortalState, code: str = "", *, portal: str = "CODE") -> str:
    """Tell an operator what to do about a kind of fault or a state of a portal.

    Shape: of a state, what to mend and the command that goes on; ``code`` and ``portal`` as for
    ``remedy``.
    Raises: nothing; every kind and every state has its sentence.
    """
    if isinstance(subject, FaultKind):
        return _KIND_ADVICE[subject].replace("CODE", portal)
    if subject is PortalState.ACTIVE:
        return remedy(subject)
    return f"{remedy(subject, code, portal=portal)} Then `b24sync portal resume {portal}`."


_KIND_ADVICE = {
    FaultKind.RATE: "Nothing to do: the portal asked for a slower pace and the rows go again.",
    FaultKind.METHOD_TIME: (
        "Nothing to do: the method's time budget is used up and its rows wait until it is free;"
        " if this is frequent, send fewer changes of this kind."
    ),
    FaultKind.TOKEN: "Nothing to do: the access token expired and is refreshed.",
    FaultKind.PORTAL: "Look at the state of the portal: it refuses all work until it is mended.",
    FaultKind.MOVED: (
        "The portal answers from another address: check that it is the portal's, then"
        " `b24sync portal move CODE --to HOST`."
    ),
    FaultKind.INVALID: "Correct the fields or the kind of the change, then replay it.",
    FaultKind.FORBIDDEN: (
        "Give the webhook's or token's user the right, or the credential the scope, that the"
        " method needs, then replay the change."
    ),
    FaultKind.GONE: "The record or its owner is no longer on the portal: drop the change or add it anew.",
    FaultKind.SERVER: (
        "The portal failed while it worked and may have done it: let the look-up decide, and if"
        " it finds nothing compare by hand before replaying."
    ),
    FaultKind.TOO_LARGE: "The request was too large and was not executed: send less in one batch.",
    FaultKind.UNREACHABLE: "Check the portal's address, the network and its certificate.",
    FaultKind.UNLISTED: (
        "The code is not in the table of faults: read the portal's text, correct the change and"
        " report the code so that it is listed."
    ),
}

_WEBHOOK = "Applications > Developer resources > Other > Inbound webhook"
_NEW_WEBHOOK = (
    f"Store a new webhook: make it in Bitrix24 ({_WEBHOOK}), then `b24sync portal add CODE"
    " --replace`, or change the setting webhook_url."
)
_REINSTALL = (
    "Install the application anew in Bitrix24 (Applications > Installed), so that it gets new"
    " tokens."
)
_PAY = (
    "See in Bitrix24 (Subscription > My plan) that the plan is paid for and includes REST, and that"
    " the webhook's user may use it."
)

_STATE_REMEDIES = {
    PortalState.ACTIVE: "Nothing to do: the portal is called as usual.",
    PortalState.PAUSED: "An operator stopped it: see that the reason is over.",
    PortalState.AUTH_LOST: (
        f"Check in Bitrix24 that the webhook ({_WEBHOOK}) or the application is still there, and its"
        " user too; if not, store a new webhook with `b24sync portal add CODE --replace`."
    ),
    PortalState.PLAN_LOST: _PAY,
    PortalState.OVERLOADED: (
        "Ask the support of Bitrix24 (Helpdesk in the portal) why REST is blocked and to lift it."
    ),
    PortalState.GONE: (
        "Open the portal in a browser: if it is deleted for good, drop its rows; if it is closed or"
        " under repair, have it opened."
    ),
    PortalState.MISCONFIGURED: (
        "Compare the portal's address and credential with the reason and mend them."
    ),
}

_WITHOUT_CODE = frozenset({PortalState.ACTIVE, PortalState.PAUSED})
"""States in which the portal complains of nothing; a reason of an operator's own is no code."""

_CODE_REMEDIES = {
    code.casefold(): sentence
    for sentence, codes in (
        (_NEW_WEBHOOK, ("NO_AUTH_FOUND", "INVALID_CREDENTIALS")),
        (
            (
                "Let the webhook's user use the application and REST again in Bitrix24 (Applications >"
                " access rights), or make the webhook as another user."
            ),
            ("user_access_error",),
        ),
        (
            (
                "Invite the webhook's user to Bitrix24 again (Company > Employees), or make the webhook"
                " as another user."
            ),
            ("authorization_error",),
        ),
        (
            "Make the webhook as an employee of the company, not as an external user.",
            ("allowed_only_intranet_user",),
        ),
        (
            f"Give the webhook the scopes that it lacks in Bitrix24 ({_WEBHOOK} > access rights).",
            ("insufficient_scope", "invalid_scope"),
        ),
        (
            _REINSTALL,
            (
                "invalid_token",
                "AUTHORIZE_ERROR",
                "APPLICATION_NOT_FOUND",
                "ERROR_OAUTH",
                "NOT_INSTALLED",
                "invalid_grant",
                "bad_verification_code",
            ),
        ),
        (
            "Correct the client id and secret of the application: they are none of this portal's.",
            ("invalid_client", "wrong_client"),
        ),
        (_PAY, ("PAYMENT_REQUIRED", "ACCESS_DENIED")),
        ("Call the portal by https, and by its own address.", ("INVALID_REQUEST",)),
        (
            (
                "Open the portal's address in a browser: the server answers with a page where REST should"
                " answer; have the address, the REST module or the barring of this machine mended."
            ),
            ("HTTP_403", "HTTP_404"),
        ),
        (
            (
                "The address does not take batches of REST: check that it is a portal's own, and that"
                " its REST module is on."
            ),
            ("ERROR_BATCH_METHOD_NOT_ALLOWED", "ERROR_METHOD_NOT_FOUND", "100"),
        ),
        (
            (
                "The portal redirects: if the address in the reason is its own, `b24sync portal move"
                " CODE --to HOST`, or name it in the setting trusted_hosts."
            ),
            tuple(f"HTTP_{status}" for status in _REDIRECTS),
        ),
    )
    for code in codes
}
"""By the code of what a whole request was refused with, in small letters."""


def _find(code: str, text: str, *places: Where) -> FaultRow | None:
    wanted = code.casefold()
    return next(
        (
            row
            for row in FAULTS
            if row.where in places
            and row.code.casefold() == wanted
            and re.search(row.text, text, re.IGNORECASE)
        ),
        None,
    )


def _command_kind(code: str, text: str) -> FaultKind:
    row = _find(code, text, Where.COMMAND)
    if row is not None:
        return row.kind
    return next(
        (kind for start, kind in _FAMILIES if code.casefold().startswith(start.casefold())),
        FaultKind.UNLISTED,
    )


def _kind_by_status(status: int) -> FaultKind | None:
    match status:
        case 429:
            return FaultKind.RATE
        case 413 | 414:
            return FaultKind.TOO_LARGE
        case 408:
            return FaultKind.SERVER
        case _:
            return FaultKind.SERVER if status in _FAILURES else None


def _fault(
    code: str,
    text: str,
    kind: FaultKind,
    status: int | None,
    portal_state: PortalState | None = None,
) -> Fault:
    return Fault(code=code, text=text, kind=kind, status=status, portal_state=portal_state)
