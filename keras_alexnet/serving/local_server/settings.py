"""The settings of a server."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a server.

    Attributes:
        host: address to listen at; IPv6 with or without [ ], [::] for all of IPv6 and IPv4.
        rest_port: 0 for any that is free.
        grpc_port: 0 for any that is free, -1 for none.
        max_body_bytes: largest body of a request, unpacked.
        all_bodies_bytes: of all requests under way; more is refused for now.
        connections: at the same time; more are refused for now.
        timeout: seconds for a body to arrive, for a turn of the model, and for an answer to be
            taken, each.
        idle_seconds: from an answer until the header of the next request is complete.
        batch: photos of several requests that are computed together.
        poll_seconds: between looks for a new version.
    """

    host: str = "127.0.0.1"
    rest_port: int = 0
    grpc_port: int = 0
    max_body_bytes: int = 64 << 20
    all_bodies_bytes: int = 512 << 20
    connections: int = 256
    timeout: float = 60.0
    idle_seconds: float = 60.0
    batch: int = 32
    poll_seconds: float = 1.0
