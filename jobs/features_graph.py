"""Features of a graph's nodes: ``python -m jobs.features_graph --config RECIPE``."""

from sunloom.config.preprocessing.graph import GraphRecipe
from sunloom.feature_store.materialization.graph_features import materialize_graph
from sunloom.workflows.job import JobOutcome, run_job


def run(recipe: GraphRecipe) -> JobOutcome:
    """Hand the recipe to the library and its figures to the job's frame."""
    result = materialize_graph(recipe).model_dump(exclude_unset=True)
    artifacts = {name: result.pop(name) for name in {"out", "feature_set"} & set(result)}
    return JobOutcome(result, artifacts)


if __name__ == "__main__":
    run_job("graph", GraphRecipe, run, needs_cluster=False)
