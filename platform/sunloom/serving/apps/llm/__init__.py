"""The app at ``/v1``: vLLM behind the OpenAI-compatible API."""
