"""The table of faults, read from the portal's manual by hand."""

import re

import pytest

from b24sync.core.faults import (
    FAULTS,
    FaultRow,
    Where,
    advice,
    classify_bodyless,
    classify_command,
    classify_envelope,
    classify_single,
    is_gone,
    may_pass,
    remedy,
)
from b24sync.core.model import Fault, FaultKind, PortalState

AUTH_LOST = PortalState.AUTH_LOST
PLAN_LOST = PortalState.PLAN_LOST
MISCONFIGURED = PortalState.MISCONFIGURED


@pytest.mark.parametrize(
    ("code", "status", "kind", "portal_state"),
    [
        ("QUERY_LIMIT_EXCEEDED", 503, FaultKind.RATE, None),
        ("query_limit_exceeded", 200, FaultKind.RATE, None),
        ("OPERATION_TIME_LIMIT", 429, FaultKind.METHOD_TIME, None),
        ("expired_token", 401, FaultKind.TOKEN, None),
        ("INTERNAL_SERVER_ERROR", 500, FaultKind.SERVER, None),
        ("ERROR_UNEXPECTED_ANSWER", 500, FaultKind.SERVER, None),
        ("OVERLOAD_LIMIT", 503, FaultKind.PORTAL, PortalState.OVERLOADED),
        ("invalid_token", 401, FaultKind.PORTAL, AUTH_LOST),
        ("NO_AUTH_FOUND", 401, FaultKind.PORTAL, AUTH_LOST),
        ("INVALID_CREDENTIALS", 403, FaultKind.PORTAL, AUTH_LOST),
        ("user_access_error", 403, FaultKind.PORTAL, AUTH_LOST),
        ("authorization_error", 401, FaultKind.PORTAL, AUTH_LOST),
        ("AUTHORIZE_ERROR", 403, FaultKind.PORTAL, AUTH_LOST),
        ("APPLICATION_NOT_FOUND", 401, FaultKind.PORTAL, AUTH_LOST),
        ("ERROR_OAUTH", 401, FaultKind.PORTAL, AUTH_LOST),
        ("NOT_INSTALLED", 401, FaultKind.PORTAL, AUTH_LOST),
        ("invalid_grant", 400, FaultKind.PORTAL, AUTH_LOST),
        ("bad_verification_code", 400, FaultKind.PORTAL, AUTH_LOST),
        ("invalid_client", 400, FaultKind.PORTAL, AUTH_LOST),
        ("wrong_client", 200, FaultKind.PORTAL, AUTH_LOST),
        ("invalid_scope", 403, FaultKind.PORTAL, AUTH_LOST),
        ("insufficient_scope", 403, FaultKind.PORTAL, AUTH_LOST),
        ("allowed_only_intranet_user", 403, FaultKind.PORTAL, AUTH_LOST),
        ("ACCESS_DENIED", 403, FaultKind.PORTAL, PLAN_LOST),
        ("PAYMENT_REQUIRED", 401, FaultKind.PORTAL, PLAN_LOST),
        ("PORTAL_DELETED", 500, FaultKind.PORTAL, PortalState.GONE),
        ("INVALID_REQUEST", 400, FaultKind.PORTAL, MISCONFIGURED),
        ("ERROR_BATCH_METHOD_NOT_ALLOWED", 405, FaultKind.PORTAL, MISCONFIGURED),
        ("ERROR_METHOD_NOT_FOUND", 404, FaultKind.PORTAL, MISCONFIGURED),
        ("100", 400, FaultKind.PORTAL, MISCONFIGURED),
        ("ERROR_BATCH_LENGTH_EXCEEDED", 400, FaultKind.TOO_LARGE, None),
    ],
)
def test_a_listed_code_says_what_the_refusal_of_a_request_means(
    code: str, status: int, kind: FaultKind, portal_state: PortalState | None
) -> None:
    """The code decides, in any case and whatever the status."""
    expected = Fault(
        code=code, text="some text", kind=kind, status=status, portal_state=portal_state
    )

    fault = classify_envelope(code, "some text", status)

    assert fault == expected


@pytest.mark.parametrize(
    ("code", "status", "kind", "portal_state"),
    [
        pytest.param("NEW", 400, FaultKind.UNLISTED, MISCONFIGURED, id="refused"),
        pytest.param("", 403, FaultKind.UNLISTED, MISCONFIGURED, id="refused without a code"),
        pytest.param("NEW", 429, FaultKind.RATE, None, id="too many requests"),
        pytest.param("NEW", 413, FaultKind.TOO_LARGE, None, id="body too large"),
        pytest.param("NEW", 414, FaultKind.TOO_LARGE, None, id="address too long"),
        pytest.param("NEW", 408, FaultKind.SERVER, None, id="timed out, may have run"),
        pytest.param("NEW", 502, FaultKind.SERVER, None, id="failed, may have run"),
        pytest.param("NEW", 200, FaultKind.SERVER, None, id="no refusal by status, may have run"),
        pytest.param("NOT_FOUND", 500, FaultKind.SERVER, None, id="a code of commands only"),
    ],
)
def test_an_unlisted_refusal_of_a_request_is_loud_only_where_nothing_ran(
    code: str, status: int, kind: FaultKind, portal_state: PortalState | None
) -> None:
    """A 4xx stops the portal for a person to look; any other status leaves the truth open."""
    text = "never seen before"

    fault = classify_envelope(code, text, status)

    assert (fault.kind, fault.portal_state) == (kind, portal_state)


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        ("QUERY_LIMIT_EXCEEDED", "", FaultKind.RATE),
        ("OPERATION_TIME_LIMIT", "", FaultKind.METHOD_TIME),
        ("expired_token", "", FaultKind.TOKEN),
        ("INTERNAL_SERVER_ERROR", "", FaultKind.SERVER),
        ("error_unexpected_answer", "", FaultKind.SERVER),
        ("ERROR_BATCH_LENGTH_EXCEEDED", "Max batch length exceeded", FaultKind.TOO_LARGE),
        ("ERROR_BATCH_METHOD_NOT_ALLOWED", "", FaultKind.INVALID),
        ("ACCESS_DENIED", "", FaultKind.FORBIDDEN),
        ("access_denied", "Доступ запрещен", FaultKind.FORBIDDEN),
        ("insufficient_scope", "", FaultKind.FORBIDDEN),
        ("user_access_error", "", FaultKind.FORBIDDEN),
        ("INVALID_CREDENTIALS", "", FaultKind.FORBIDDEN),
        ("invalid_token", "", FaultKind.FORBIDDEN),
        ("WRONG_AUTH_TYPE", "", FaultKind.FORBIDDEN),
        ("METHOD_CONFIRM_WAITING", "", FaultKind.FORBIDDEN),
        ("METHOD_CONFIRM_DENIED", "", FaultKind.FORBIDDEN),
        ("allowed_only_intranet_user", "", FaultKind.FORBIDDEN),
        ("CREATE_DYNAMIC_ITEM_RESTRICTED", "", FaultKind.FORBIDDEN),
        ("UPDATE_DYNAMIC_ITEM_RESTRICTED", "", FaultKind.FORBIDDEN),
        ("", "Access denied.", FaultKind.FORBIDDEN),
        ("", "Application context required", FaultKind.FORBIDDEN),
        ("ERROR_CORE", "access_denied", FaultKind.FORBIDDEN),
        ("ERROR_CORE", "Access denied", FaultKind.FORBIDDEN),
        ("1048582", "No access to the task", FaultKind.FORBIDDEN),
        ("200040300010", "Access Denied", FaultKind.FORBIDDEN),
        ("200040300020", "Access Denied", FaultKind.FORBIDDEN),
        ("200040300030", "", FaultKind.FORBIDDEN),
        ("200040300040", "", FaultKind.FORBIDDEN),
        ("200040300043", "", FaultKind.FORBIDDEN),
        ("200040300050", "", FaultKind.FORBIDDEN),
        ("NOT_FOUND", "Item not found", FaultKind.GONE),
        ("OWNER_NOT_FOUND", "", FaultKind.GONE),
        ("ERROR_NOT_FOUND", "The entity with ID '5' is not found", FaultKind.GONE),
        ("ERROR_ELEMENT_NOT_FOUND", "", FaultKind.GONE),
        ("200700300030", "", FaultKind.GONE),
        ("", "Not found", FaultKind.GONE),
        ("", "Contact is not found", FaultKind.GONE),
        ("", "Company is not found", FaultKind.GONE),
        ("", "Activity is not found", FaultKind.GONE),
        ("", "Status is not found.", FaultKind.GONE),
        ("", "The Requisite with ID '7' is not found", FaultKind.GONE),
        ("", "TypeAddress not found", FaultKind.GONE),
        ("ERROR_CORE", "Element not found<br>", FaultKind.GONE),
        ("ERROR_CORE", "Department not found", FaultKind.GONE),
        ("0", "Product does not exist", FaultKind.GONE),
        ("0", "Smart process not found", FaultKind.GONE),
        ("", "ID is not defined or invalid.", FaultKind.INVALID),
        ("", "Parameter 'fields' must be array.", FaultKind.INVALID),
        ("", "Entity not found.", FaultKind.INVALID),
        ("", "", FaultKind.INVALID),
        ("-", "", FaultKind.INVALID),
        ("0", "wrong task id", FaultKind.INVALID),
        ("100", "Expected iterable value", FaultKind.INVALID),
        ("ERROR_CORE", "The e-mail is invalid<br>", FaultKind.INVALID),
        ("ERROR_ARGUMENT", "wrong_email", FaultKind.INVALID),
        ("CRM_FIELD_ERROR_VALUE_NOT_VALID", "", FaultKind.INVALID),
        ("CRM_FIELD_ERROR_REQUIRED", "", FaultKind.INVALID),
        ("crm_field_error_of_tomorrow", "", FaultKind.INVALID),
        ("ENTITY_TYPE_NOT_SUPPORTED", "", FaultKind.INVALID),
        ("INVALID_ARG_VALUE", "", FaultKind.INVALID),
        ("MAX_IMPORT_BATCH_SIZE_EXCEEDED", "", FaultKind.INVALID),
        ("MULTIPLE_BINDINGS", "", FaultKind.INVALID),
        ("ERROR_METHOD_NOT_FOUND", "Method not found!", FaultKind.INVALID),
        ("ERROR_MANIFEST_IS_NOT_AVAILABLE", "", FaultKind.INVALID),
        ("200040300000", "", FaultKind.INVALID),
        ("ERROR_ELEMENT_ALREADY_EXISTS", "", FaultKind.INVALID),
        ("ERROR_IBLOCK_NOT_FOUND", "", FaultKind.INVALID),
        ("ERROR_REQUIRED_PARAMETERS_MISSING", "", FaultKind.INVALID),
        ("ERROR_ELEMENT_FIELD_VALUE", "", FaultKind.INVALID),
        ("ERROR_ADD_ELEMENT", "", FaultKind.INVALID),
        ("ERROR_UPDATE_ELEMENT", "", FaultKind.INVALID),
        ("ERROR_DELETE_ELEMENT", "", FaultKind.INVALID),
        ("NEVER_SEEN", "not found", FaultKind.UNLISTED),
        ("NO_AUTH_FOUND", "", FaultKind.UNLISTED),
        ("Communication type is not defined", "", FaultKind.UNLISTED),
    ],
)
def test_a_code_says_what_the_refusal_of_a_command_means(
    code: str, text: str, kind: FaultKind
) -> None:
    """The code decides; the text helps only the codes that say nothing by themselves."""
    expected = Fault(code=code, text=text, kind=kind)

    fault = classify_command(code, text)

    assert fault == expected


@pytest.mark.parametrize(
    ("code", "text", "status", "kind", "portal_state"),
    [
        pytest.param(
            "NO_AUTH_FOUND", "", 401, FaultKind.PORTAL, AUTH_LOST, id="the portal's refusal"
        ),
        pytest.param(
            "INVALID_CREDENTIALS", "", 401, FaultKind.PORTAL, AUTH_LOST, id="wrong webhook"
        ),
        pytest.param(
            "ACCESS_DENIED",
            "REST API is available only on commercial plans",
            403,
            FaultKind.PORTAL,
            PLAN_LOST,
            id="the plan has no REST",
        ),
        pytest.param("ACCESS_DENIED", "", 403, FaultKind.FORBIDDEN, None, id="no right to it"),
        pytest.param("insufficient_scope", "", 403, FaultKind.FORBIDDEN, None, id="no scope"),
        pytest.param("QUERY_LIMIT_EXCEEDED", "", 503, FaultKind.RATE, None, id="rate"),
        pytest.param("OPERATION_TIME_LIMIT", "", 429, FaultKind.METHOD_TIME, None, id="time"),
        pytest.param("expired_token", "", 401, FaultKind.TOKEN, None, id="token"),
        pytest.param("ERROR_METHOD_NOT_FOUND", "", 404, FaultKind.INVALID, None, id="no method"),
        pytest.param("100", "", 400, FaultKind.INVALID, None, id="missing parameter"),
        pytest.param("NOT_FOUND", "", 400, FaultKind.GONE, None, id="gone"),
        pytest.param("NOT_FOUND", "", 500, FaultKind.GONE, None, id="code outweighs status"),
        pytest.param("", "Access denied.", 400, FaultKind.FORBIDDEN, None, id="text of no code"),
        pytest.param("", "oops", 400, FaultKind.INVALID, None, id="vague with 4xx"),
        pytest.param("0", "fatal", 500, FaultKind.SERVER, None, id="vague with 5xx"),
        pytest.param("Error_Core", "", 502, FaultKind.SERVER, None, id="vague in any case"),
        pytest.param("NEW", "", 400, FaultKind.UNLISTED, None, id="unlisted 4xx"),
        pytest.param("NEW", "", 200, FaultKind.UNLISTED, None, id="unlisted 200"),
        pytest.param("NEW", "", 500, FaultKind.SERVER, None, id="unlisted 5xx"),
        pytest.param("NEW", "", 408, FaultKind.SERVER, None, id="unlisted 408"),
        pytest.param("NEW", "", 429, FaultKind.RATE, None, id="unlisted 429"),
    ],
)
def test_a_single_call_is_refused_by_the_portal_or_for_itself(
    code: str, text: str, status: int, kind: FaultKind, portal_state: PortalState | None
) -> None:
    """Portal-wide codes concern the portal, the rest only the command that was called."""
    expected = Fault(code=code, text=text, kind=kind, status=status, portal_state=portal_state)

    fault = classify_single(code, text, status)

    assert fault == expected


@pytest.mark.parametrize(
    ("status", "kind", "portal_state"),
    [
        (301, FaultKind.MOVED, None),
        (302, FaultKind.MOVED, None),
        (308, FaultKind.MOVED, None),
        (403, FaultKind.PORTAL, MISCONFIGURED),
        (404, FaultKind.PORTAL, MISCONFIGURED),
        (413, FaultKind.TOO_LARGE, None),
        (414, FaultKind.TOO_LARGE, None),
        (429, FaultKind.RATE, None),
    ],
)
def test_some_statuses_say_without_a_body_that_nothing_ran(
    status: int, kind: FaultKind, portal_state: PortalState | None
) -> None:
    """These statuses are given before anything is executed."""
    expected = Fault(
        code=f"HTTP_{status}",
        text=f"HTTP {status} without a readable answer",
        kind=kind,
        status=status,
        portal_state=portal_state,
    )

    fault = classify_bodyless(status)

    assert fault == expected


@pytest.mark.parametrize("status", [200, 204, 400, 408, 500, 502, 503, 504, 520])
def test_other_statuses_without_a_body_say_nothing(status: int) -> None:
    """Where nobody can say whether the request ran, there is no fault to name."""
    fault = classify_bodyless(status)

    assert fault is None


@pytest.mark.parametrize(
    ("patterns", "code", "text", "expected"),
    [
        pytest.param((("NOT_FOUND", ""),), "not_found", "Nicht gefunden", True, id="code alone"),
        pytest.param((("", "not found"),), "", "<b>Not Found</b>", True, id="text alone"),
        pytest.param((("0", "exist"),), "0", "does not EXIST", True, id="code and text"),
        pytest.param((("X", ""), ("0", "")), "0", "", True, id="second pair"),
        pytest.param((("0", "exist"),), "1", "does not exist", False, id="other code"),
        pytest.param((("0", "exist"),), "0", "wrong id", False, id="other text"),
        pytest.param((("", "not found"),), "0", "not found", False, id="a code where none"),
        pytest.param((("NOT_FOUND", ""),), "OWNER_NOT_FOUND", "", False, id="part of a code"),
        pytest.param((("", ""),), "", "anything", False, id="empty pair"),
        pytest.param((), "NOT_FOUND", "Item not found", False, id="no pairs"),
    ],
)
def test_a_record_is_gone_if_code_and_text_both_say_so(
    patterns: tuple[tuple[str, str], ...], code: str, text: str, *, expected: bool
) -> None:
    """The code must be equal and the text found, and an empty pair fits nothing."""
    gone = is_gone(patterns, code, text)

    assert gone is expected


@pytest.mark.parametrize("subject", [*FaultKind, *PortalState], ids=repr)
def test_every_kind_of_fault_and_every_state_has_its_advice(
    subject: FaultKind | PortalState,
) -> None:
    """An operator finds one sentence for whatever is shown."""
    sentence = advice(subject)

    assert re.fullmatch(r"[A-Z].{20,}\.", sentence)


def test_a_portal_that_is_gone_is_not_advised_like_a_record_that_is_gone() -> None:
    """The two share a word and need different deeds."""
    of_record = advice(FaultKind.GONE)

    of_portal = advice(PortalState.GONE)

    assert "replay" not in of_portal
    assert of_record != of_portal


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        (PortalState.AUTH_LOST, "NO_AUTH_FOUND", ["Inbound webhook", "portal add acme --replace"]),
        (PortalState.AUTH_LOST, "insufficient_scope", ["scopes", "Inbound webhook"]),
        (PortalState.AUTH_LOST, "authorization_error", ["Company > Employees"]),
        (PortalState.AUTH_LOST, "invalid_grant", ["Install the application anew"]),
        (PortalState.PLAN_LOST, "access_denied", ["Subscription > My plan", "paid for"]),
        (PortalState.PLAN_LOST, "", ["Subscription > My plan"]),
        (PortalState.OVERLOADED, "OVERLOAD_LIMIT", ["support", "Helpdesk"]),
        (PortalState.GONE, "PORTAL_DELETED", ["browser"]),
        (PortalState.MISCONFIGURED, "HTTP_302", ["portal move acme --to HOST", "trusted_hosts"]),
        (PortalState.MISCONFIGURED, "HTTP_404", ["browser"]),
        (PortalState.MISCONFIGURED, "unheard of", ["address and credential"]),
        (PortalState.PAUSED, "HTTP_302", ["operator"]),
    ],
)
def test_advice_names_the_place_and_the_command(
    state: PortalState, code: str, words: list[str]
) -> None:
    """What to mend by the code, in Bitrix24 or here, and then how the portal is called again."""
    sentences = advice(state, code, portal="acme")

    for word in words:
        assert word in sentences
    assert sentences.endswith("Then `b24sync portal resume acme`.")
    assert "CODE" not in sentences
    assert sentences.startswith(remedy(state, code, portal="acme"))


def test_advice_without_a_portal_leaves_its_place() -> None:
    """A fault that is told of without its portal says where the code goes."""
    assert "`b24sync portal move CODE --to HOST`" in advice(FaultKind.MOVED)
    assert "`b24sync portal move acme --to HOST`" in advice(FaultKind.MOVED, portal="acme")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("user_access_error", True),
        ("AUTHORIZATION_ERROR", True),
        ("insufficient_scope", True),
        ("HTTP_403", True),
        ("http_307", True),
        ("NO_AUTH_FOUND", False),
        ("invalid_client", False),
        ("100", False),
        ("HTTP_500", False),
        ("never heard", False),
        ("", False),
    ],
)
def test_only_what_the_table_names_may_pass_by_itself(code: str, *, expected: bool) -> None:
    """A credential that is lost stays lost, and what nobody knows is not tried."""
    assert may_pass(code) is expected


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: f"{row.where}:{row.code}:{row.text}")
def test_every_line_of_the_table_is_whole(row: FaultRow) -> None:
    """A line has a source; it names a state exactly when it concerns the portal."""
    concerns_portal = row.kind is FaultKind.PORTAL

    re.compile(row.text)

    assert row.source
    assert (row.portal_state is not None) == concerns_portal
    assert not (concerns_portal and row.where is Where.COMMAND)


def test_no_line_of_the_table_is_said_twice_or_hidden_behind_another() -> None:
    """Of the rows of one code and place, those with a text stand first, and each is different."""
    places = {(row.where, row.code.casefold()) for row in FAULTS}

    texts = {
        place: [row.text for row in FAULTS if (row.where, row.code.casefold()) == place]
        for place in places
    }

    for listed in texts.values():
        assert len(set(listed)) == len(listed)
        assert "" not in listed[:-1]
