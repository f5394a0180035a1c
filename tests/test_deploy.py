"""What deploy/ asks of the product is there: every metric, every field, every setting; and those who know accept it."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.job import JobRecord
from comfyui_sonic.queue_bridge.oversight.scaling import load_of, loads
from comfyui_sonic.queue_bridge.queue.figures import STAGES, taken
from comfyui_sonic.queue_bridge.queue.keys import GROUP, Keys
from comfyui_sonic.queue_bridge.tiers import TIERS

from .gateway_fixture import GatewayHands, gateway_hands

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
RULES_TEST = DEPLOY / "prometheus" / "rules_test.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"
MANIFESTS = [path for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) if path.name != "kustomization.yaml"]
METRIC = re.compile(r"\bsonic_[a-z0-9_]+")
LABELS = re.compile(r"(sonic_[a-z0-9_]+)\{([^}]*)\}")
LIVES = {
    "tiers": [512, 768], "engines": ["sonic", "draft"], "memory_total": 8 * 2**30, "memory_free": 2**30,
    "gpu_used": 0.5, "gpu_memory_used": 2**32, "resident": 2**31,
}  # fmt: skip


@pytest.fixture
async def hands(redis_url: str, tmp_path: Path) -> AsyncIterator[GatewayHands]:
    async with gateway_hands(redis_url, tmp_path) as hands:
        yield hands


async def busy(hands: GatewayHands) -> str:
    """The metrics of a gateway whose queue has seen everything."""
    await hands.store.ask("HSET", hands.store.keys.instance("gpu-1"), "described", json.dumps(LIVES))
    await hands.submit()
    job = await hands.claim()
    await hands.store.complete(job, {}, taken(512, "draft", dict.fromkeys(STAGES, 1.5), 15.0))
    await hands.submit(priority="priority", config={"resolution": 1024})
    return (await hands.get("/metrics")).body.decode()


def expressions() -> list[str]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    rules = [rule["expr"] for group in groups for rule in group["rules"]]
    return [*rules, *(target["expr"] for panel in panels for target in panel["targets"])]


async def test_every_metric_and_label_of_rules_and_dashboard_is_in_a_gateways_answer(
    hands: GatewayHands,
) -> None:
    text = await busy(hands)
    shown: dict[str, set[str]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, rest = line.partition("{")
            shown.setdefault(name.split(" ")[0], set()).update(re.findall(r'(\w+)="', rest))
    for expression in expressions():
        for name in METRIC.findall(expression):
            assert name in shown, expression
        for name, labels in LABELS.findall(expression):
            assert set(re.findall(r"(\w+)[=!]", labels)) <= shown[name], expression


async def test_the_document_names_every_metric_and_every_one_has_a_meaning_and_a_type(hands: GatewayHands) -> None:
    text = await busy(hands)
    names = re.findall(r"^# TYPE (\w+) ", text, re.M)
    assert len(names) == len(set(names)) == len(re.findall(r"^# HELP \w+ .+\.$", text, re.M))
    document = (DEPLOY.parent / "docs" / "gateway.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`sonic_.*?) \|", document, re.M)
    told = {name for row in rows for name in re.findall(r"`(sonic_\w+)`", row)}
    told |= {f"sonic_instances{end}" for row in rows for end in re.findall(r"`(_\w+)`", row)}
    assert set(names) == told


async def test_a_histogram_of_the_answer_is_whole(hands: GatewayHands) -> None:
    lines = [line for line in (await busy(hands)).splitlines() if line.startswith("sonic_task_seconds")]
    run = [line for line in lines if 'stage="run",tier="512",engine="draft"' in line]
    counts = [int(line.rsplit(" ", 1)[1]) for line in run if "_bucket" in line]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 1)
    assert [line.rsplit(" ", 1)[1] for line in run[-2:]] == ["1.5", "1"]


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if not found:
        pytest.skip("promtool is not installed (Debian: prometheus).")
    return found


async def test_promtool_accepts_rules_and_metrics(hands: GatewayHands, promtool: str) -> None:
    subprocess.run([promtool, "check", "rules", str(RULES)], check=True, capture_output=True)
    text = await busy(hands)
    checked = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True)
    assert "error" not in checked.stderr, checked.stderr


def tried_by_promtool(promtool: str, rules: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What the rules' own tests say of these rules."""
    (folder / RULES.name).write_text(rules, encoding="utf-8")
    shutil.copyfile(RULES_TEST, folder / RULES_TEST.name)
    return subprocess.run(
        [promtool, "test", "rules", str(folder / RULES_TEST.name)], text=True, capture_output=True, timeout=60
    )


def test_every_rule_tells_what_it_is_for_and_nothing_else(promtool: str, tmp_path: Path) -> None:
    rules = RULES.read_text(encoding="utf-8")
    tried = tried_by_promtool(promtool, rules, tmp_path)
    assert tried.returncode == 0, tried.stdout + tried.stderr
    for limit, other in (("> 100\n        for: 5m", "> 101\n        for: 5m"), ("> 0.2\n", "> 0.1\n")):
        assert tried_by_promtool(promtool, rules.replace(limit, other), tmp_path).returncode, "or nothing is tried"


def test_every_rule_is_tried_by_promtool() -> None:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    tests = yaml.safe_load(RULES_TEST.read_text(encoding="utf-8"))["tests"]
    told = {one["alertname"] for test in tests for one in test.get("alert_rule_test", ()) if one["exp_alerts"]}
    assert told == {rule["alert"] for group in groups for rule in group["rules"]}


async def test_autoscale_counts_what_runs_so_that_a_busy_fleet_is_not_scaled_down(hands: GatewayHands) -> None:
    await hands.store.ask("HSET", hands.store.keys.instance("gpu-1"), "described", json.dumps(LIVES))
    for _ in range(4):
        await hands.submit()
    await hands.claim()
    answer = (await hands.get("/autoscale?backlog=2")).json
    assert answer["tiers"]["512"] == {"waiting": 3, "running": 1, "instances": 1, "desired": 3}
    assert answer["tiers"]["1024"] == {"waiting": 0, "running": 0, "instances": 0, "desired": 0}
    assert answer["total"] == {"waiting": 3, "running": 1, "instances": 1, "desired": 3}
    assert answer["instances"] == [{"name": "gpu-1", "busy": True}]
    for _ in range(3):
        assert isinstance(await hands.store.claim("gpu-1", "boot", ("512",)), JobRecord)
    assert await hands.view.lag("pending", "512") == 0, "which alone would be 'nothing to do'"
    assert (await hands.get("/autoscale")).json["tiers"]["512"]["desired"] == 4
    assert (await hands.get("/autoscale?backlog=0")).problem()[0] == 422


def test_the_load_of_a_tier_has_all_its_lanes_and_only_instances_that_take_jobs() -> None:
    waiting = {"priority": {"768": 1, "768-sonic": 2}, "pending": {"768": 5, "512": 1}}
    instances = [{"tiers": [512, 768]}, {"tiers": [768], "draining": True}, {"tiers": [768], "unhealthy": "x"}]
    found = loads(waiting, {"768-sonic": 2}, instances, 4)
    assert found[768] == load_of(8, 2, 1, 4)
    assert found[768].desired == 4
    assert found[512].desired == 1


# --- Kubernetes ---


def documents() -> list[dict[str, Any]]:
    return [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [one for one in documents() if one["kind"] == kind]


def instances() -> list[dict[str, Any]]:
    return [one for one in of_kind("Deployment") if one["metadata"]["labels"]["app"] == "sonic-instance"]


def containers(deployment: dict[str, Any]) -> dict[str, Any]:
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(only)


def test_there_is_a_deployment_for_each_tier_and_they_differ_in_nothing_else() -> None:
    texts = set()
    for tier, deployment in zip(TIERS, instances(), strict=True):
        variables = {one["name"]: one.get("value") for one in containers(deployment)["env"]}
        assert variables["SONIC_QUEUE_TIERS"] == str(tier)
        memory = containers(deployment)["resources"]["limits"]["memory"]
        texts.add(json.dumps(deployment).replace(str(tier), "TIER").replace(memory, "MEMORY"))
    assert len(texts) == 1


def test_a_pods_grace_is_longer_than_that_of_its_last_job() -> None:
    (config,) = of_kind("ConfigMap")
    for deployment in instances():
        assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= 15 + float(
            config["data"]["SONIC_QUEUE_GRACE_S"]
        )


def test_every_setting_in_the_manifests_is_one_of_the_product() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in MANIFESTS)
    known = {f"SONIC_QUEUE_{name.upper()}" for name in Settings.__dataclass_fields__}
    assert set(re.findall(r"\bSONIC_QUEUE_[A-Z_]+", text)) <= known


async def test_the_scaler_of_each_tier_asks_for_what_the_gateway_and_the_queue_have(hands: GatewayHands) -> None:
    names = {one["metadata"]["name"] for one in instances()}
    known = {one["metadata"]["name"] for one in of_kind("TriggerAuthentication")}
    for tier, scaled in zip(TIERS, of_kind("ScaledObject"), strict=True):
        spec = scaled["spec"]
        assert spec["scaleTargetRef"]["name"] == f"sonic-{tier}"
        assert spec["scaleTargetRef"]["name"] in names
        web, *streams = spec["triggers"]
        assert {one["authenticationRef"]["name"] for one in spec["triggers"]} == known
        answer = (await hands.get(web["metadata"]["url"].partition(":8190")[2])).json
        for part in web["metadata"]["valueLocation"].split("."):
            answer = answer[part]
        assert answer == 0
        keys = Keys("{sonic}")
        assert [one["metadata"]["stream"] for one in streams] == [
            keys.queue(name, str(tier)) for name in ("priority", "pending")
        ]
        assert {one["metadata"]["consumerGroup"] for one in streams} == {GROUP}


def test_everything_that_is_referred_to_is_there() -> None:
    defined = {(one["kind"], one["metadata"]["name"]) for one in documents()} | {("ConfigMap", "deletion-cost")}
    text = "".join(path.read_text(encoding="utf-8") for path in MANIFESTS)
    for reference, kind in (
        ("secretRef", "Secret"), ("configMapRef", "ConfigMap"), ("configMap", "ConfigMap"), ("secretKeyRef", "Secret"),
    ):  # fmt: skip
        for name in re.findall(rf"\b{reference}: \{{name: ([\w-]+)", text):
            assert (kind, name) in defined
    for name in re.findall(r"claimName: ([\w-]+)", text):
        assert ("PersistentVolumeClaim", name) in defined
    secrets = {one["metadata"]["name"]: one["stringData"] for one in of_kind("Secret")}
    for name, key in re.findall(r"name: ([\w-]+), key: (\w+)", text):
        assert key in secrets[name]
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text(encoding="utf-8"))
    assert sorted(kustomization["resources"]) == [path.name for path in MANIFESTS]
    assert all(one["metadata"]["namespace"] == "sonic" for one in documents() if one["kind"] != "Namespace")


def test_the_schemas_of_kubernetes_accept_the_manifests() -> None:
    held = [one for one in documents() if one["apiVersion"] != "keda.sh/v1alpha1"]
    assert {"Deployment", "Service"} <= {one["kind"] for one in held}
    for one in held:
        kubernetes_validate.validate(one, "1.33", strict=True)


def test_pods_that_run_no_job_are_the_first_to_go_and_only_what_has_changed_is_told() -> None:
    spec = importlib.util.spec_from_file_location("deletion_cost", DEPLOY / "kubernetes" / "deletion_cost.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scale = {"instances": [{"name": "a", "busy": True}, {"name": "b", "busy": False}]}
    assert module.changes(scale, {}) == {"a": module.BUSY, "b": module.IDLE}
    assert module.changes(scale, {"a": module.BUSY, "b": module.BUSY, "gone": "0"}) == {"b": module.IDLE}
    assert int(module.BUSY) > int(module.IDLE)
    assert json.loads(module.patch_of("100")) == {"metadata": {"annotations": {module.COST: "100"}}}
    assert (
        set(re.findall(r"^(?:import|from) (\w+)", Path(module.__file__).read_text(), re.M)) <= sys.stdlib_module_names
    )
