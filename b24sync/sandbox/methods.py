"""The table of all methods that the sandbox knows, by lower-case name."""

from b24sync.sandbox import crm_attached, crm_classic, crm_item, family_actions, other_modules
from b24sync.sandbox.store import Call, Done, Method, Store
from b24sync.sandbox.values import Value


def list_methods(_store: Store, _call: Call) -> Done:
    """The names of all methods."""
    return Done(result=list[Value](sorted(METHODS)))


METHODS: dict[str, Method] = {
    **family_actions.METHODS,
    **crm_item.METHODS,
    **crm_classic.METHODS,
    **crm_attached.METHODS,
    **other_modules.METHODS,
    "methods": list_methods,
}
