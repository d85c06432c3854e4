"""Settings of agents, their tools and their coordination."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator

from sunloom.config.loading.model import Model
from sunloom.config.settings import Settings
from sunloom.errors import NotFoundError

EngineName = Literal["crewai", "semantic_kernel"]
_MOST_TOOLS = 64


class ToolConfig(Model):
    """A tool that an agent may call; a bare name stands for ``{name: …}``."""

    name: str = Field(min_length=1, max_length=64)
    """Entry point in the group ``sunloom.tools``."""
    options: dict[str, Any] = Field(default_factory=dict, max_length=200)
    """The tool's own options, checked against its declaration."""
    approval: bool = False
    """Whether a person must approve every call before it is made."""

    @model_validator(mode="before")
    @classmethod
    def _accept_bare_name(cls, value: Any) -> Any:
        # Before validation: a text has no fields yet.
        return {"name": value} if isinstance(value, str) else value


class AgentProfile(Model):
    """Role, model and limits of an agent."""

    # Semantic Kernel refuses other characters in an agent's name.
    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")
    """Name in events and, with Semantic Kernel, in the system message."""
    engine: EngineName = "crewai"
    """Library that runs the loop of model and tool calls."""
    model: str = Field(default="retail-agent", min_length=1, max_length=200)
    """Name of the model at the gateway's ``/v1``."""
    role: str = Field(default="Assistant", min_length=1, max_length=2000)
    """``You are {role}.`` opens the system message."""
    goal: str = Field(default="Answer the task", min_length=1, max_length=2000)
    """``Your personal goal is: {goal}`` ends it."""
    backstory: str = Field(default="You use the tools.", min_length=1, max_length=4000)
    """Background of the agent and its task, for the system message."""
    instructions: str | None = Field(default=None, max_length=8000)
    """Replaces the whole system message."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Sampling temperature; 0 is greedy."""
    # As long as the turns of a model's held-out evaluation (evaluation.max_new_tokens).
    max_tokens: int = Field(default=96, ge=1, le=100_000)
    """Longest answer of one model call, tokens; a truncated answer fails the task."""
    max_steps: int = Field(default=8, ge=1, le=200)
    """Model calls in one task."""
    timeout_s: float = Field(default=120.0, gt=0, le=86_400)
    """Running time of one attempt at a task, seconds."""
    concurrency: int = Field(default=4, ge=1, le=64)
    """Tasks that the agent works on concurrently."""
    max_attempts: int = Field(default=3, ge=1, le=10)
    """Attempts at a task whose actor died; finished calls are replayed, not repeated."""

    def system_text(self) -> str:
        """The system message that both engines send, letter by letter."""
        if self.instructions:
            return self.instructions
        return f"You are {self.role}. {self.backstory}\nYour personal goal is: {self.goal}"


class AgentSpec(AgentProfile):
    """Specification of an agent: the body of ``POST /agents/create``, and its actor's arguments."""

    tools: tuple[ToolConfig, ...] = Field(default=(), max_length=_MOST_TOOLS)
    """Tools that it may call."""

    @field_validator("tools")
    @classmethod
    def _name_tools_once(cls, tools: tuple[ToolConfig, ...]) -> tuple[ToolConfig, ...]:
        names = [tool.name for tool in tools]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{repeated[0]!r} is named twice")
        return tools

    @classmethod
    def from_stored(cls, data: dict[str, Any]) -> AgentSpec:
        """A specification that was stored, perhaps before its numbers and texts had bounds."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            bounded = dict(data)
            for problem in error.errors():
                name, context = str(problem["loc"][0]), problem.get("ctx", {})
                if "le" in context:
                    bounded[name] = context["le"]
                elif problem["type"] in ("string_too_long", "too_long"):
                    bounded[name] = bounded[name][: context["max_length"]]
            return cls.model_validate(bounded)


class AgentConfig(AgentProfile):
    """An agent of a recipe."""

    # None and () differ: an agent without tools is a valid one.
    tools: tuple[str, ...] | None = Field(default=None, max_length=_MOST_TOOLS)
    """Names from the recipe's ``tools``; all of them if empty."""


class CoordinationConfig(Model):
    """Coordination of the recipe's agents."""

    strategy: Literal["single"] = "single"
    """``single``: each task goes to one agent."""


class GatewayAccess(Model):
    """Access of a run to the gateway."""

    url: str | None = None
    """Root of the gateway; ``serving.host`` and ``serving.port`` if empty."""
    api_key: SecretStr | None = None
    """Key with the scopes ``agents``, ``llm`` and those of the tools; ``SUNLOOM_API_KEY`` of the
    environment if empty."""


class AgentsRecipe(Settings):
    """Recipe of agents, tools and coordination."""

    agents: tuple[AgentConfig, ...] = Field(default=(), max_length=64)
    """The agents."""
    tools: tuple[ToolConfig, ...] = ()
    """Tools that the agents may use."""
    coordination: CoordinationConfig = CoordinationConfig()
    """How the agents work together."""
    tasks: tuple[str, ...] = ()
    """Tasks that ``jobs.agents_run`` gives to the first agent."""
    gateway: GatewayAccess = GatewayAccess()
    """Gateway that ``jobs.agents_run`` uses."""
    tasks_timeout_s: float = Field(default=600.0, gt=0)
    """Longest wait for all tasks of a run, seconds."""

    def spec(self, name: str | None = None) -> AgentSpec:
        """The specification of the agent called ``name``, or of the first one.

        Raises:
            NotFoundError: No agent or tool of that name in the recipe.
        """
        known = {agent.name: agent for agent in self.agents}
        name = name if name is not None else next(iter(known), "")
        if name not in known:
            raise NotFoundError(
                f"The recipe has no agent {name!r}.", param="agents", known=known, name=name
            )
        agent = known[name]
        offered = {tool.name: tool for tool in self.tools}
        names = agent.tools if agent.tools is not None else tuple(offered)
        for tool in names:
            if tool not in offered:
                raise NotFoundError(
                    f"Agent {agent.name!r} names the tool {tool!r}, which is not under `tools`.",
                    param="tools",
                    known=offered,
                    name=tool,
                )
        # Here tools are names; the specification has their configurations.
        profile = agent.model_dump(exclude={"tools"})
        return AgentSpec(**profile, tools=tuple(offered[tool] for tool in names))
