"""A plan as a picture: sources, joins, and features in the order in which they are computed."""
