"""Where a server is: --server, taken apart."""

import dataclasses
import urllib.parse

from data_prep.command_line import UserError

# Of HTTP without a port in the address (RFC 9110); gRPC has none.
_DEFAULT_PORTS = {"http": 80, "https": 443, "grpc": None, "grpcs": None}


@dataclasses.dataclass(frozen=True)
class Address:
    """A server's address.

    Attributes:
        text: as the user wrote it, for messages.
        host: a name or an IP address, that of IPv6 without brackets.
        port: 1 to 65535.
        is_grpc: gRPC; else REST.
        is_tls: whether the connection is encrypted.
    """

    text: str
    host: str
    port: int
    is_grpc: bool
    is_tls: bool


def parse(server: str) -> Address:
    """Reads "http://HOST:PORT" and its like.

    Args:
        server: with one of the schemes http, https, grpc and grpcs.

    Raises:
        UserError: it is no such address.
    """
    try:
        parts = urllib.parse.urlsplit(server)
        port = _DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
        # All that an address may have beside scheme, host and port.
        rest = (parts.username, parts.password, parts.path.strip("/"), parts.query, parts.fragment)
        is_address = parts.scheme in _DEFAULT_PORTS and bool(port) and not any(rest)
        is_address = is_address and bool((parts.hostname or "").encode("idna"))
    except (ValueError, KeyError):  # a port or a host that is none, another scheme
        is_address = False
    if not is_address:
        raise UserError(
            "a server is http://HOST:PORT, https://HOST:PORT, grpc://HOST:PORT or "
            f"grpcs://HOST:PORT, received {server!r}; check --server"
        )
    return Address(
        text=server.rstrip("/"),
        host=parts.hostname,
        port=port,
        is_grpc=parts.scheme.startswith("grpc"),
        is_tls=parts.scheme.endswith("s"),
    )
