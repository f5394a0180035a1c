"""Every error of the bridge, each with one sentence for a person.

BridgeError
├── ConfigError           a setting is wrong; ``setting`` names it
├── QueueUnavailable      the queue's Redis server cannot be used: not there, wrong password, too old
│   └── QueueForbidden    its user lacks a right that the queue needs
├── RedisServerError      the queue's own database server cannot be found, started or stopped
├── JobError              a job cannot be run as it is; trying again changes nothing
│   ├── BadJob            a field or a parameter of a job is wrong
│   ├── BadWorkflow       a workflow of a client is no job here; ``node_errors`` says where it is wrong
│   ├── ObjectMissing         there is no object of that key in an object store
│   └── TemplateError     a job template is missing or is none
├── FileUnreachable       an input or output of a job cannot be reached now; it may be later
├── BacklogFull           a caller has as many jobs that have not ended as it may have
├── LeaseLost             another instance has this job now
├── StartStopped          an operator's wish ends this start; ``cause`` is "cancelled" or "drained"
├── VideoNotMade          a job that somebody waited for has failed or was cancelled
├── InstanceError         a ComfyUI server could not be started, or is gone
├── FleetError            a host's ComfyUI servers cannot be run as asked: no such card, a folder in use
├── PromptRejected        ComfyUI refused the graph before running it (a wrong input, a missing node)
├── PromptFailed          a node failed while the graph ran
├── PromptInterrupted     somebody interrupted the prompt
├── PromptOverdue         the prompt took too long, or said nothing for too long, and was interrupted
│   └── PromptStuck       and did not end then: this ComfyUI can run nothing any more
├── PromptWithdrawn       a prompt that had not begun was taken back, for a job that goes first
├── BelowQuality          the video was made, but is not good enough; another seed may be
└── PairingError          what was handed in cannot be read at all
    ├── ManifestError     a line of a CSV or JSONL manifest is wrong
    └── ArchiveError      a ZIP is damaged, not safe to unpack, or there is no room for it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Names of the error classes with which a node says that the caller's material is at fault; a retry cannot help.
BAD_INPUT_TYPES = frozenset({"BadInput", "BadPortrait", "NoFace", "BadSound", "BadVideo", "BadSetting"})


class BridgeError(Exception):
    """Base of everything this package raises on purpose; ``str(error)`` is the sentence for a person."""


class ConfigError(BridgeError):
    """Raised when a setting is wrong; ``setting`` is its name."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(f"{setting}: {message}")
        self.setting = setting


class QueueUnavailable(BridgeError):
    """Raised when the queue's Redis server cannot be used; no message holds its password."""


class QueueForbidden(QueueUnavailable):
    """Raised when the server's user lacks a right that the queue needs; the sentence names it."""


class RedisServerError(BridgeError):
    """Raised when the queue's own database server cannot be found, started or stopped."""


class JobError(BridgeError):
    """Raised when a job cannot be run as it is, so that another attempt changes nothing."""


class BadJob(JobError):
    """Raised when a field or a parameter of a job is wrong; ``field`` is its name."""

    def __init__(self, field: str, message: str = "") -> None:
        # Both in one text, too: so it is made again in another process, by pickle and by Celery.
        super().__init__(f"{field}: {message}" if message else field)
        self.field = field if message else field.partition(": ")[0]


class BadWorkflow(JobError):
    """Raised when a workflow of a client cannot be a job; ``node_errors``: by node, (input, what is wrong with it)."""

    def __init__(self, message: str, node_errors: Mapping[str, Sequence[tuple[str, str]]] | None = None) -> None:
        super().__init__(message)
        self.node_errors = dict(node_errors or {})

    @classmethod
    def at(cls, node_id: str, field: str, reason: str) -> BadWorkflow:
        """The error about one input of one node. reason: the end of a sentence that begins with the input's name."""
        if not node_id:
            return cls(reason)
        where = f"Node {node_id[:100]}: {field}" if field else f"Node {node_id[:100]}"
        return cls(f"{where} {reason}", {node_id: [(field, reason)]})


class AddressRefused(JobError):
    """Raised when a web address that came with a job may not be reached; no message holds its query or password."""


class ObjectMissing(JobError):
    """Raised when an object store has no object of that key."""


class TemplateError(JobError):
    """Raised when a job template is missing, or a file in the templates' folder is none."""


class FileUnreachable(BridgeError):
    """Raised when an input or an output of a job cannot be reached now, such as on a network drive that is away."""


class BacklogFull(BridgeError):
    """Raised when a caller has as many jobs that have not ended as its API key allows; nothing was queued."""


class LeaseLost(BridgeError):
    """Raised when a job belongs to another instance now; what this one did for it does not count."""


class StartStopped(BridgeError):
    """Raised when a start ends because an operator wishes so; ``cause`` is "cancelled" or "drained"."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"An operator has {cause} it.")
        self.cause = cause


class VideoNotMade(BridgeError):
    """Raised for whoever waits for one job's video, when the job has failed or was cancelled."""


class InstanceError(BridgeError):
    """Raised when a ComfyUI server cannot be started, does not answer, or has ended."""


class FleetError(BridgeError):
    """Raised when the ComfyUI servers of a host cannot be run as it was asked, or none are run in a folder."""


class BelowQuality(BridgeError):
    """Raised when a video is whole but not good enough, and another seed has not been tried yet."""


class PromptRejected(BridgeError):
    """Raised when ComfyUI refuses a graph before running it.

    bad_input: true when a node's own check of its material said no, so that only this job is at fault.
    """

    def __init__(self, message: str, *, bad_input: bool = False) -> None:
        super().__init__(message)
        self.bad_input = bad_input


class PromptFailed(BridgeError):
    """Raised when a node fails while the graph runs.

    node_id, node_type: where it failed. error_type: the exception's class name without its module.
    """

    def __init__(self, message: str, *, node_id: str = "", node_type: str = "", error_type: str = "") -> None:
        super().__init__(message)
        self.node_id = node_id
        self.node_type = node_type
        self.error_type = error_type

    @property
    def bad_input(self) -> bool:
        """True when the material is at fault: trying again changes nothing."""
        return self.error_type in BAD_INPUT_TYPES


class PromptInterrupted(BridgeError):
    """Raised when the prompt was interrupted before it finished."""


class PromptOverdue(BridgeError):
    """Raised when a prompt is interrupted since it took longer than its limit, or said nothing for too long."""


class PromptStuck(PromptOverdue):
    """Raised when a prompt does not end when it is interrupted, or the thread that runs prompts has ended."""


class PromptWithdrawn(BridgeError):
    """Raised when a prompt that had not begun was taken back; nothing has been lost by it."""


class PairingError(BridgeError):
    """Raised when a folder, manifest or ZIP of pictures and sounds cannot be read at all."""


class ManifestError(PairingError):
    """Raised when a manifest is wrong; it names the first wrong line and says how many more there are."""


class ArchiveError(PairingError):
    """Raised when a ZIP is refused or could not be unpacked; nothing of it is left behind."""
