"""Reading a command's parameters: present or refused, exact or in any letter case.

Source: manual pages of the methods; error 100 is what controller methods say of a missing one.
"""

from b24sync.sandbox.store import Call
from b24sync.sandbox.values import Record, Refusal, Value, number


def loose(call: Call, name: str) -> Value:
    """A parameter by its name in any letter case; None if absent. Raises: nothing."""
    params = call.params
    if name in params:
        return params[name]
    wanted = name.lower()
    return next((value for key, value in params.items() if key.lower() == wanted), None)


def exact(call: Call, name: str) -> Value:
    """A parameter by exactly its name.

    Raises: Refusal 100 if absent.
    """
    if name not in call.params:
        raise Refusal("100", f"Could not find value for parameter {{{name}}}")
    return call.params[name]


def exact_number(call: Call, name: str) -> int:
    """A whole number by exactly its name.

    Raises: Refusal 100 if absent or no number.
    """
    found = number(exact(call, name))
    if found is None:
        raise Refusal("100", f"Invalid value {{}} to match with parameter {{{name}}}.")
    return found


def exact_fields(call: Call, name: str = "fields") -> Record:
    """An array by exactly its name, as a mapping.

    Raises: Refusal 100 if absent or no array.
    """
    found = exact(call, name)
    if isinstance(found, dict):
        return found
    if found in ([], ""):
        return {}
    raise Refusal("100", f"Invalid value {{}} to match with parameter {{{name}}}.")


def loose_fields(call: Call) -> Record:
    """The `fields` of a classic method.

    Raises: Refusal if absent or no array.
    """
    found = loose(call, "fields")
    if isinstance(found, dict):
        return found
    if found == []:
        return {}
    raise Refusal("", "Parameter 'fields' must be array.")


def loose_id(call: Call) -> int:
    """The `id` of a classic method.

    Raises: Refusal if absent or no positive number.
    """
    found = number(loose(call, "id"))
    if found is None or found <= 0:
        raise Refusal("", "ID is not defined or invalid.")
    return found
