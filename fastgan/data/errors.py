"""The one error of everything that reads data."""


class DataError(ValueError):
    """A dataset that is missing, damaged or not what it should be. The message is one line and names the file."""
