"""Agents: tasks on models and tools, run by CrewAI or Semantic Kernel, durable in the database."""
