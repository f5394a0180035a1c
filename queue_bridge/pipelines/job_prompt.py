"""The prompt that a job leads to: its template, filled with its parameters, at its lane's resolution; or its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..job import RAW, JobRecord, Value
from ..prompt_events import Graph
from ..tiers import tier_of_lane
from .raw_prompt import template_of
from .templates import Template, template_named

SEED, SEEDS = "seed", 2**64


@dataclass(frozen=True)
class JobPrompt:
    """config: what the job asks for, at its lane's resolution. values: every parameter. warnings: about them."""

    template: Template
    config: Mapping[str, Any]
    values: Mapping[str, Value]
    warnings: tuple[str, ...]

    def graph(self, files: Mapping[str, str], output_prefix: str) -> Graph:
        """files: names in ComfyUI's input folder, as ``JobSpec.files`` has them."""
        return self.template.fill(self.values, output_prefix=output_prefix, **files)


def prompt_of(job: JobRecord, templates: Mapping[str, Template], raw_nodes: Collection[str] = ()) -> JobPrompt:
    """raw_nodes: the node classes of which a job's own prompt may consist. Raises TemplateError or BadJob."""
    if job.spec.workflow == RAW:
        return JobPrompt(template_of(job.spec.prompt, raw_nodes), {}, {}, ())
    template = template_named(templates, job.spec.workflow)
    config = dict(job.spec.config)
    if "resolution" in template.parameters and job.degradations:
        config["resolution"] = tier_of_lane(job.lane)
    if SEED in template.parameters and job.redraws:
        asked = config.get(SEED, template.parameters[SEED].default)
        config[SEED] = (int(asked) + job.redraws) % SEEDS
    values, warnings = template.check(config)
    return JobPrompt(template, config, values, tuple(warnings))
