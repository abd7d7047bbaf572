"""What can be wrong with a compressed file, or with the model that reads it."""

from jimgen.errors import UserError


class DamagedFile(UserError):
    """The file is not one of ours, is cut off, or has content that no encoder writes."""


class OtherModel(UserError):
    """The file was compressed by another model, by another kind of model, or where numbers come out differently."""


class TooLarge(UserError):
    """There are more pixels than one file may hold."""


class UnusableModel(UserError):
    """The weights or tables of a run cannot code: they are not finite, or too large for integer arithmetic."""
