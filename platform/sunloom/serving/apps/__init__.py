"""The apps behind the gateway, each a Serve application with the guard in front."""
