"""Authentication and admission: API keys, scopes, rate limits, and the middleware."""
