"""Table of algorithms by name; plugins of the group ``sunloom.algorithms`` add theirs."""

from __future__ import annotations

from collections.abc import Mapping

from sunloom.core.plugins import load_plugin, plugin_names
from sunloom.errors import NotFoundError
from sunloom.tabular.algorithms.boosting import LightGBM, XGBoost
from sunloom.tabular.algorithms.linear import LogisticRegression
from sunloom.tabular.algorithms.protocol import Algorithm

PLUGIN_GROUP = "sunloom.algorithms"

ALGORITHMS: Mapping[str, Algorithm] = {
    algorithm.name: algorithm for algorithm in (LogisticRegression(), XGBoost(), LightGBM())
}


def algorithm_names() -> list[str]:
    """Names that a recipe may use."""
    return sorted({*ALGORITHMS, *plugin_names(PLUGIN_GROUP)})


def load_algorithm(name: str) -> Algorithm:
    """The algorithm of this name, from the table or from a plugin.

    Raises:
        NotFoundError: There is no such algorithm; the known ones are listed.
    """
    # Built-in names first: no plugin can change what a stored model is read with.
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if name not in plugin_names(PLUGIN_GROUP):
        raise NotFoundError(
            f"There is no algorithm {name!r}.",
            param="algorithms",
            known=algorithm_names(),
            name=name,
        )
    plugin: Algorithm = load_plugin(PLUGIN_GROUP, name, Algorithm)
    return plugin
