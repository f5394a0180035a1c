"""Every error of the bridge, each with one sentence for a person.

BridgeError
├── InstanceError         a ComfyUI server could not be started, or is gone
├── PromptRejected        ComfyUI refused the graph before running it (a wrong input, a missing node)
├── PromptFailed          a node failed while the graph ran
├── PromptInterrupted     somebody interrupted the prompt
├── PairingError          the folder itself cannot be read
├── RedisServerError      the queue's own database server cannot be found, started or stopped
└── QueueUnavailable      the queue's database cannot be reached, or not be used as it is
"""

from __future__ import annotations

# Names of the error classes with which a node says that the caller's material is at fault; a retry cannot help.
BAD_INPUT_TYPES = frozenset({"BadInput", "BadPortrait", "NoFace", "BadSound", "BadSetting"})


class BridgeError(Exception):
    """Base of everything this package raises on purpose; ``str(error)`` is the sentence for a person."""


class InstanceError(BridgeError):
    """Raised when a ComfyUI server cannot be started, does not answer, or has ended."""


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


class PairingError(BridgeError):
    """Raised when a folder of pictures and sounds cannot be read at all."""


class RedisServerError(BridgeError):
    """Raised when the queue's own database server cannot be found, started or stopped."""


class QueueUnavailable(BridgeError):
    """Raised when the queue's database cannot be reached, refuses us, or is not fit for a queue."""
