from __future__ import annotations

import socket
import threading

from charloom.cli.sessions.webhook import TRIES, Webhook


def test_a_webhook_that_does_not_speak_http_is_tried_and_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(TRIES):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"220 mail.example ready\r\n")

        answering = threading.Thread(target=answer)
        answering.start()
        waits: list[float] = []
        problem = Webhook(f"http://127.0.0.1:{server.getsockname()[1]}", waits.append).post([{"line": "x"}])
        answering.join(30)
    assert waits == [1.0, 2.0, 4.0]
    assert problem is not None
    assert "1 alerts were not delivered" in problem
