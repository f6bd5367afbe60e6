"""The proxy is admitted by an API server behind TLS as kube-proxy is: by its CA, a token or a certificate."""

from __future__ import annotations

import base64
import http.client
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.cluster.apiclient import ApiClient
from testbed.cluster.controlplane import start_control_plane
from testbed.net.process import run, spawn
from testbed.net.wait import wait_until
from testbed.proxy.apiclient import ApiRefused
from testbed.proxy.configfile import read_kubeconfig

TOKEN = "let-me-in"
TIMEOUT_S = 20.0

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


class Authority:
    """A CA of our own, and what it has signed: files in a directory."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self.directory = directory
        self.certificate = directory / f"{name}.crt"
        self._key = directory / f"{name}.key"
        openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-keyout", str(self._key), "-out", str(self.certificate),
        )  # fmt: skip

    def sign(self, name: str, alternative: str = "") -> tuple[Path, Path]:
        """Certificate and key of `name`."""
        certificate, key, request = (self.directory / f"{name}.{end}" for end in ("crt", "key", "csr"))
        extensions = self.directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative}\n" if alternative else "")
        openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-keyout", str(key), "-out", str(request),
        )  # fmt: skip
        openssl(
            "x509", "-req", "-days", "2", "-in", str(request), "-CA", str(self.certificate), "-CAkey",
            str(self._key), "-CAcreateserial", "-extfile", str(extensions), "-out", str(certificate),
        )  # fmt: skip
        return certificate, key


class Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def handler(api: Path) -> type[BaseHTTPRequestHandler]:
    """A front of the control plane: lets in who has the token or a certificate of the CA."""

    class Front(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def do_GET(self) -> None:
            admitted = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if not admitted and not self.connection.getpeercert():  # type: ignore[attr-defined]
                self.send_error(401)
                return
            inner = Unix(api)
            inner.request("GET", self.path)
            response = inner.getresponse()
            self.send_response(response.status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            # A watch ends as the control plane does.
            with suppress(http.client.IncompleteRead, BrokenPipeError):
                while data := response.read1(65536):
                    self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Front


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiClient]:
    with (
        start_control_plane([], socket_path=tmp_path / "api", log=tmp_path / "api.log"),
        ApiClient(tmp_path / "api") as client,
    ):
        yield client


@pytest.fixture
def url(authority: Authority, api: ApiClient, tmp_path: Path) -> Iterator[str]:
    certificate, key = authority.sign("server", "IP:127.0.0.1,DNS:kubernetes")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_OPTIONAL
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(tmp_path / "api"))
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def kubeconfig(directory: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Path:
    path = directory / "kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(document))
    return path


def by_token(authority: Authority) -> dict[str, Any]:
    return {"token": TOKEN}


def by_token_file(authority: Authority) -> dict[str, Any]:
    (authority.directory / "token").write_text(f"{TOKEN}\n")
    return {"tokenFile": "token"}


def by_certificate_data(authority: Authority) -> dict[str, Any]:
    certificate, key = authority.sign("proxy")
    return {"client-certificate-data": data(certificate), "client-key-data": data(key)}


def by_certificate_files(authority: Authority) -> dict[str, Any]:
    certificate, key = authority.sign("proxy")
    return {"client-certificate": certificate.name, "client-key": key.name}


@pytest.mark.parametrize(
    ("credentials", "inline_authority"),
    [(by_token, True), (by_token_file, False), (by_certificate_data, True), (by_certificate_files, False)],
)
def test_the_server_is_proven_and_the_proxy_admitted(
    authority: Authority,
    api: ApiClient,
    url: str,
    tmp_path: Path,
    credentials: Callable[[Authority], dict[str, Any]],
    inline_authority: bool,
) -> None:
    ca = authority.certificate
    cluster = (
        {"certificate-authority-data": data(ca)} if inline_authority else {"certificate-authority": ca.name}
    )
    path = kubeconfig(tmp_path, {"server": url, **cluster}, credentials(authority))
    api.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}})
    assert read_kubeconfig(str(path)).get("/api/v1/nodes/node1")["metadata"]["name"] == "node1"


def test_who_has_no_credentials_is_refused_and_who_has_another_ca_refuses(
    authority: Authority, url: str, tmp_path: Path
) -> None:
    ca = {"certificate-authority": authority.certificate.name}
    with pytest.raises(ApiRefused, match="401"):
        read_kubeconfig(str(kubeconfig(tmp_path, {"server": url, **ca}, {}))).get("/api/v1/nodes")
    other = {"certificate-authority": Authority(tmp_path, "other").certificate.name}
    for cluster in (other, {**ca, "tls-server-name": "elsewhere"}):
        path = kubeconfig(tmp_path, {"server": url, **cluster}, {"token": TOKEN})
        with pytest.raises(ssl.SSLCertVerificationError):
            read_kubeconfig(str(path)).get("/api/v1/nodes")
    for cluster in ({**ca, "tls-server-name": "kubernetes"}, {"insecure-skip-tls-verify": True}):
        path = kubeconfig(tmp_path, {"server": url, **cluster}, {"token": TOKEN})
        assert read_kubeconfig(str(path)).get("/api/v1/nodes")["items"] == []


def test_a_proxy_writes_the_rules_of_an_api_behind_tls(
    authority: Authority, api: ApiClient, url: str, tmp_path: Path
) -> None:
    ca = {"certificate-authority": authority.certificate.name}
    path = kubeconfig(tmp_path, {"server": url, **ca}, by_certificate_files(authority))
    argv = [sys.executable, "-m", "testbed.proxy", f"--kubeconfig={path}", "--iptables-variant=legacy"]
    with spawn(argv, name="proxy", log=tmp_path / "proxy.log") as proxy:
        spec = {"clusterIP": "10.96.0.10", "ports": [{"port": 80}], "selector": {"app": "web"}}
        api.create({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec})

        def rejected() -> bool:
            proxy.check()
            return "default/web has no endpoints" in run(["iptables-legacy-save", "-t", "filter"]).stdout

        wait_until(rejected, "the rule of a Service without endpoints", TIMEOUT_S)
