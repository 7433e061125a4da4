"""Whose certificates the client trusts: the system's authorities, or those of --ca_file."""

import ssl

from data_prep.command_line import UserError


def context(ca_file: str | None) -> ssl.SSLContext:
    """For HTTPS: checks the certificate and the host's name.

    Args:
        ca_file: PEM file of the authorities to trust; None for the system's.

    Raises:
        UserError: the file cannot be read, or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"a PEM file of certificates is needed, {ca_file!r} cannot be used ({reason}); check "
            f"--ca_file"
        ) from error


def root_certificates(ca_file: str | None) -> bytes | None:
    """The same for gRPC, which knows nothing of the system's authorities: PEM.

    None, which means those that gRPC brings along, if the system keeps its own where OpenSSL
    does not list them.

    Raises:
        UserError: as `context`.
    """
    certificates = context(ca_file).get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, certificates)).encode() or None
