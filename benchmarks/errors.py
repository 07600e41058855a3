"""What can go wrong with a measurement. Imports nothing of the project."""


class BenchmarkError(Exception):
    """One sentence: the cause and what to do."""


class WrongAnswer(BenchmarkError):
    """A server answered something else than what lies in the directory, so its figures mean nothing."""
