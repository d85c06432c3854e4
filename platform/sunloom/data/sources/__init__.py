"""Tables from files and databases, with errors that say what was found instead."""
