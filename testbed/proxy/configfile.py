"""Files that tell the proxy what to do and whom to ask: KubeProxyConfiguration and kubeconfig.

Owns their field names. Imported only when such a file is given, since it brings PyYAML.
"""

from __future__ import annotations

import base64
import logging
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from testbed.errors import UserError
from testbed.proxy.apiclient import ApiServer
from testbed.proxy.flags import duration_s

log = logging.getLogger(__name__)

_KIND = "KubeProxyConfiguration"


def _period_s(value: Any) -> float | None:
    """Zero stands for the default, as in kube-proxy's own defaulting."""
    return duration_s(value) or None


def _same(value: Any) -> Any:
    return value


# Path of a field -> our option and how to read it.
_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "mode": ("proxy_mode", _same),
    "bindAddress": ("bind_address", _same),
    "healthzBindAddress": ("healthz_bind_address", _same),
    "metricsBindAddress": ("metrics_bind_address", _same),
    "hostnameOverride": ("hostname_override", _same),
    "clusterCIDR": ("cluster_cidr", _same),
    "clientConnection.kubeconfig": ("kubeconfig", _same),
    "nodePortAddresses": ("nodeport_addresses", _same),
    "portRange": ("proxy_port_range", _same),
    "udpIdleTimeout": ("udp_timeout", _period_s),
    "iptables.masqueradeBit": ("iptables_masquerade_bit", int),
    "iptables.masqueradeAll": ("masquerade_all", bool),
    "iptables.localhostNodePorts": ("iptables_localhost_nodeports", bool),
    "iptables.minSyncPeriod": ("iptables_min_sync_period", _period_s),
    "iptables.syncPeriod": ("iptables_sync_period", _period_s),
    "ipvs.scheduler": ("ipvs_scheduler", _same),
    "ipvs.minSyncPeriod": ("ipvs_min_sync_period", _period_s),
    "ipvs.syncPeriod": ("ipvs_sync_period", _period_s),
    "ipvs.strictARP": ("ipvs_strict_arp", bool),
    "ipvs.excludeCIDRs": ("ipvs_exclude_cidrs", _same),
    "ipvs.tcpTimeout": ("ipvs_tcp_timeout", _period_s),
    "ipvs.tcpFinTimeout": ("ipvs_tcpfin_timeout", _period_s),
    "ipvs.udpTimeout": ("ipvs_udp_timeout", _period_s),
}


def read_configuration(path: str) -> dict[str, Any]:
    """The options that a KubeProxyConfiguration sets; fields without effect here are told in the log.

    Raises UserError for a file that cannot be read, is another kind of document, or has a wrong value.
    """
    document = _load(path)
    if document.get("kind", _KIND) != _KIND:
        raise UserError(f"{path}: kind is {document.get('kind')!r} and should be {_KIND}")
    values: dict[str, Any] = {}
    unused = []
    for field, value in _flatten(document):
        if field in ("apiVersion", "kind") or value in (None, "", [], {}):
            continue
        if field not in _FIELDS:
            unused.append(field)
            continue
        option, read = _FIELDS[field]
        try:
            result = read(value)
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: {field}: {error}") from error
        if result is not None:
            values[option] = result
    if unused:
        log.info("%s: fields without effect: %s", path, ", ".join(unused))
    return values


def read_kubeconfig(path: str, master: str = "") -> ApiServer:
    """The server and credentials of a kubeconfig's current context; `master` replaces its server.

    Takes CA data, bearer tokens and client certificates, each inline or in a file. Raises UserError for what
    is missing, and for credentials by plugin.
    """
    document = _load(path)
    context = _named(document, "contexts", document.get("current-context"), path).get("context") or {}
    cluster = _named(document, "clusters", context.get("cluster"), path).get("cluster") or {}
    user: dict[str, Any] = {}
    if context.get("user"):
        user = _named(document, "users", context["user"], path).get("user") or {}
    if "exec" in user or "auth-provider" in user:
        raise UserError(f"{path}: credentials by plugin are not supported; use a token or client certificate")
    url = master or cluster.get("server") or ""
    if not url:
        raise UserError(f"{path}: clusters[{context.get('cluster')}].cluster.server is missing")
    return ApiServer(
        url,
        headers=_authorization(user),
        tls=_tls(cluster, user, Path(path).parent) if url.startswith("https:") else None,
        tls_name=cluster.get("tls-server-name") or "",
        token_file=str(Path(path).parent / user["tokenFile"]) if user.get("tokenFile") else "",
    )


def _authorization(user: dict[str, Any]) -> dict[str, str]:
    """The header for a token, or for a name and a password."""
    if user.get("token"):
        return {"Authorization": f"Bearer {user['token']}"}
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
    return {}


def _tls(cluster: dict[str, Any], user: dict[str, Any], home: Path) -> ssl.SSLContext:
    authority = _material(cluster, "certificate-authority", home)
    try:
        context = ssl.create_default_context(cadata=authority.decode() if authority else None)
        if cluster.get("insecure-skip-tls-verify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate, key = (_material(user, name, home) for name in ("client-certificate", "client-key"))
        if certificate and key:
            with tempfile.NamedTemporaryFile() as file:  # ssl reads certificates from files only
                file.write(certificate + b"\n" + key)
                file.flush()
                context.load_cert_chain(file.name)
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise UserError(f"the kubeconfig's certificates cannot be used: {error}") from error
    return context


def _material(section: dict[str, Any], name: str, home: Path) -> bytes:
    """A certificate or key: `<name>-data` in base64, or the file `<name>`, relative to the kubeconfig."""
    if section.get(f"{name}-data"):
        try:
            return base64.b64decode(section[f"{name}-data"], validate=True)
        except (TypeError, ValueError) as error:
            raise UserError(f"the kubeconfig's {name}-data is not base64: {error}") from error
    return _read(home / section[name]) if section.get(name) else b""


def _named(document: dict[str, Any], section: str, name: Any, path: str) -> dict[str, Any]:
    for entry in document.get(section) or ():
        if isinstance(entry, dict) and entry.get("name") == name:
            return entry
    raise UserError(f"{path}: {section} has no entry named {name!r}")


def _load(path: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(_read(Path(path)))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: is no YAML mapping")
    return document


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def _flatten(document: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Every leaf with its dotted path."""
    leaves: list[tuple[str, Any]] = []
    for key, value in document.items():
        if isinstance(value, dict):
            leaves += _flatten(value, f"{prefix}{key}.")
        else:
            leaves.append((f"{prefix}{key}", value))
    return leaves
