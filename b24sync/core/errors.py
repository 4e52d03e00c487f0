"""The exceptions raised on purpose.

::

    B24SyncError
      SettingsError      configuration makes no sense; raised before any work begins
      ChangeError        a change cannot be written; raised at the call, nothing was inserted
      CaptureError       a mapped class is captured wrongly, or changed where nobody can see it
      BackfillError      a back-fill cannot begin or go on; nothing of its last step was written
      PlanError          a stored row cannot be said to the portal; the row is refused
      DatabaseError      the database cannot be used as it is; nothing was changed
      CredentialError    a portal's credential is missing or cannot be read
        KeyMissing       its key is not at hand in this process; others may have it
      SendError          no reply in hand (never raised itself)
        NeverSent        provably not received by the portal: every command is deferred
        ReplyLost        sent, then silence: every command is unknown

A complaint of the portal is a *fault*, which is data; what became of a command is an *outcome*.
Neither is ever raised. Constructors take facts, and the message, built here, holds no secret.
"""


class B24SyncError(Exception):
    """Everything this package raises on purpose."""

    def __reduce__(self) -> tuple[object, ...]:
        """Travel between processes whole, though the constructors take other facts than a text."""
        return _rebuilt, (type(self), self.args), self.__dict__


def _rebuilt(kind: type[B24SyncError], args: tuple[object, ...]) -> B24SyncError:
    error = kind.__new__(kind)
    error.args = args
    return error


class SettingsError(B24SyncError):
    """A setting is missing or makes no sense; nothing was started."""

    def __init__(self, setting: str, problem: str) -> None:
        """Name the setting and say what to do about it."""
        super().__init__(f"{setting}: {problem}")
        self.setting = setting
        self.problem = problem


class ChangeError(B24SyncError, ValueError):
    """A change is refused at the call that wrote it; nothing was inserted."""

    def __init__(
        self, field: str, problem: str, *, entity: str = "", position: int | None = None
    ) -> None:
        """Name the field, the problem, the entity and, in bulk, the change's position."""
        where = f" (change {position})" if position is not None else ""
        about = f"{entity}: " if entity else ""
        super().__init__(f"{about}{field}: {problem}{where}")
        self.field = field
        self.problem = problem
        self.entity = entity
        self.position = position


class CaptureError(B24SyncError):
    """A class cannot be captured so, or a session does what would never become a change.

    Raised by a declaration, nothing was installed; by a flush, its transaction is rolled back; by
    a statement, it was not executed.
    """

    def __init__(self, subject: str, problem: str) -> None:
        """Name the class, object or attribute, and say what to do about it."""
        super().__init__(f"{subject}: {problem}")
        self.subject = subject
        self.problem = problem


class BackfillError(B24SyncError):
    """A back-fill cannot begin or go on; nothing of its last step was written."""


class PlanError(B24SyncError):
    """A stored row cannot be turned into a command; it ends as a dead letter with this reason."""

    def __init__(self, code: str, field: str, reason: str) -> None:
        """Give the refusal a code for filters, the field at fault, and a reason for people."""
        super().__init__(f"{field}: {reason}")
        self.code = code
        self.field = field
        self.reason = reason


class DatabaseError(B24SyncError):
    """The database is unreachable, or its tables are missing or of another version."""


class CredentialError(B24SyncError):
    """A portal's credential is missing or cannot be decrypted with the keys at hand."""


class KeyMissing(CredentialError):  # noqa: N818 - says what happened, as NeverSent does
    """The key of a stored credential is not at hand in this process; others may have it."""


class SendError(B24SyncError):
    """There is no reply in hand; raised only as one of its two kinds."""

    def __init__(self, cause: str, took_s: float) -> None:
        """Keep the kind of the cause (a class name, never a message that may hold a URL)."""
        super().__init__(cause)
        self.cause = cause
        self.took_s = took_s


class NeverSent(SendError):  # noqa: N818 - says what is certain, not that something is an error
    """Provably not received: refused connection, failed look-up, failed TLS, connect timeout."""


class ReplyLost(SendError):  # noqa: N818 - says what is certain, not that something is an error
    """Part of the request may have arrived, and no answer did."""
