"""Which kind of machine Ray's autoscaler starts next, on clouds that may refuse spot instances.

Ray's own choice looks at nothing but how well the demand fits: where a cloud has no spot instance
left, it asks for one again and again. So `cluster.yaml` names `score` to it, in
RAY_AUTOSCALER_UTILIZATION_SCORER.
"""

from numbers import Real

from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer

SPOT = "-spot"
"""How names of node types end whose instances are spot."""

Resources = dict[str, Real]
Score = tuple[bool | int | float, ...]


def score(
    node_resources: Resources,
    demands: list[Resources],
    node_type: str,
    *,
    node_availability_summary: NodeAvailabilitySummary,
) -> Score | None:
    """Rank a node type for a demand; the autoscaler starts the highest.

    GPU machines come last for work on CPUs, as in Ray. Then a type that was refused at its last
    start, within half an hour, comes after one that was not; then the better fit; then spot.

    Args:
        node_resources: what a node of the type has.
        demands: what waits, each by resource.
        node_type: its name in `available_node_types`.
        node_availability_summary: how the last starts went.

    Returns:
        None where a node of the type serves none of it.

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
