"""Language models: conversations, training, adapters, judging, plans.

Cheap to import: torch, transformers, PEFT, Ray and Matplotlib load when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sunloom.core.lazy import lazy_exports

if TYPE_CHECKING:
    from sunloom.llm.conversations import Conversation, ConversationSource, GenericConversations
    from sunloom.llm.evaluation.exact_match import ExactMatch, exact_match
    from sunloom.llm.history import losses, plot_losses
    from sunloom.llm.planning import TrainingPlan, plan
    from sunloom.llm.probe import DtypeProbe, probe_dtype
    from sunloom.llm.training import LlmResult, evaluate, train_adapter, train_base

__all__ = [
    "Conversation",
    "ConversationSource",
    "DtypeProbe",
    "ExactMatch",
    "GenericConversations",
    "LlmResult",
    "TrainingPlan",
    "evaluate",
    "exact_match",
    "losses",
    "plan",
    "plot_losses",
    "probe_dtype",
    "train_adapter",
    "train_base",
]

_HOMES = {
    "Conversation": "conversations",
    "ConversationSource": "conversations",
    "DtypeProbe": "probe",
    "ExactMatch": "evaluation.exact_match",
    "GenericConversations": "conversations",
    "LlmResult": "training",
    "TrainingPlan": "planning",
    "evaluate": "training",
    "exact_match": "evaluation.exact_match",
    "losses": "history",
    "plan": "planning",
    "plot_losses": "history",
    "probe_dtype": "probe",
    "train_adapter": "training",
    "train_base": "training",
}

__getattr__ = lazy_exports(__name__, _HOMES)
