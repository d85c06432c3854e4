"""Python resolvers: called for many rows at once, failures counted, results in declared types.

A call that raises, times out, or gives what its feature cannot hold is a failure: the value is
null where the feature is nullable or has a default, else the whole computation is an error.
"""
