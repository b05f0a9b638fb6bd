"""What an importer or exporter cannot represent."""

__all__ = ["UnsupportedModel"]


class UnsupportedModel(ValueError):  # noqa: N818  (what it is, not that it is an error)
    """A model of another library, or a part of one, that has no counterpart here. The text names the format, the node,
    the operator and the attribute.

        >>> recurra.formats.nam.load_nam({"architecture": "WaveNet"})
        Traceback (most recent call last):
            ...
        recurra.formats.unsupported.UnsupportedModel: NAM: architecture: expected 'LSTM', got 'WaveNet'
    """
