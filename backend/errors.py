"""The errors that labelclimb raises on purpose.

LabelclimbError
|-- SettingsError          a setting is missing or wrong            (exit 2)
|-- InvalidPayload         the caller sent something unusable       (400)
|-- NotAuthorised          wrong or missing credentials             (401)
|-- UnknownThing           no such project, task, version, strategy (404)
|-- LabelConfigError       the label config cannot be served        (422)
|-- ImageError             an image cannot be fetched or decoded    (422)
|-- LabelStudioError       Label Studio refused                     (502)
|   `-- LabelStudioDown    it cannot be reached: try again later    (502)
|-- QueueError             Redis is down                            (503)
|   `-- LockHeld           another process is at it, try again      (503)
|-- ChildFailed            a supervised process died or never woke  (500)
|-- VersionExists          a version's number is taken              (409)
|-- JobOver                a job has ended, or was cancelled        (409)
|-- OutOfMemory            too little even for the smallest batch   (507)
|-- CorruptVersion         a version's files do not match digests   (500)
`-- StorageError           no room for versions, or no way to them  (503)
"""

from __future__ import annotations


class LabelclimbError(Exception):
    """Root of all errors that we raise on purpose; its text says what, the value and the fix."""


class SettingsError(LabelclimbError):
    """A setting is missing or has a value that cannot work."""


class InvalidPayload(LabelclimbError):
    """A request or event that does not have the documented form."""


class NotAuthorised(LabelclimbError):
    """Wrong or missing credentials."""


class UnknownThing(LabelclimbError):
    """A project, task, version or strategy that does not exist here."""


class LabelConfigError(LabelclimbError):
    """A label config without a control that labelclimb can serve."""


class ImageError(LabelclimbError):
    """An image that cannot be fetched or decoded."""


class LabelStudioError(LabelclimbError):
    """Label Studio refused a call; `status` is None when there was no answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class LabelStudioDown(LabelStudioError):
    """Label Studio cannot be reached now; the same call may succeed later."""


class QueueError(LabelclimbError):
    """Redis cannot be reached."""


class LockHeld(QueueError):
    """Another process does what is done by one at a time, or has waited longer to do it."""


class ChildFailed(LabelclimbError):
    """A supervised process died or was not ready in time; the text ends with its last log lines."""


class VersionExists(LabelclimbError):
    """A version's number is taken; versions are written once."""


class JobOver(LabelclimbError):
    """A job that has ended cannot be cancelled, and one that was cancelled does not go on."""


class OutOfMemory(LabelclimbError):
    """The memory is too small even for the smallest batches."""


class CorruptVersion(LabelclimbError):
    """A version's files are missing or do not match their digests."""


class StorageError(LabelclimbError):
    """The place of the versions is full, or cannot be reached."""


HTTP_STATUS: dict[type[LabelclimbError], int] = {
    SettingsError: 500,
    InvalidPayload: 400,
    NotAuthorised: 401,
    UnknownThing: 404,
    LabelConfigError: 422,
    ImageError: 422,
    LabelStudioError: 502,
    QueueError: 503,
    ChildFailed: 500,
    VersionExists: 409,
    JobOver: 409,
    OutOfMemory: 507,
    CorruptVersion: 500,
    StorageError: 503,
}
