"""A plain HTTP client for the tests of the API server, without the help of ApiClient."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from testbed.cluster.apiclient import ApiClient

SERVICES_PATH = "/api/v1/namespaces/default/services"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


class Server:
    """A running control plane, spoken to without the help of ApiClient."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.client = ApiClient(path)

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(30)
        connection.sock.connect(str(self.path))
        return connection

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str, bytes]:
        """Return status, content type and body of the answer."""
        connection = self.connect()
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if data is not None:
            named.setdefault("Content-Type", "application/json")
        connection.request(method, path, data, named)
        response = connection.getresponse()
        answer = response.status, response.getheader("Content-Type", ""), response.read()
        connection.close()
        return answer

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        status, _, answer = self.send(method, path, body, **headers)
        return status, json.loads(answer)
