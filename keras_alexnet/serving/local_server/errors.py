"""The error that a request is answered with."""


class RequestError(Exception):
    """A request that gets no other answer; its text is for a person.

    Attributes:
        code: a canonical status of gRPC, such as "INVALID_ARGUMENT".
        http_status: of the REST API, where it is not the one of the code.
    """

    def __init__(self, code: str, message: str, http_status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.http_status = http_status


def invalid(message: str) -> RequestError:
    """Return the error for a request that is wrong in itself."""
    return RequestError("INVALID_ARGUMENT", message)
