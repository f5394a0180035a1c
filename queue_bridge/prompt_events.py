"""What ComfyUI tells about one prompt: progress, outcome and errors, as values and sentences. Knows no connection."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from .errors import PromptFailed, PromptInterrupted, PromptRejected

Graph = Mapping[str, Mapping[str, Any]]  # node id -> {"class_type", "inputs"}, ComfyUI's API format
TERMINAL_EVENTS = frozenset({"execution_success", "execution_error", "execution_interrupted"})
# Names of our nodes' own errors end like this; ComfyUI puts the pack's path in front.
OWN_ERROR = re.compile(r"\.sonic\.errors\.\w+$")


@dataclass(frozen=True)
class Progress:
    """How far a prompt is.

    fraction: 0..1 of the whole prompt, never less than in an earlier report of the same prompt.
    stage: title of the node at work. value, total: that node's own steps; total is 0 where it counts none.
    """

    fraction: float
    stage: str = ""
    value: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class SavedFile:
    """A file that a node left on the server, as its /view names it."""

    filename: str
    subfolder: str = ""
    type: str = "output"


@dataclass(frozen=True)
class PromptResult:
    """outputs: what each node told the UI, by node id, as in ComfyUI's history."""

    prompt_id: str
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def files(self, suffixes: tuple[str, ...] = (".mp4",)) -> list[SavedFile]:
        """Every saved file with one of these suffixes, in the order of the nodes."""
        return [file for node_id in self.outputs for file in self.files_of(node_id, suffixes)]

    def files_of(self, node_id: str, suffixes: tuple[str, ...] = (".mp4",)) -> list[SavedFile]:
        """The files that one node saved."""
        found = []
        for entries in self.outputs.get(node_id, {}).values():
            for entry in entries if isinstance(entries, list) else ():
                if isinstance(entry, dict) and str(entry.get("filename", "")).lower().endswith(suffixes):
                    names = (entry["filename"], entry.get("subfolder", ""), entry.get("type", "output"))
                    found.append(SavedFile(*names))
        return found

    def report(self, name: str) -> dict[str, Any]:
        """What a node told the UI about its work under a name, such as the engine it used; empty when none did."""
        for output in self.outputs.values():
            for entry in output.get(name, ()):
                if isinstance(entry, dict):
                    return entry
        return {}


class PromptRunner(Protocol):
    """Runs a prompt on one ComfyUI: inside its process (prompt_queue.py) or over HTTP (comfy_client.py)."""

    async def turn(self) -> None:
        """Return when the next prompt of ours would be ComfyUI's next one, so that a job may be claimed for it."""
        ...

    async def check(self, graph: Graph) -> None:
        """See whether ComfyUI would take a graph, as far as that can be seen without running it.

        Raises PromptRejected.
        """
        ...

    def withdraw(self, prompt_id: str) -> bool:
        """Take back a prompt that has not begun, so that its ``run`` raises PromptWithdrawn; False when it has."""
        ...

    async def run(
        self,
        graph: Graph,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        weights: Mapping[str, float] | None = None,
        prompt_id: str | None = None,
    ) -> PromptResult:
        """Run a graph to its end; cancelling this call interrupts the prompt.

        Raises PromptRejected, PromptFailed, PromptInterrupted or InstanceError.
        """
        ...

    async def has_ended(self, prompt_id: str) -> bool:
        """True when a prompt neither runs nor waits any more."""
        ...

    def can_run(self) -> bool:
        """False when it can be told that nothing runs prompts any more."""
        ...

    async def unload_models(self) -> None:
        """Have the card's memory emptied before the next prompt."""
        ...


class ProgressMeter:
    """Turns ComfyUI's events of one prompt into a fraction that never goes back.

    weights: how long a node type takes compared to others; a type that is not named weighs 1.
    """

    def __init__(self, graph: Graph, weights: Mapping[str, float] | None = None) -> None:
        self._titles = {node_id: title_of(node) for node_id, node in graph.items()}
        self._weights = {node_id: (weights or {}).get(str(node["class_type"]), 1.0) for node_id, node in graph.items()}
        self._done = dict.fromkeys(graph, 0.0)
        self._last = Progress(0.0)

    def feed(self, event: str, data: Mapping[str, Any]) -> Progress:
        """Take one event; returns the state after it."""
        stage, value, total = self._last.stage, self._last.value, self._last.total
        if event == "execution_cached":
            self._finish(*data.get("nodes", ()))
        elif event == "executing" and data.get("node"):
            stage, value, total = self._title_of(data["node"]), 0.0, 0.0
        elif event == "executed":
            self._finish(data.get("node"))
        elif event == "execution_success":
            self._finish(*self._done)
        elif event == "progress_state":
            for node_id, state in data.get("nodes", {}).items():
                if state.get("state") == "running":
                    stage, value, total = self._title_of(node_id), float(state["value"]), float(state["max"])
                self._advance(node_id, state)
        weighed = sum(self._weights[node_id] * part for node_id, part in self._done.items())
        fraction = weighed / (sum(self._weights.values()) or 1.0)
        self._last = Progress(max(self._last.fraction, min(1.0, fraction)), stage, value, total)
        return self._last

    def _advance(self, node_id: str, state: Mapping[str, Any]) -> None:
        if node_id not in self._done:  # a node that another node expanded into
            return
        if state.get("state") == "finished":
            self._finish(node_id)
        elif state.get("max"):
            part = min(1.0, max(0.0, float(state["value"]) / float(state["max"])))
            self._done[node_id] = max(self._done[node_id], part)

    def _finish(self, *node_ids: object) -> None:
        self._done.update({node_id: 1.0 for node_id in map(str, node_ids) if node_id in self._done})

    def _title_of(self, node_id: object) -> str:
        return self._titles.get(str(node_id), self._last.stage)


def outcome(prompt_id: str, entry: Mapping[str, Any], graph: Graph) -> PromptResult:
    """Judge a history entry by its last terminal message, since ``status_str`` may be left over from another prompt."""
    messages = entry.get("status", {}).get("messages", [])
    for event, data in reversed(messages):
        if event == "execution_error":
            raise failure(data, graph)
        if event == "execution_interrupted":
            raise PromptInterrupted("The prompt was interrupted.")
        if event == "execution_success":
            break
    return PromptResult(prompt_id, dict(entry.get("outputs", {})))


def failure(data: Mapping[str, Any], graph: Graph) -> PromptFailed:
    """An execution_error event as one sentence: no traceback, and none of the inputs that ComfyUI echoes."""
    node_id = str(data.get("node_id", ""))
    node_type = str(data.get("node_type", ""))
    full_type = str(data.get("exception_type", ""))
    error_type = full_type.rpartition(".")[2]
    text = _first_line(str(data.get("exception_message", ""))) or error_type
    if not OWN_ERROR.search(full_type):
        text = f"{title_of(graph[node_id]) if node_id in graph else node_type} failed: {text}"
    return PromptFailed(_as_sentence(text), node_id=node_id, node_type=node_type, error_type=error_type)


def rejection(answer: Mapping[str, Any], graph: Graph) -> PromptRejected:
    """ComfyUI's refusal of a graph as one sentence about the first node at fault."""
    node_errors = answer.get("node_errors") or {}
    reasons = [(node_id, error) for node_id, node in node_errors.items() for error in node.get("errors", ())]
    if not reasons:
        error = answer.get("error") or {}
        return PromptRejected(_as_sentence(_join(error.get("message", ""), error.get("details", ""))))
    node_id, error = reasons[0]
    details = _first_line(str(error.get("details", "")))
    where = f"{title_of(graph[node_id])} (node {node_id})" if node_id in graph else f"node {node_id}"
    own_check = error.get("type") == "custom_validation_failed"
    if own_check:  # "input - what the node's own check said"
        details = details.partition(" - ")[2] or details
        return PromptRejected(_as_sentence(details), bad_input=True)
    more = f" ({len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return PromptRejected(_as_sentence(f"{where}: {_join(error.get('message', ''), details)}{more}"))


def title_of(node: Mapping[str, Any]) -> str:
    """What a node is called where its progress is told."""
    return str(node.get("_meta", {}).get("title") or node.get("class_type", ""))


def _join(message: object, details: object) -> str:
    return ": ".join(part for part in (_first_line(str(message)), _first_line(str(details))) if part)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _as_sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", "。")) else f"{text.rstrip(':;, ')}."
