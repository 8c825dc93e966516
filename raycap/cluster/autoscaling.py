"""A ranking of machine types for Ray's autoscaler, on clouds that may refuse spot instances.

Ray's own ranking considers only how well a machine fits the demand: if a cloud has no spot
instances left, Ray requests one again and again. So `cluster.yaml` names `score` in
RAY_AUTOSCALER_UTILIZATION_SCORER.
"""

from numbers import Real

from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer

SPOT = "-spot"
"""Suffix of the names of node types with spot instances."""

Resources = dict[str, Real]
Score = tuple[bool | int | float, ...]


def score(
    node_resources: Resources,
    demands: list[Resources],
    node_type: str,
    *,
    node_availability_summary: NodeAvailabilitySummary,
) -> Score | None:
    """Rank a node type for a demand; the autoscaler starts the highest type.

    GPU machines rank last for work on CPUs, as in Ray. Then a type whose last start was refused
    within half an hour ranks below one that was not refused; then the better fit; then spot.

    Args:
        node_resources: the resources of a node of the type.
        demands: the waiting demands, each by resource.
        node_type: the type's name in `available_node_types`.
        node_availability_summary: the results of the last starts.

    Returns:
        The rank; None if a node of the type serves none of the demands.

    Source: `_resource_based_utilization_scorer` of Ray 2.60, of autoscaler v1; v2 takes no scorer.
    """
    fit = _default_utilization_scorer(
        node_resources, demands, node_type, node_availability_summary=node_availability_summary
    )
    if fit is None:
        return None
    last = node_availability_summary.node_availabilities.get(node_type)
    is_available = last is None or last.is_available
    return (fit[0], is_available, *fit[1:], node_type.endswith(SPOT))
