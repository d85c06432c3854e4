"""Tables from files, with errors that say what was found instead; ``fetching`` asks databases."""
