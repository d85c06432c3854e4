"""Tabular models: algorithms behind one Protocol, search on Ray Tune, evaluation, storage.

Cheap to import: scikit-learn, XGBoost, LightGBM, Ray and Matplotlib load when they are used.
"""
