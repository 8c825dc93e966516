"""Models that servers run, asked through OpenAI's interface for chat completions."""
