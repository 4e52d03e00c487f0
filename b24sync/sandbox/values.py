"""What the portal stores and answers: JSON values, and how PHP reads them.

Keeps one rule: a value is kept as it came (text from a query string, typed from a JSON body), and
every reading of it (number, flag, text) happens in a function of this module.
"""

from typing import TypeAlias

Value: TypeAlias = str | int | float | bool | list["Value"] | dict[str, "Value"] | None
Record: TypeAlias = dict[str, Value]


class Refusal(Exception):  # noqa: N818 - the portal refuses; nothing here is in error
    """The portal declines one command; the caller gets its code and text.

    Units: status is the HTTP status that a single call (not a batch) gets.
    """

    def __init__(self, code: str | int, text: str, status: int = 400) -> None:
        """Keep the three facts that an answer is built from."""
        super().__init__(code, text)
        self.code = code
        self.text = text
        self.status = status


def number(value: Value) -> int | None:
    """The whole number a value stands for, or None.

    Raises: nothing.
    """
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        stripped = value.strip()
        return int(stripped) if stripped.lstrip("-").isdecimal() and stripped != "-" else None
    return None


def text(value: Value) -> str:
    """A scalar as PHP prints it; empty for null, false and structures.

    Raises: nothing.
    """
    if value is None or value is False or isinstance(value, list | dict):
        return ""
    return "1" if value is True else str(value)


def flag(value: Value) -> bool:
    """Whether a value switches something on.

    Shape: the words "false" and "N" switch off, though PHP itself takes non-empty text for true.
    Raises: nothing.
    """
    if isinstance(value, str):
        return value.strip().lower() not in {"", "0", "false", "n"}
    return bool(value)


def members(value: Value) -> list[Value]:
    """The members of a PHP array, whatever its keys; a scalar is its own only member.

    Raises: nothing.
    """
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        return list(value.values())
    return [value]


def mapping(value: Value) -> Record:
    """A PHP array by its keys, as text.

    Shape: empty for a scalar; a list is keyed "0", "1", ...
    Raises: nothing.
    """
    if isinstance(value, dict):
        return value
    if isinstance(value, list):
        return {str(index): member for index, member in enumerate(value)}
    return {}


def copied(value: Value) -> Value:
    """The same value sharing no list and no mapping with the original.

    Raises: nothing.
    """
    if isinstance(value, dict):
        return {key: copied(member) for key, member in value.items()}
    if isinstance(value, list):
        return [copied(member) for member in value]
    return value


def without(record: Record, *names: str) -> Record:
    """The record less some of its fields. Raises: nothing."""
    return {name: value for name, value in record.items() if name not in names}
