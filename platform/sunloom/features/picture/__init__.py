"""A plan as a picture: sources, joins, and features in the order in which they are computed."""

from sunloom.features.picture.drawing import draw_plan

__all__ = ["draw_plan"]
