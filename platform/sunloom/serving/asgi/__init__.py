"""ASGI without a framework: types, bodies and the common error body."""
