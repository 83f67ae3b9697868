"""The socket at which a server listens."""

import errno

import pytest

from flax_ner.errors import UserError
from flax_ner.serving.listening import listen, listener_url


def test_an_unavailable_address_is_a_user_error() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert listener_url(listener) == f"http://127.0.0.1:{port}/"
        with pytest.raises(UserError, match=rf"^--port {port}: is in use at 127\.0\.0\.1\. Choose"):
            listen("127.0.0.1", port)
    with pytest.raises(UserError, match=r"^--port 65536: must be between 1 and 65535"):
        listen("127.0.0.1", 65536)
    with pytest.raises(UserError, match=rf"cannot listen \(\[Errno {errno.EADDRNOTAVAIL}\]"):
        listen("192.0.2.1", 0)
