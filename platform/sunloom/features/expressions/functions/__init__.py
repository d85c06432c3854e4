"""Scalar functions: types, the form in a frame, and the form of one value."""
