"""Sunloom: features, fine-tuning, agents and serving on Ray, behind one gateway."""

__version__ = "0.1.0"

import gc as _gc

# Libraries of thousands of classes are imported into every process, and each collection on the way
# walks all of them: at Python's own 700 new objects, an eighth of the imports' time.
_gc.set_threshold(20_000, 20, 20)
