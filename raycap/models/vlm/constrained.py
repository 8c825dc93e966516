"""Answers that follow a JSON schema: at each step only tokens that continue valid JSON are allowed.

llguidance says which those are. It works with any search: each hypothesis has a matcher of its own,
which is found by the tokens written so far. Scores are still those of the model without the
schema, as they are read from the raw logits.
"""

import json
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from raycap.answers.typed import answer_type
from raycap.errors import ModelError

# Free white space would let a model write it until its tokens are used up.
_LAYOUT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

# B = hypotheses, T = tokens so far, V = vocabulary of the logits


class JsonGrammars:
    """The grammars of JSON schemas over the tokens of one model."""

    def __init__(self, tokenizer: Any, ends: list[int]) -> None:
        """Prepare; the work is done for the first schema.

        Args:
            tokenizer: the model's, a fast one of transformers.
            ends: the tokens that end an answer.
        """
        self._tokenizer = tokenizer
        self.ends = ends
        self._prepared: Any = None
        self._start: dict[str, Any] = {}

    def following(self, json_schema: str) -> "FollowsSchema":
        """Return a new processor of logits, for one call of `generate`."""
        return FollowsSchema(self, json_schema)

    def matcher(self, json_schema: str, num_tokens: int) -> Any:
        """Return a matcher at the start of an answer.

        Args:
            json_schema: the schema.
            num_tokens: the size of the model's vocabulary.

        Raises:
            ModelError: the tokenizer is not supported, or the schema is too large.
        """
        from llguidance import LLMatcher  # noqa: PLC0415  of an extra

        if json_schema not in self._start:
            enforced = json.dumps(answer_type(json_schema).enforced())
            grammar = LLMatcher.grammar_from_json_schema(enforced, overrides=_LAYOUT)
            matcher = LLMatcher(self._tokens(num_tokens), grammar, log_level=0)
            if matcher.is_error():
                raise ModelError(
                    f"the JSON schema cannot be enforced: {' '.join(matcher.get_error().split())}",
                    setting="prompts",
                )
            self._start[json_schema] = matcher
        return self._start[json_schema].deep_copy()

    def _tokens(self, num_tokens: int) -> Any:
        if self._prepared is None:
            from llguidance.hf import from_tokenizer  # noqa: PLC0415  of an extra

            try:
                self._prepared = from_tokenizer(
                    self._tokenizer, n_vocab=num_tokens, eos_token=self.ends
                )
            except ValueError as error:
                raise ModelError(
                    f"the model's tokenizer does not support prompts with a type: {error}",
                    setting="prompts",
                ) from error
        return self._prepared


class FollowsSchema(LogitsProcessor):
    """Forbids every token after which the answer could not become valid JSON of a schema."""

    def __init__(self, grammars: JsonGrammars, json_schema: str) -> None:
        self._grammars = grammars
        self._json_schema = json_schema
        self._num_before: int | None = None
        self._matchers: dict[tuple[int, ...], Any] = {}

    def __call__(
        self, input_ids: Int[Tensor, "b t"], scores: Float[Tensor, "b v"]
    ) -> Float[Tensor, "b v"]:
        """Return the scores, minus infinity for tokens that are not allowed."""
        if self._num_before is None:
            self._num_before = input_ids.shape[1]
        written = [tuple(row) for row in input_ids[:, self._num_before :].tolist()]
        found = {tokens: self._matcher(tokens, scores.shape[1]) for tokens in set(written)}
        self._matchers = found
        masks = {tokens: _allowed(matcher, scores.shape[1]) for tokens, matcher in found.items()}
        allowed = torch.from_numpy(np.stack([masks[tokens] for tokens in written]))
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)

    def _matcher(self, tokens: tuple[int, ...], num_tokens: int) -> Any:
        """Return the matcher after some tokens; None after the end of the answer."""
        if not tokens:
            return self._grammars.matcher(self._json_schema, num_tokens)
        if tokens[:-1] in self._matchers:
            before = self._matchers[tokens[:-1]]
            matcher = None if before is None else before.deep_copy()
        else:
            matcher = self._matcher(tokens[:-1], num_tokens)
        if matcher is None or tokens[-1] in self._grammars.ends:
            return None
        return matcher if matcher.consume_token(tokens[-1]) else None


def _allowed(matcher: Any, num_tokens: int) -> Bool[np.ndarray, " v"]:
    if matcher is None:  # what follows the end is not read
        return np.ones(num_tokens, bool)
    bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    return np.unpackbits(bits, bitorder="little", count=num_tokens).astype(bool)
