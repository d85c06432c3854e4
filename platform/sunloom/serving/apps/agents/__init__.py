"""The app at ``/agents``: agents, their tasks and event streams."""
