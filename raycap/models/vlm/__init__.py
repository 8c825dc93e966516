"""Vision-language models, run by transformers or by vLLM."""
