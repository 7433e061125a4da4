"""What a client is told when its request cannot be answered."""


class RequestError(Exception):
    """The answer to a request that gets no other.

    Attributes:
        code: a canonical status of gRPC, such as "INVALID_ARGUMENT".
        message: for a person.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
