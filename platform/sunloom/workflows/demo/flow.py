"""The demo's run: from raw purchases to an agent that answers over HTTP, on real parts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text

from sunloom.config import Settings
from sunloom.core.cluster import ClusterInfo, connect, disconnect
from sunloom.core.interrupts import ignore_interrupts, raise_if_interrupted, wait_for_interrupt
from sunloom.core.model_registry import open_registry
from sunloom.core.processes import own_processes
from sunloom.core.telemetry import (
    configure_logging,
    keep_libraries_off_screen,
    screen,
    screen_console,
)
from sunloom.serving.apps.llm.model_resolver import find_base
from sunloom.serving.auth.api_keys import create_key, revoke_key
from sunloom.serving.deploy.deploy import Deployment, deploy, shutdown, wait_ready
from sunloom.serving.deploy.environment import serving_environment
from sunloom.workflows.demo import steps
from sunloom.workflows.demo.recipes import DemoRecipes, load_demo_recipes
from sunloom.workflows.demo.summary import (
    DemoSummary,
    plot_before_after,
    print_summary,
    summarize,
    write_summary,
)

# In the order of the run: a step's place is its number on the terminal.
TITLES = {
    "cluster": "Start a private Ray on loopback",
    "data": "Validate, clean and quarantine the purchase log (Ray Data)",
    "features": "Compute point-in-time features from Chalk classes (Polars and Ray Data)",
    "tabular": "Tune and train the repurchase model (Ray Tune)",
    "base_model": "Register the base model of the agent",
    "adapter": "Fine-tune the LoRA adapter and judge it (Ray Train, 2 workers)",
    "serving": "Serve models, features, predictions and agents on one port (Ray Serve, vLLM)",
    "agents": "Give CrewAI and Semantic Kernel ten held-out tasks each, over HTTP",
    "monitoring": "Compare the first quarter of 1997 with the second of 1998 (Evidently)",
}
# Seconds on two quiet cores: what the time left is reckoned from.
EXPECTED_S = {
    "cluster": 9.0,
    "data": 5.0,
    "features": 3.0,
    "tabular": 23.0,
    "base_model": 2.0,
    "adapter": 365.0,
    "serving": 65.0,
    "agents": 35.0,
    "monitoring": 1.0,
}
FROM_SCRATCH_S = 960.0
# Of a run that trains nothing anew, and so starts serving behind its first steps.
REUSED_S = {
    "cluster": 9.0,
    "data": 15.0,
    "features": 4.0,
    "tabular": 1.0,
    "base_model": 1.0,
    "adapter": 1.0,
    "serving": 40.0,
    "agents": 25.0,
    "monitoring": 1.0,
}
# Seconds at the expected pace that the steps which ended are weighed against: the first ones are
# short, and one of them alone says little about the machine.
_PRIOR_S = 30.0
FROM_SCRATCH_TITLE = "Train the small tool-calling base model (Ray Train, FSDP2, 2 workers)"
SCOPES = ("llm", "features", "agents", "models", "train")


class StepList:
    """Prints each step as it starts, with the time left, and its result as it ends.

    Args:
        titles: Step name to the sentence shown, in order.
        expected_s: Step name to the seconds that it takes on two quiet cores. The time left is
            their sum, scaled by the pace of the steps that ended here.

    Attributes:
        seconds: Of each step that ended.
    """

    def __init__(self, titles: Mapping[str, str], expected_s: Mapping[str, float]) -> None:
        self.seconds: dict[str, float] = {}
        # To standard error, so that --json stays clean.
        self.console = screen_console(screen())
        self._titles = dict(titles)
        self._expected_s = dict(expected_s)
        self._note = ""

    def announce(self, notice: str) -> None:
        """Print what will happen before it does."""
        self.console.print(notice, soft_wrap=True)
        for number, title in enumerate(self._titles.values(), 1):
            self.console.print(f"  {number}. {title}", style="dim", soft_wrap=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run one step and note its seconds, also when it fails."""
        number = list(self._titles).index(name) + 1
        mark = f"[{number}/{len(self._titles)}]"
        start, self._note = time.monotonic(), ""
        left = format_minutes(self.left_s(name))
        line = Text(f"{mark} {self._titles[name]} … ({left} left)", style="bold")
        self.console.print(line, soft_wrap=True)
        # Elsewhere a live line would be a line without an end in somebody's log.
        live = (
            self.console.status(_TimeLeft(self, name, start))
            if self.console.is_terminal
            else nullcontext()
        )
        try:
            with live:
                yield
            # A library may have swallowed it: an interrupted step is not a finished one.
            raise_if_interrupted()
        finally:
            self.seconds[name] = round(time.monotonic() - start, 2)
        # As Text: Rich would read brackets in a string as markup.
        line = Text(f"      {self.seconds[name]:6.1f} s  {self._note}")
        self.console.print(line, soft_wrap=True)

    def note(self, text: str) -> None:
        """Set the running step's result, shown when it ends."""
        self._note = text

    def left_s(self, name: str, elapsed_s: float = 0.0) -> float:
        """Seconds until the last step ends, as far as known.

        Args:
            name: The step that runs.
            elapsed_s: Seconds since it started.
        """
        expected = sum(self._expected_s[done] for done in self.seconds)
        pace = (sum(self.seconds.values()) + _PRIOR_S) / (expected + _PRIOR_S)
        names = list(self._titles)
        after = sum(self._expected_s[later] for later in names[names.index(name) + 1 :])
        return max(self._expected_s[name] * pace - elapsed_s, 0.0) + after * pace


@dataclass(frozen=True)
class _TimeLeft:
    """Text beside the spinner, computed anew each time that it is drawn."""

    steps: StepList
    name: str
    start: float

    def __rich__(self) -> Text:
        elapsed = time.monotonic() - self.start
        left = format_minutes(self.steps.left_s(self.name, elapsed))
        return Text(f"{elapsed:.0f} s, {left} left", style="dim")


def format_minutes(seconds: float) -> str:
    """A duration as people say it: ``about 7 min``."""
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"


@dataclass
class _Demo:
    """State that the steps share."""

    settings: Settings
    recipes: DemoRecipes
    console: StepList
    from_scratch: bool = False
    figures: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    plots: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where the demo's own files go."""
        return self.settings.paths.outputs / "demo"

    def base_ref(self) -> str | None:
        """``name@version`` of the base that is served; None before it is registered."""
        base = find_base(self.settings)
        return base.ref if base else None

    def take(self, step: str, result: steps.Figures) -> None:
        """Keep a step's figures, note and pictures."""
        self.figures[step] = result.figures
        self.plots += result.plots
        self.console.note(result.note)


def is_trained(settings: Settings, recipes: DemoRecipes) -> bool:
    """Whether an earlier run promoted the base and the adapter that this one will serve."""
    registry = open_registry(settings)
    names = (recipes.model.base, recipes.adapter.output.name)
    return all(registry.aliases(name) for name in names)


def run_demo(
    settings: Settings,
    *,
    model: str = "small",
    from_scratch: bool = False,
    keep: bool = False,
    sets: Sequence[str] = (),
) -> DemoSummary:
    """Run every room once and write ``outputs/demo/summary.json``.

    Args:
        settings: Seed, paths, port, and the base model that is served.
        model: A key of ``recipes.MODELS``.
        from_scratch: Train the base model here instead of taking the one that is shipped.
        keep: Leave the gateway up until Ctrl-C.
        sets: Assignments laid over every recipe.

    Returns:
        The summary, as it is written.

    Raises:
        SunloomError: A step failed; nothing that it started is left running.
    """
    configure_logging(settings)
    recipes = load_demo_recipes(sets, model)
    log = settings.paths.outputs / "demo" / "libraries.log"
    try:
        with keep_libraries_off_screen(log):
            return _run(settings, recipes, from_scratch=from_scratch, keep=keep)
    finally:
        # Last, also after a failure: there stand the warnings that the screen was spared.
        screen_console(screen()).print(f"What libraries printed: {log}", soft_wrap=True)


def _run(
    settings: Settings, recipes: DemoRecipes, *, from_scratch: bool, keep: bool
) -> DemoSummary:
    start = time.monotonic()
    titles = TITLES | ({"base_model": FROM_SCRATCH_TITLE} if from_scratch else {})
    expected = EXPECTED_S | ({"base_model": FROM_SCRATCH_S} if from_scratch else {})
    # Nothing will be trained anew: serving starts behind the steps before it.
    is_early = not from_scratch and is_trained(settings, recipes)
    if is_early:
        expected = REUSED_S
    demo = _Demo(settings, recipes, StepList(titles, expected), from_scratch)
    minutes = format_minutes(sum(expected.values()))
    demo.console.announce(
        f"Sunloom demo: {minutes} on 2 quiet cores, about 1 GB below outputs/ and .sunloom/ "
        f"(seed {settings.seed})."
    )
    pool = ThreadPoolExecutor(1)
    # HAProxy and vLLM's engine core outlive Ray workers that are killed.
    with own_processes():
        try:
            with demo.console.step("cluster"):
                cluster = connect(settings, serving_environment(settings))
                demo.console.note(f"dashboard {cluster.dashboard_url}")
            early = deploy(settings, wait=False) if is_early else None
            _train(demo)
            # A newer package may have shipped another base, which was registered just now.
            if early and early.model != demo.base_ref():
                early = None
            # Needs none of the services: at work while they start, which is mostly waiting.
            drift = pool.submit(steps.watch_drift, demo.recipes, settings)
            deployment, key, key_id = _serve(demo, early)
            gateway = steps.DemoGateway(deployment.url, key)
            with demo.console.step("agents"):
                demo.take("agents", steps.ask_agents(demo.recipes, settings, gateway))
            with demo.console.step("monitoring"):
                steps.wait_for([drift])
                demo.take("monitoring", drift.result())
            summary = _conclude(demo, deployment, cluster, time.monotonic() - start)
            if keep:
                _wait_for_interrupt(demo, deployment, key)
            revoke_key(demo.settings, key_id)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            with ignore_interrupts():
                # Before the connection ends: Serve's controller is an actor of this Ray.
                shutdown(settings)
                disconnect()
    return summary


def _train(demo: _Demo) -> None:
    work = {
        "data": steps.prepare_data,
        "features": steps.compute_features,
        "tabular": steps.train_tabular_model,
        "base_model": steps.train_base_model if demo.from_scratch else steps.register_base_model,
        "adapter": steps.train_adapter_model,
    }
    for name, function in work.items():
        with demo.console.step(name):
            demo.take(name, function(demo.recipes))


def _serve(demo: _Demo, early: Deployment | None) -> tuple[Deployment, str, str]:
    with demo.console.step("serving"):
        # Fails before serving starts, which takes minutes, if the adapter is not registered.
        open_registry(demo.settings).get(demo.recipes.adapter.output.name)
        deployment = early or deploy(demo.settings, wait=False)
        wait_ready(deployment.url, demo.settings.serving.ready_timeout_s)
        # The expiry covers a run that is killed before it revokes the key.
        key, record = create_key(demo.settings, SCOPES, expires="12h", purpose="demo")
        steps.check_gateway(steps.DemoGateway(deployment.url, key), demo.recipes)
        demo.console.note(f"{deployment.url} is ready: {', '.join(sorted(deployment.apps))}")
    return deployment, key, record.id


def _conclude(
    demo: _Demo, deployment: Deployment, cluster: ClusterInfo, total_s: float
) -> DemoSummary:
    picture = demo.folder / "before_after.png"
    summary = summarize(
        demo.figures,
        seed=demo.settings.seed,
        seconds=demo.console.seconds | {"total": total_s},
        plots=[*demo.plots, str(picture)],
        urls={
            "gateway": deployment.url,
            "docs": f"{deployment.url}/docs",
            "dashboard": cluster.dashboard_url or "",
        },
    )
    plot_before_after(summary, picture)
    path = write_summary(summary, demo.folder, demo.figures["agents"]["answers"])
    print_summary(summary, path, demo.console.console)
    return summary


def _wait_for_interrupt(demo: _Demo, deployment: Deployment, key: str) -> None:
    show = demo.console.console.print
    show(f"The gateway stays at {deployment.url} until Ctrl-C. A key for 12 hours:")
    # A key may contain what Rich reads as markup.
    show(f"  export SUNLOOM_URL={deployment.url} SUNLOOM_KEY={key}", markup=False)
    wait_for_interrupt()
    show("Stopping …")
