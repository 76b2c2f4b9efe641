"""Every error that this package raises on purpose, in one tree.

Catch `ErasureError` to catch them all; each class below it answers one question of the caller.

    ErasureError
    ├── ConfigError                     a setting, concept or name that cannot be used (also a ValueError)
    ├── ArtifactError                   something is wrong with an artifact
    │   ├── ArtifactNotFoundError       no such folder, repository, revision or file
    │   ├── ArtifactFormatError         bytes or JSON that are not what the format says
    │   ├── ArtifactVersionError        written in a format that this version does not know
    │   ├── ArtifactIntegrityError      sha256 differs: corrupted or exchanged
    │   ├── ArtifactMismatchError       tensor names, shapes, dtypes or values differ from the manifest
    │   ├── BaseModelMismatchError      made for a base model of other shapes
    │   ├── UnverifiedArtifactError     nothing to verify it with, and not explicitly allowed
    │   ├── SignatureError              unsigned or wrongly signed
    │   │   └── OtherArtifactError      not the artifact that was expected
    │   └── PublishError                not fit to be published, or not taken by the Hub
    ├── ErasureStateError               a pipeline is not in the state that the call needs
    │   ├── ErasureRequiredError        an erased pipeline was asked for, but no erasure was given
    │   ├── ErasureNotActiveError       the loaded weights are not (any more) the erased ones
    │   └── ErasureBypassError          an input would go around the erasure (foreign embeddings, clip_skip)
    ├── TrainingError                   a training run or closed-form solve that cannot go on
    ├── EvaluationError                 a measurement that would not be honest or cannot be made
    ├── NotFiniteError                  a picture or a search is not finite (also a FloatingPointError)
    └── MissingDependencyError          an optional package is needed (also an ImportError)

Every message has three parts: what is wrong (with the value), what was expected, what to do.
"""


class ErasureError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(ErasureError, ValueError):
    """A setting, concept or name cannot be used."""


class ArtifactError(ErasureError):
    """Something is wrong with an artifact."""


class ArtifactNotFoundError(ArtifactError):
    """There is no such folder, repository, revision or file."""


class ArtifactFormatError(ArtifactError):
    """Bytes or JSON that are not what the artifact format says."""


class ArtifactVersionError(ArtifactError):
    """The artifact is written in a format version that this library does not know."""


class ArtifactIntegrityError(ArtifactError):
    """A file's sha256 differs from the manifest: it was corrupted or exchanged."""


class ArtifactMismatchError(ArtifactError):
    """Tensor names, shapes, dtypes or values differ from what the manifest promises."""


class BaseModelMismatchError(ArtifactError):
    """The artifact was made for a base model of other shapes."""


class UnverifiedArtifactError(ArtifactError):
    """There is nothing to verify the weights with, and this was not explicitly allowed."""


class SignatureError(ArtifactError):
    """The artifact is unsigned or wrongly signed."""


class OtherArtifactError(SignatureError):
    """The artifact is another one than was expected: other concepts, method, base, or an older version."""


class PublishError(ArtifactError):
    """What was to be pushed is not fit to be published, or the Hub did not take it."""


class ErasureStateError(ErasureError):
    """A pipeline is not in the state that the call needs."""


class ErasureRequiredError(ErasureStateError):
    """An erased pipeline was asked for, but no erasure was given."""


class ErasureNotActiveError(ErasureStateError):
    """The loaded weights are not, or are no longer, the erased ones."""


class ErasureBypassError(ErasureStateError):
    """An input would go around the erasure."""


class TrainingError(ErasureError):
    """A training run or closed-form solve cannot go on."""


class EvaluationError(ErasureError):
    """A measurement would not be honest or cannot be made."""


class NotFiniteError(ErasureError, FloatingPointError):
    """A picture, or a number of a search, is not finite; an attack counts the prompt as failed."""


class MissingDependencyError(ErasureError, ImportError):
    """An optional package is needed."""
