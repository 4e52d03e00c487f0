"""Field names: UPPER_SNAKE of the classic methods, camelCase of the universal ones.

Leads, deals, contacts, companies, quotes, invoices and smart-process items are stored under their
camelCase names, and their user fields under the original UF_ names, whichever method wrote them.
"""

import re
from functools import lru_cache

MULTI_FIELDS = ("PHONE", "EMAIL", "WEB", "IM", "LINK")
"""Fields of several values each, which the universal methods join in `fm`."""

_CLASSIC_ALIASES = {
    "DATE_CREATE": "createdTime",
    "DATE_MODIFY": "updatedTime",
    "CREATED_BY_ID": "createdBy",
    "MODIFY_BY_ID": "updatedBy",
    "STATUS_ID": "stageId",
}
_UNIVERSAL_ALIASES = {camel: upper for upper, camel in _CLASSIC_ALIASES.items()}
_KINDS_WITH_STATUS = {"lead", "quote"}
_HUMP = re.compile(r"(?<=[a-z0-9_])(?=[A-Z])")
_LETTER_DIGIT = re.compile(r"(?<=[a-z])(?=[0-9])")


@lru_cache(maxsize=8192)
def camel_of(upper: str) -> str:
    """UPPER_SNAKE as camelCase; an underscore before a digit stays, so that it can be undone.

    Raises: nothing.
    """
    if match := re.fullmatch(r"PARENT_ID_(\d+)", upper):
        return f"parentId{match[1]}"
    head, *rest = upper.lower().split("_")
    return head + "".join(p.capitalize() if p[:1].isalpha() else "_" + p for p in rest)


@lru_cache(maxsize=8192)
def upper_of(camel: str) -> str:
    """CamelCase as UPPER_SNAKE. Raises: nothing."""
    if match := re.fullmatch(r"parentId(\d+)", camel):
        return f"PARENT_ID_{match[1]}"
    return _HUMP.sub("_", camel).upper().replace("__", "_")


@lru_cache(maxsize=8192)
def from_classic(name: str, kind: str) -> str:
    """The stored name of a field of a classic CRM method. Raises: nothing."""
    if name.startswith("UF_") or not name.isupper():
        return name
    if name == "STATUS_ID" and kind not in _KINDS_WITH_STATUS:
        return "statusId"
    return _CLASSIC_ALIASES.get(name) or camel_of(name)


@lru_cache(maxsize=8192)
def to_classic(name: str, kind: str) -> str:
    """The name under which a classic CRM method shows a stored field. Raises: nothing."""
    if name.startswith("UF_"):
        return name
    if name == "stageId" and kind not in _KINDS_WITH_STATUS:
        return "STAGE_ID"
    return _UNIVERSAL_ALIASES.get(name) or upper_of(name)


@lru_cache(maxsize=8192)
def from_universal(name: str) -> str:
    """The stored name of a field of crm.item.*: user fields get their original name.

    Raises: nothing.
    Source: manual, "Universal methods for CRM objects", user field names.
    """
    if not name.startswith("ufCrm"):
        return name
    tail = name.removeprefix("ufCrm")
    if tail.startswith("_"):
        return "UF_CRM" + tail.upper()
    return "UF_CRM_" + _LETTER_DIGIT.sub("_", _HUMP.sub("_", tail)).upper()


@lru_cache(maxsize=8192)
def to_universal(name: str) -> str:
    """The camelCase name under which crm.item.* shows a stored field.

    Raises: nothing.
    Source: manual, "Universal methods for CRM objects", user field names.
    """
    if not name.startswith("UF_CRM_"):
        return name
    tail = name.removeprefix("UF_CRM_")
    if match := re.fullmatch(r"(\d+)_(\d+)", tail):
        return f"ufCrm{match[1]}_{match[2]}"
    if match := re.fullmatch(r"(\d+)_([A-Z]+(?:_[A-Z]+)*)", tail):
        return f"ufCrm{match[1]}" + _joined(match[2])
    if re.fullmatch(r"[A-Z]+(?:_[A-Z]+)*", tail):
        return "ufCrm" + _joined(tail)
    return "ufCrm_" + tail


def _joined(upper: str) -> str:
    return "".join(part.capitalize() for part in upper.split("_"))
