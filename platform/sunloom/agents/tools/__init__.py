"""Tools that agents call."""

from sunloom.agents.tools.tool import NoOptions, Parameters, Tool, ToolCall
from sunloom.agents.tools.toolbox import BoundTool, PendingCall, Toolbox, bind_tools, needed_scopes

__all__ = [
    "BoundTool",
    "NoOptions",
    "Parameters",
    "PendingCall",
    "Tool",
    "ToolCall",
    "Toolbox",
    "bind_tools",
    "needed_scopes",
]
