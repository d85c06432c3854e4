"""Event streams: tiles that answer a plan at any moment, and the consumers that fill them."""
