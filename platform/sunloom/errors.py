"""Tree of the errors that Sunloom raises on purpose.

::

    SunloomError
    ├── UsageError                wrong arguments or a file that is not there         exit 2
    │   └── ConfigError           a configuration value, with file and key            exit 2
    ├── DependencyError           a package or program is missing                     exit 2
    ├── NotFoundError             a name that does not exist; lists the known ones    exit 2
    ├── ConflictError             a resource is in another state than required
    ├── PluginError               an entry point that cannot be used
    ├── ClusterError              Ray cannot be reached or refuses
    │   └── JobError              a submitted job failed
    ├── ArtifactError             an artifact is damaged or cannot be written
    ├── DataError                 a source or table is not what was declared
    │   ├── MissingColumnError    a file or table has no column of that name          exit 2
    │   └── DataQualityError      too many rows failed a check
    ├── FeatureError
    │   ├── DefinitionError       a Chalk construct that cannot be bound              exit 2
    │   ├── StoreError            the online or offline store refuses
    │   └── StreamError           a stream of events cannot go on
    ├── TrainingError
    │   ├── DivergedError         the loss is NaN or infinite
    │   └── CheckpointError       a checkpoint is truncated or does not fit
    ├── AgentError
    │   ├── ToolError             a tool refused or failed
    │   └── GuardrailError        a guardrail stopped the task
    └── ServingError              a request that cannot be answered
        ├── AuthenticationError                                                       exit 2
        ├── PermissionDeniedError                                                     exit 2
        ├── RateLimitError        a limit that passes with time
        │   └── QuotaError        one that does not
        └── RequestError          the request itself is wrong                         exit 2

A command exits with 2 where the user got a name, a key or a file wrong, else with 1: work failed.
HTTP codes are mapped in ``sunloom.serving`` and nowhere else.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar


class SunloomWarning(UserWarning):
    """A condition that a user should know of and that stops nothing."""


class SunloomError(Exception):
    """Base of all errors raised on purpose; says what happened and what to do.

    Args:
        message: What happened, with the names and values involved.
        hint: What to do about it; empty where the message already says it.
        param: The argument, key or field that is at fault, if one is.
    """

    # Part of HTTP responses: clients match on it, whatever the class is called.
    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "", param: str | None = None) -> None:
        super().__init__(message, hint, param)
        self.message = message
        self.hint = hint
        self.param = param

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    # Ray and multiprocessing rebuild an exception from its class and positional arguments.
    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses may have arguments of their own; their attributes travel beside the three.
        own = {k: v for k, v in self.__dict__.items() if k not in ("message", "hint", "param")}
        return (_rebuild, (type(self), self.message, self.hint, self.param, own))


def _rebuild(
    kind: type[SunloomError], message: str, hint: str, param: str | None, extra: dict[str, Any]
) -> SunloomError:
    # Not through the subclass's constructor: it may require arguments that are not among these.
    error = kind.__new__(kind)
    SunloomError.__init__(error, message, hint, param)
    error.__dict__.update(extra)
    return error


class UsageError(SunloomError):
    """Wrong arguments, or a file that is not there."""

    code = "usage"
    # As shells and Typer itself end on wrong usage: scripts tell it from work that failed.
    exit_code = 2


class ConfigError(UsageError):
    """A configuration value that cannot be used; the message names file and key."""

    code = "config"


class DependencyError(SunloomError):
    """A package or program is missing; the hint is the install line."""

    code = "dependency"
    # Another attempt fails alike until the package is installed.
    exit_code = 2


class NotFoundError(SunloomError):
    """A name that does not exist.

    Args:
        message: What was looked for and where.
        hint: Overrides the list of known names.
        param: The field that held the name.
        known: Existing names, of which the nearest is suggested; None where they are not listed.
        name: The name that was looked up.
    """

    code = "not_found"
    exit_code = 2

    def __init__(
        self,
        message: str,
        hint: str = "",
        param: str | None = None,
        *,
        known: Iterable[str] | None = None,
        name: str = "",
    ) -> None:
        # A list: the view of a mapping that callers pass cannot be pickled.
        self.known = sorted(known or ())
        if not hint and known is not None:
            hint = known_names_hint(name, self.known)
        super().__init__(message, hint, param)


class ConflictError(SunloomError):
    """The resource is in another state than the operation requires."""

    code = "conflict"


class PluginError(SunloomError):
    """An entry point that cannot be loaded or has the wrong type."""

    code = "plugin"


class ClusterError(SunloomError):
    """Ray cannot be reached, or refuses."""

    code = "cluster"


class JobError(ClusterError):
    """A submitted job failed."""

    code = "job"


class ArtifactError(SunloomError):
    """An artifact is damaged, or cannot be read or written."""

    code = "artifact"


class DataError(SunloomError):
    """A source or a table is not what was declared."""

    code = "data"


class MissingColumnError(DataError):
    """A file or table has no column of the name that was given."""

    code = "missing_column"
    exit_code = 2


class DataQualityError(DataError):
    """More rows failed a check than the threshold allows."""

    code = "data_quality"


class FeatureError(SunloomError):
    """A feature cannot be defined, computed or stored."""

    code = "feature"


class DefinitionError(FeatureError):
    """A Chalk construct that cannot be bound.

    Args:
        message: Place, feature and reason in one sentence.
        hint: What to write instead.
        param: Full name of the feature.
        file: The definitions file.
        line: The line in it, if it is known.
        reason: Why, without place and feature.
    """

    code = "definition"
    # Definitions are the user's input, as a recipe is.
    exit_code = 2

    def __init__(
        self,
        message: str,
        hint: str = "",
        param: str | None = None,
        *,
        file: str = "",
        line: int | None = None,
        reason: str = "",
    ) -> None:
        super().__init__(message, hint, param)
        self.file = file
        self.line = line
        self.reason = (reason or message).rstrip(".")

    @classmethod
    def of_construct(
        cls,
        file: str,
        line: int | None,
        reason: str,
        *,
        name: str,
        subject: str = "",
        hint: str = "",
    ) -> DefinitionError:
        """The error of a construct at a place.

        Args:
            file: The definitions file.
            line: The line in it, if it is known.
            reason: Why it cannot be bound.
            name: Full name of the feature, or of what else it defines.
            subject: What it is to the user; the name by default.
            hint: What to write instead.
        """
        reason = reason.rstrip(".")
        message = f"{place_of(file, line)}: {subject or name}: {reason}."
        return cls(message, hint, name, file=file, line=line, reason=reason)

    @property
    def why(self) -> str:
        """Place and reason."""
        return f"{place_of(self.file, self.line)}: {self.reason}"


def place_of(file: str, line: int | None) -> str:
    """``file:line``, or the file alone."""
    return file if line is None else f"{file}:{line}"


class StoreError(FeatureError):
    """The online or offline store refuses."""

    code = "store"


class StreamError(FeatureError):
    """A stream of events cannot go on; what was stored is whole."""

    code = "stream"


class TrainingError(SunloomError):
    """A training run cannot go on."""

    code = "training"


class DivergedError(TrainingError):
    """The loss or its gradient became NaN or infinite; the last good checkpoint is kept."""

    code = "diverged"


class CheckpointError(TrainingError):
    """A checkpoint is truncated or does not fit the run."""

    code = "checkpoint"


class AgentError(SunloomError):
    """An agent's task cannot go on."""

    code = "agent"


class ToolError(AgentError):
    """A tool refused or failed."""

    code = "tool"


class GuardrailError(AgentError):
    """A guardrail stopped the task."""

    code = "guardrail"


class ServingError(SunloomError):
    """A request that cannot be answered."""

    code = "serving"


class AuthenticationError(ServingError):
    """No key, or one that is unknown, expired or revoked."""

    code = "unauthenticated"
    exit_code = 2


class PermissionDeniedError(ServingError):
    """The key lacks the scope that the route needs."""

    code = "permission_denied"
    exit_code = 2


class RateLimitError(ServingError):
    """A limit of the key is used up for now.

    Args:
        message: Which limit.
        hint: What to do about it.
        param: The field that is at fault, if one is.
        retry_after_s: Seconds until the limit admits requests again; None where nobody knows.
    """

    code = "rate_limited"

    def __init__(
        self,
        message: str,
        hint: str = "",
        param: str | None = None,
        *,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message, hint, param)
        self.retry_after_s = retry_after_s


class QuotaError(RateLimitError):
    """The key's quota is used up: no waiting helps."""

    # OpenAI's code, by which clients tell it from a limit a minute.
    code = "insufficient_quota"


class RequestError(ServingError):
    """The request itself is wrong."""

    code = "invalid_request"
    exit_code = 2


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to ``name``, or None when nothing is close."""
    # difflib's own cutoff: a few wrong letters, not another word.
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def known_names_hint(name: str, known: Iterable[str]) -> str:
    """A hint that suggests the nearest known name and lists the others."""
    names = sorted(known)
    if not names:
        return "There are none yet."
    close = nearest(name, names)
    # A registry may hold thousands; the hint is one line of a terminal or of an HTTP body.
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"Did you mean {close!r}? Known: {listed}" if close else f"Known: {listed}"
