"""Language models: conversations, training, adapters, judging, plans.

Cheap to import: torch, transformers, PEFT, Ray and Matplotlib load when they are used.
"""
