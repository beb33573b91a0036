"""The one exception that a user may see, and the exit codes of every verb."""

EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_USER = 2


class PunaError(Exception):
    """A mistake that the user can mend: what is wrong, where, and how to mend it.

    The command line prints it as one line and exits with 2. It never carries a traceback to the user.
    """

    def __init__(self, what: str, *, where: str | None = None, mend: str | None = None) -> None:
        self.what, self.where, self.mend = what, where, mend
        super().__init__(self.line())

    def line(self) -> str:
        """The whole message on one line: ``where: what; mend``."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        text = f"{text}; {self.mend}" if self.mend else text
        # A stranger's file may put anything into it: what steers a terminal does not reach one.
        return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
