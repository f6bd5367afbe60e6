"""Asking a proxy how it is: its metrics in the Prometheus text format, and its probes."""

from __future__ import annotations

import http.client

_TIMEOUT_S = 5.0


def scrape_metrics(port: int) -> dict[str, float]:
    """Fetch `http://127.0.0.1:port/metrics` in the calling thread's namespace.

    Raises:
        OSError: nothing answers there.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        return parse_metrics(connection.getresponse().read().decode())
    except (http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"no metrics on port {port}: {error!r}") from error
    finally:
        connection.close()


def answers_ok(port: int, path: str) -> bool:
    """Whether `http://127.0.0.1:port/path` is answered with 200, in the calling thread's namespace."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()  # closing with something unread would look like a broken client to the proxy
    except (OSError, http.client.HTTPException):
        return False
    else:
        return response.status == http.client.OK
    finally:
        connection.close()


def parse_metrics(text: str) -> dict[str, float]:
    """`name{label="value"}` to value; comments and timestamps are left out.

    Format: https://prometheus.io/docs/instrumenting/exposition_formats/. Raises ValueError for anything else.
    """
    samples = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            end = line.rfind("}") + 1 or line.find(" ")
            value, *_timestamp = line[end:].split() or [""]
            samples[line[:end]] = float(value)
    return samples
