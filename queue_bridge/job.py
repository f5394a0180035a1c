"""A job: what it asks for, as one JSON object, and what is known of it while it lives."""

from __future__ import annotations

import json
import re
import secrets
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

from .errors import BadJob
from .job_progress import WAITING
from .packed import unpacked
from .states import State
from .web_address import is_web, safe_address, without_secrets
from .webhook import what_is_wrong_with_url

Priority = Literal["normal", "priority"]
Value = int | float | str | bool
PLAIN = (int, float, str)  # the types of a value; true and false are numbers, too
CLASS_OF: Mapping[str, str] = MappingProxyType({"priority": "priority", "normal": "pending"})
PRIORITY_OF: Mapping[str, str] = MappingProxyType({name: priority for priority, name in CLASS_OF.items()})
DEFAULT_TEMPLATE = "portrait_speaks"
RAW = "raw:prompt"  # in the place of a template's name, of a job that carries its prompt itself
FILE = "__file__"  # in such a prompt, the key of an object that names a file by its address, in the place of its name
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
# Of W3C Trace Context: version, trace, parent, flags; a later version may say more.
TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
LARGEST_NUMBER = 2**64
LONGEST_CONSENT_ID = 200
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MOST_LABELS, LONGEST_LABEL = 16, 256
SPEC_BYTES = 65_536  # of a job as JSON; lua/common.lua has the same limit. The longest real one is below 2 KB.
SURELY_SMALL = 4096  # letters, each up to six bytes of JSON, leave room for the longest labels and consent_id
NUMBER_LETTERS = 32  # of the longest number
# What a client may write; image_url and audio_url are other names of image and audio.
FIELDS = frozenset(
    {
        "task_id",
        "name",
        "image",
        "audio",
        "image_url",
        "audio_url",
        "config",
        "priority",
        "workflow",
        "output",
        "batch",
        "consent_id",
        "labels",
        "prompt",
        "callback",
        "traceparent",
    }
)
FIRST_TOKEN = 1  # of a job's first start; lua/common.lua says it, too
RARE = ("consent_id", "labels", "prompt", "traceparent")  # among what a job says


def new_job_id() -> str:
    """A new id such as ``tsk_20261124_7f3a9c0b51de``."""
    return f"tsk_{datetime.now(UTC):%Y%m%d}_{secrets.token_hex(6)}"


@dataclass(frozen=True)
class JobSpec:
    """What a job asks for.

    image, audio: URIs (``file:///...``, ``https://...``, ``s3://bucket/key``). output: one of a file or an object, or a
    path below the instances' ``results``; ``{task_id}`` and ``{batch}`` are filled in.
    config: parameters of the template, checked by it.
    name: for people, such as the video's file name. batch: the id of what was submitted together, or ''.
    consent_id: where the operator finds the consent of the person in the picture, or ''; nothing here looks into it.
    labels: names and texts by which its client finds it again.
    callback: the http(s) address that is told of its end, or ''.
    traceparent: the trace it belongs to (W3C Trace Context), or ''.
    prompt: of a job without a template (``workflow`` is RAW): what ComfyUI is to run, with files as ``{FILE: URI}``.
    """

    task_id: str
    image: str
    audio: str
    output: str
    name: str = ""
    config: Mapping[str, Value] = field(default_factory=dict)
    priority: Priority = "normal"
    workflow: str = DEFAULT_TEMPLATE
    batch: str = ""
    consent_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    callback: str = ""
    prompt: Mapping[str, Any] = field(default_factory=dict)
    traceparent: str = ""

    @property
    def files(self) -> dict[str, str]:
        """The addresses of what is laid into ComfyUI's input folder, by a name for each."""
        if self.workflow != RAW:
            return {"image": self.image, "audio": self.audio}
        return {name: uri for name, (uri, _) in files_in(self.prompt).items()}

    @property
    def suffix(self) -> str:
        """What its result's name ends with: of a video, or of a ZIP with all that a prompt has saved."""
        return ".zip" if self.workflow == RAW else ".mp4"

    def to_json(self) -> str:
        mappings = {name: dict(getattr(self, name)) for name in ("config", "labels", "prompt")}
        plain = {**self.__dict__, **mappings}
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))

    def is_surely_small(self) -> bool:
        """Whether its JSON cannot be near SPEC_BYTES; found more quickly than its size."""
        texts = (self.task_id, self.image, self.audio, self.output, self.name, self.workflow, self.batch, self.callback)
        others = (*self.config, *(value for value in self.config.values() if isinstance(value, str)))
        letters = sum(map(len, texts)) + sum(map(len, others))
        return not self.prompt and letters + NUMBER_LETTERS * len(self.config) < SURELY_SMALL

    def asked(self) -> dict[str, Any]:
        """What is kept of it beside id, class, batch and callback, kept on their own; without what is not said."""
        fields: dict[str, Any] = {"image": self.image, "audio": self.audio, "output": self.output, "name": self.name}
        if not (self.image and self.audio and self.output and self.name):
            fields = {name: value for name, value in fields.items() if value}
        if self.config:
            fields["config"] = dict(self.config)
        if self.workflow and self.workflow != DEFAULT_TEMPLATE:
            fields["workflow"] = self.workflow
        for name in RARE:
            if value := getattr(self, name):
                fields[name] = value if isinstance(value, str) else dict(value)
        return fields

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> JobSpec:
        """A job as a client wrote it. Raises BadJob with the field at fault."""
        if not fields.keys() <= FIELDS:
            unknown = sorted(set(fields) - FIELDS)
            raise BadJob(unknown[0], f"is no field of a job; the fields are {', '.join(sorted(FIELDS))}.")
        task_id = _text(fields, "task_id", "") or new_job_id()
        _check_no_password(fields)
        for name in ("task_id", "batch"):
            value = _text(fields, name, "")
            if value and not ID.fullmatch(value):
                raise BadJob(name, "takes up to 100 letters, digits, dots, dashes and underscores.")
        config = fields.get("config") or {}
        if not isinstance(config, Mapping):
            raise BadJob("config", "is no object with the parameters of the template.")
        for name, value in config.items():
            if not isinstance(value, PLAIN):
                raise BadJob(f"config.{name}", "is no number, text, true or false.")
            if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
                raise BadJob(f"config.{name}", "is a larger number than any parameter takes.")
        priority = _text(fields, "priority", "normal")
        if priority not in CLASS_OF:
            raise BadJob("priority", f"'{priority}' is not one of {', '.join(sorted(CLASS_OF))}.")
        raw = _text(fields, "workflow", "") == RAW
        spec = cls(
            task_id=task_id,
            image="" if raw else _required(fields, "image", "image_url"),
            audio="" if raw else _required(fields, "audio", "audio_url"),
            output=_required(fields, "output"),
            name=_text(fields, "name", ""),
            config=dict(config),
            priority="priority" if priority == "priority" else "normal",
            workflow=_text(fields, "workflow", DEFAULT_TEMPLATE),
            batch=_text(fields, "batch", ""),
            consent_id=checked_consent_id(_text(fields, "consent_id", "")),
            labels=checked_labels(fields.get("labels") or {}),
            callback=checked_callback(_text(fields, "callback", "")),
            prompt=_prompt(fields.get("prompt") or {}, raw),
            traceparent=valid_traceparent(_text(fields, "traceparent", "")),
        )
        if not spec.is_surely_small():
            _check_size(len(spec.to_json().encode(errors="replace")))
        return spec

    @classmethod
    def from_json(cls, text: str) -> JobSpec:
        """The job that ``to_json`` wrote; BadJob when it is none."""
        _check_size(len(text))
        fields = _parsed(text, "job")
        if not isinstance(fields, dict):
            raise BadJob("job", "is no JSON object.")
        return cls.parse(fields)


def checked_consent_id(text: str) -> str:
    """The id itself. Raises BadJob for one that is too long or holds what cannot be seen."""
    if len(text) > LONGEST_CONSENT_ID or any(unicodedata.category(letter).startswith("C") for letter in text):
        raise BadJob("consent_id", f"takes up to {LONGEST_CONSENT_ID} characters, and no control characters.")
    return text


def files_in(prompt: Mapping[str, Any]) -> dict[str, tuple[str, tuple[tuple[str, str], ...]]]:
    """The files that a prompt names: address, and every (node, input) where it stands, by a name for each file."""
    found: dict[str, tuple[tuple[str, str], ...]] = {}
    for node_id, node in prompt.items():
        for name, value in node["inputs"].items():
            if isinstance(value, dict) and FILE in value:
                uri = str(value[FILE])
                found[uri] = (*found.get(uri, ()), (node_id, name))
    return {f"file{number}": one for number, one in enumerate(found.items())}


def _prompt(prompt: object, raw: bool) -> dict[str, Any]:
    """The prompt itself. Raises BadJob for what is none, and for one beside a template."""
    if not isinstance(prompt, dict) or (prompt and not raw):
        raise BadJob("prompt", f"is no prompt, or stands beside another workflow than '{RAW}'.")
    for node in prompt.values():
        if not isinstance(node, dict) or not isinstance(node.get("inputs"), dict) or "class_type" not in node:
            raise BadJob("prompt", "is no prompt in ComfyUI's API format.")
    return prompt


def checked_labels(labels: object) -> dict[str, str]:
    """The labels themselves. Raises BadJob for those that cannot be kept."""
    if not isinstance(labels, Mapping):
        raise BadJob("labels", "is no object with names and texts.")
    if len(labels) > MOST_LABELS:
        raise BadJob("labels", f"are {len(labels)}, and {MOST_LABELS} are the limit.")
    for name, text in labels.items():
        shown = str(name)[:64].encode("utf-8", "replace").decode()
        if not isinstance(name, str) or not LABEL.fullmatch(name):
            raise BadJob("labels", f"'{shown}' is no name: up to 64 letters, digits, dots, dashes and underscores.")
        if not isinstance(text, str) or len(text) > LONGEST_LABEL:
            raise BadJob("labels", f"'{shown}' is no text of up to {LONGEST_LABEL} characters.")
        if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs") for letter in text):
            raise BadJob("labels", f"'{shown}' holds characters that cannot be seen.")
    return dict(labels)


def valid_traceparent(text: str) -> str:
    """The traceparent in version 00, or '' for what is none, as its specification wants it: that begins a new trace."""
    found = TRACEPARENT.fullmatch(text)
    if not found or found[1] == "ff" or (found[1] == "00" and found[5]):
        return ""
    _, trace_id, span_id, flags, _ = found.groups()
    return f"00-{trace_id}-{span_id}-{flags}" if int(trace_id, 16) and int(span_id, 16) else ""


def checked_callback(text: str) -> str:
    """The address itself. Raises BadJob for one to which nothing can be delivered."""
    if text and (reason := what_is_wrong_with_url(text)):
        raise BadJob("callback", f"'{safe_address(text)}' {reason}")
    return text


def _check_no_password(fields: Mapping[str, Any]) -> None:
    """What a job names is kept and shown, so nothing secret may be in it."""
    for name in ("image", "audio", "image_url", "audio_url", "output"):
        value = fields.get(name)
        if isinstance(value, str) and "@" in value.partition("://")[2].partition("/")[0]:
            raise BadJob(name, "the address holds a user's name or a password; leave it out.")


def _shown(uri: str) -> str:
    """An input's address without the query, in which links with a time limit have their signature."""
    return without_secrets(uri) if is_web(uri) else uri


def _check_size(count: int) -> None:
    if count > SPEC_BYTES:
        raise BadJob("job", f"takes {count} bytes, and {SPEC_BYTES} are the limit; it names files and holds none.")


def _parsed(text: str, field: str, of: Callable[[str], Any] = json.loads) -> Any:
    """JSON that anybody may have written. Raises BadJob."""
    try:
        return of(text)
    except ValueError as error:
        raise BadJob(field, f"is no JSON ({error}).") from error
    except RecursionError as error:
        raise BadJob(field, "is JSON that is nested too deeply.") from error


def _text(fields: Mapping[str, Any], name: str, default: str) -> str:
    value = fields.get(name, default)
    if value is None:
        return default
    if not isinstance(value, str):
        raise BadJob(name, "is no text.")
    return value


def _required(fields: Mapping[str, Any], *names: str) -> str:
    given = [value for name in names if (value := _text(fields, name, ""))]
    if len(given) != 1:
        raise BadJob(names[0], "is missing." if not given else f"is given twice, as {' and as '.join(names)}.")
    return given[0]


def _document(fields: Mapping[str, str]) -> dict[str, Any]:
    """What the pieces 0, 1, ... of a hash hold, or its field ``spec`` where somebody has written that."""
    pieces: list[str] = []
    while (piece := fields.get(str(len(pieces)))) is not None:
        pieces.append(piece)
    text = fields["spec"] if "spec" in fields else "".join(pieces)
    found = _parsed(text, "job", of=lambda given: unpacked(given.encode("utf-8", "surrogateescape")))
    if not isinstance(found, dict):
        raise BadJob("job", "is no JSON object.")
    return found


def _history(value: str | list[dict[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    entries = [_parsed(line, "history") for line in value.splitlines() if line] if isinstance(value, str) else value
    return tuple(entries)


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """What the queue knows of a job. Times are seconds since 1970; percent is 0..100 and never goes back.

    attempt: starts so far. failures, crashes, degradations, device_faults, redraws: what its budgets were used for.
    history: one entry for each start that did not complete. result: what the completed start reported.
    cancelling: it runs, and its owner is to end it. caller: the id of the API key it came with, or ''.
    """

    task_id: str
    state: State
    spec: JobSpec
    lane: str
    job_class: str
    token: int
    attempt: int
    failures: int = 0
    crashes: int = 0
    degradations: int = 0
    device_faults: int = 0
    redraws: int = 0
    percent: float = 0.0
    stage: str = ""
    seconds_left: float | None = None
    owner: str
    submitted_s: float
    started_s: float | None = None
    ended_s: float | None = None
    error: str = ""
    error_kind: str = ""
    staged: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    history: tuple[Mapping[str, Any], ...] = ()
    cancelling: bool = False
    caller: str = ""

    @classmethod
    def from_hash(cls, fields: Mapping[str, str], task_id: str) -> JobRecord:
        """The record in this job's hash, as lua/*.lua write it. Raises BadJob when somebody else has changed it."""
        try:
            return cls._from_hash(fields, task_id)
        except KeyError as error:
            raise BadJob(str(error.args[0]), "is missing.") from error
        except (TypeError, ValueError) as error:  # a number or a state
            raise BadJob("record", f"holds what it cannot hold ({error}).") from error

    @classmethod
    def handed_over(cls, fields: Mapping[str, str], owner: str) -> JobRecord:
        """The record of a job that was made and started for its owner in one step, from what that step has told it.

        fields: as hand_over in lua/common.lua writes them. Nobody else can have changed them, so they are not looked
        into again, which whoever was asleep does slowly. Raises BadJob.
        """
        try:
            task_id, submitted_s = fields["id"], int(fields["submitted_ms"]) / 1000
            asked = unpacked(fields["spec"].encode("utf-8", "surrogateescape"))
            asked["task_id"], asked["priority"] = task_id, PRIORITY_OF[fields["class"]]
            asked["batch"], asked["callback"] = fields.get("batch", ""), fields.get("callback", "")
            return cls(
                task_id=task_id,
                state=State.RUNNING,
                spec=JobSpec(**asked),
                lane=fields["lane"],
                job_class=fields["class"],
                token=FIRST_TOKEN,
                attempt=1,
                stage=WAITING,
                owner=owner,
                submitted_s=submitted_s,
                started_s=submitted_s,
                caller=fields.get("caller", ""),
            )
        except (KeyError, TypeError, ValueError):  # of another version, or a prompt; or this says what is wrong with it
            started = {"token": str(FIRST_TOKEN), "attempt": "1", "stage": WAITING, "owner": owner}
            times = {"started_ms": fields.get("submitted_ms", "")}
            return cls.from_hash({**fields, "state": State.RUNNING, **started, **times}, fields["id"])

    @classmethod
    def spoilt(cls, fields: Mapping[str, str], task_id: str, why: str) -> JobRecord:
        """What can be shown of a record that ``from_hash`` refuses."""
        known = fields.get("state", "") in set(State)
        return cls(
            task_id=task_id,
            state=State(fields["state"]) if known else State.QUEUED,
            spec=JobSpec(task_id, "", "", "", batch=fields.get("batch", "")),
            lane=fields.get("lane", ""),
            job_class=fields.get("class", ""),
            token=0,
            attempt=0,
            owner=fields.get("owner", ""),
            submitted_s=0.0,
            error=fields.get("error", "") or f"The record of this job in the queue is spoilt: {why}",
            error_kind="bad input",
            caller=fields.get("caller", ""),
        )

    @classmethod
    def _from_hash(cls, fields: Mapping[str, str], task_id: str) -> JobRecord:
        document = _document(fields)
        known: dict[str, Any] = {**document, **fields}
        state = State(fields["state"])
        asked = {name: one for name, one in document.items() if name in FIELDS}
        job_class = known.get("class", CLASS_OF["normal"])
        if job_class not in PRIORITY_OF:
            raise BadJob("class", f"is none of {', '.join(PRIORITY_OF)}.")
        batch, callback = known.get("batch", ""), known.get("callback", "")
        asked |= {"task_id": task_id, "priority": PRIORITY_OF[job_class], "batch": batch, "callback": callback}

        def seconds(name: str) -> float | None:
            return int(known[name]) / 1000 if known.get(name) else None

        def parsed(name: str) -> Mapping[str, Any] | None:
            value = known.get(name) or None
            if isinstance(value, str):
                value = _parsed(value, name)
            if value is not None and not isinstance(value, dict):
                raise BadJob(name, "is no JSON object.")
            return value

        result = parsed("result")
        if state is State.COMPLETED:  # what its job asked for is not said twice
            result = {"output": asked.get("output", ""), **(result or {})}
        return cls(
            task_id=task_id,
            state=state,
            spec=JobSpec.parse(asked),
            lane=known["lane"],
            job_class=job_class,
            token=int(known.get("token", int(state is State.COMPLETED))),  # lua/common.lua leaves the first one out
            attempt=int(known.get("attempt") or (result or {}).get("attempt", 0)),
            failures=int(known.get("failures", 0)),
            crashes=int(known.get("crashes", 0)),
            degradations=int(known.get("degradations", 0)),
            device_faults=int(known.get("device_faults", 0)),
            redraws=int(known.get("redraws", 0)),
            percent=100.0 if state is State.COMPLETED else float(known.get("percent", 0)),
            stage=known.get("stage", ""),
            seconds_left=float(known["seconds_left"]) if known.get("seconds_left") else None,
            owner=known.get("owner", ""),
            submitted_s=seconds("submitted_ms") or 0.0,
            started_s=seconds("started_ms"),
            ended_s=seconds("ended_ms"),
            error=known.get("error", ""),
            error_kind=known.get("error_kind", ""),
            staged=parsed("staged"),
            result=result,
            history=_history(known.get("history", "")),
            cancelling=bool(known.get("cancel_ms")),
            caller=fields.get("caller", ""),
        )

    def completed(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """What is kept of it once it has completed with this result; ``from_hash`` reads it again.

        Its parameters are not: the video says them.
        """
        asked = self.spec.asked()
        asked.pop("config", None)
        asked.pop("prompt", None)
        asked |= {name: _shown(asked[name]) for name in ("image", "audio") if name in asked}
        fields = {
            **asked,
            "class": self.job_class if self.job_class != CLASS_OF["normal"] else "",
            "lane": self.lane,
            "batch": self.spec.batch,
            "callback": self.spec.callback,
            "submitted_ms": round(self.submitted_s * 1000),
            "started_ms": round((self.started_s or 0) * 1000),
            "failures": self.failures,
            "crashes": self.crashes,
            "degradations": self.degradations,
            "device_faults": self.device_faults,
            "redraws": self.redraws,
            "history": list(self.history),
            "attempt": self.attempt if result.get("attempt") != self.attempt else 0,
            "result": {name: value for name, value in result.items() if name != "output" or value != self.spec.output},
        }
        return {name: value for name, value in fields.items() if value or name == "result"}

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``: plain values only."""
        hidden = {"spec", "staged", "token", "job_class"}
        plain = {name: value for name, value in self.__dict__.items() if name not in hidden}
        spec = json.loads(self.spec.to_json())
        del spec["task_id"]
        spec["callback"] = spec["callback"] and safe_address(spec["callback"])  # what is behind it may be secret
        spec |= {name: _shown(spec[name]) for name in ("image", "audio")}
        return {**plain, "state": str(self.state), "history": list(self.history), **spec}
