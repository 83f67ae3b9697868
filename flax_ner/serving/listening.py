"""Open the socket at which a server listens."""

import errno
import socket

from flax_ner.errors import UserError, error_summary


def listen(host: str, port: int) -> socket.socket:
    """Open a socket that listens at a host and port.

    Args:
        host: address of this machine.
        port: port number; 0 chooses a free one.

    Raises:
        UserError: the port is in use, or this machine has no such address or port.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: must be between 1 and 65535, or 0 to choose a free port.")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise UserError(
                f"--port {port}: is in use at {host}. Choose another port, or 0 to choose a free one."
            ) from None
        why = error_summary(error).partition(" (")[0]
        raise UserError(f"--host {host} --port {port}: cannot listen ({why}).") from None


def listener_url(listener: socket.socket) -> str:
    """Return the URL at which a listening socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
