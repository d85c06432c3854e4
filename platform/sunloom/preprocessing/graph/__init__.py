"""Features of the nodes of a graph, from a table of its edges."""
