"""Tenants: whose a thing is that a request makes, and what its caller may read and change.

What the operator makes from the command line belongs to no tenant. Keys of the tenant ``default``,
which a key has that names none, are the operator's own; the scope ``admin`` reaches every tenant's.
"""

from __future__ import annotations

from sunloom.serving.asgi import Scope
from sunloom.serving.auth.middleware import caller, tenant_of

OPERATOR = "default"
"""Tenant whose things are the operator's."""


def is_admin(scope: Scope) -> bool:
    """Whether the caller reaches what belongs to other tenants."""
    key = caller(scope).key
    return key is not None and key.may("admin")


def owner_for(scope: Scope) -> str | None:
    """The tenant that owns what this request makes; None is the operator."""
    tenant = tenant_of(scope)
    return None if tenant == OPERATOR else tenant


def reader_for(scope: Scope) -> str | None:
    """The tenant on whose behalf this request reads; None reads every tenant's."""
    return None if is_admin(scope) else tenant_of(scope)


def may_change(scope: Scope, owner: str | None) -> bool:
    """Whether the caller may change what belongs to a tenant, or to the operator (None)."""
    return is_admin(scope) or owner_for(scope) == owner
