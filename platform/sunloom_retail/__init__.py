"""The worked example: a retailer's purchases, from raw log to an agent that answers."""
