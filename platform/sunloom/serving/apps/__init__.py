"""The apps behind the gateway, each a Serve application behind the same middleware."""
