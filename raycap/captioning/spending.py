"""What a run spends at endpoints: tokens, their cost, and the bounds that stop it.

All invocations of a run count: the heartbeat keeps the sum in the output. It includes answers that
were paid and lost, as those of parts that an interrupted run had not committed.
"""

from raycap.config import EndpointConfig
from raycap.errors import ModelError, RunStopped
from raycap.models.base import Caption
from raycap.progress import Spent


class Spending:
    """Counts tokens, and stops a run at its bounds."""

    def __init__(self, endpoint: EndpointConfig, before: Spent) -> None:
        """Begin.

        Args:
            endpoint: Prices and bounds.
            before: What was spent before, whatever the prices were then.
        """
        self._endpoint = endpoint
        self._before = before
        self._num_tokens = self._num_prompt_tokens = 0

    def add(self, num_prompt_tokens: int, num_tokens: int) -> None:
        """Count tokens."""
        self._num_prompt_tokens += num_prompt_tokens
        self._num_tokens += num_tokens

    def correct(self, num_prompt_tokens: int, num_tokens: int) -> None:
        """Replace the counted tokens by those of all that count."""
        self._num_prompt_tokens, self._num_tokens = num_prompt_tokens, num_tokens

    def count(self, answer: Caption) -> None:
        """Count the tokens of an answer.

        Raises:
            ModelError: the server does not say how many, and a bound depends on them.
        """
        self._check_counted(answer)
        self.add(answer.num_prompt_tokens or 0, answer.num_tokens or 0)

    @property
    def spent(self) -> Spent:
        """All that was spent."""
        before = self._before
        cost = self._endpoint.cost(self._num_prompt_tokens, self._num_tokens)
        costs = [one for one in (before.cost, cost) if one is not None]
        return Spent(
            num_prompt_tokens=before.num_prompt_tokens + self._num_prompt_tokens,
            num_tokens=before.num_tokens + self._num_tokens,
            cost=sum(costs) if costs else None,
        )

    def check(self) -> None:
        """Raise RunStopped if a bound is reached."""
        spent, endpoint = self.spent, self._endpoint
        num_tokens = spent.num_prompt_tokens + spent.num_tokens
        for name, most, value in (
            ("max_cost", endpoint.max_cost, spent.cost or 0.0),
            ("max_tokens_total", endpoint.max_tokens_total, num_tokens),
        ):
            if most is not None and value >= most:
                raise RunStopped(
                    f"endpoint.{name}={most:,} is reached, with {num_tokens:,} tokens; committed "
                    "parts are kept: raise it, and run the same command to continue",
                    setting=f"endpoint.{name}",
                )

    def _check_counted(self, answer: Caption) -> None:
        """Make sure that an answer has its tokens, if a bound depends on them.

        Raises:
            ModelError: the server does not say how many.
        """
        if answer.num_tokens is not None or answer.num_prompt_tokens is not None:
            return
        for name in ("max_cost", "max_tokens_total"):
            if getattr(self._endpoint, name) is not None:
                raise ModelError(
                    f"endpoint.{name}: the server does not say how many tokens it used (`usage`), "
                    "so that nothing would stop the run: unset it, and watch the cost there",
                    setting=f"endpoint.{name}",
                )
