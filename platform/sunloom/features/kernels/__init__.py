"""Point-in-time kernels on NumPy arrays.

Rows are sorted once by (key, time). The rows of a key that lie in a window are then one range
``[start, stop)`` found by binary search, and every aggregation is a function of such ranges:
O(n log n + q log n), however many rows a key has.
"""
