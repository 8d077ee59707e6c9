"""The one way in which the server refuses a request."""


class RequestError(Exception):
    """A request that is answered by a sentence for its sender, in place of a result.

    Args:
        message: What was expected, what arrived and what to do; never a path of the server.
        status: Status code of the answer.
    """

    def __init__(self, message: str, status: int) -> None:
        """Keep the status beside the message."""
        super().__init__(message)
        self.status = status
