"""The prompt that a job leads to: its template, filled with its parameters, at the resolution of its lane."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .job import JobRecord, Value
from .prompt_events import Graph
from .templates import Template, template_named
from .tiers import tier_of_lane

SEED, SEEDS = "seed", 2**64


@dataclass(frozen=True)
class JobPrompt:
    """config: what the job asks for, at its lane's resolution. values: every parameter. warnings: about them."""

    template: Template
    config: Mapping[str, Any]
    values: Mapping[str, Value]
    warnings: tuple[str, ...]

    def graph(self, *, image: str, audio: str, output_prefix: str) -> Graph:
        return self.template.fill(self.values, image=image, audio=audio, output_prefix=output_prefix)


def prompt_of(job: JobRecord, templates: Mapping[str, Template]) -> JobPrompt:
    """Raises TemplateError or BadJob."""
    template = template_named(templates, job.spec.workflow)
    config = dict(job.spec.config)
    if "resolution" in template.parameters and job.degradations:
        config["resolution"] = tier_of_lane(job.lane)
    if SEED in template.parameters and job.redraws:
        asked = config.get(SEED, template.parameters[SEED].default)
        config[SEED] = (int(asked) + job.redraws) % SEEDS
    values, warnings = template.check(config)
    return JobPrompt(template, config, values, tuple(warnings))
