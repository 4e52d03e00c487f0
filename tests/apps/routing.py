"""A host's routes as a function."""


def route(name: str, *_rest: object, **_options: object) -> dict[str, str] | None:
    """Send the host's own tasks to a queue of their own."""
    return {"queue": "s"} if name.startswith("shop.") else None
