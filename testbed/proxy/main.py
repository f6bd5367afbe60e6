"""The proxy's life: read the flags, listen to the API, sync, answer probes, until told to end.

    argv -> options -> API server -> reflectors -> one FamilySync per IP family -> kernel
                                                       |
                                      probes and metrics over HTTP

Owns how the parts are put together. Rules stay when it ends, as kube-proxy's do; `--cleanup` removes them.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.errors import TestbedError, UserError
from testbed.proxy.apiclient import ApiServer
from testbed.proxy.flags import Options, parse_options
from testbed.proxy.health import ProxyHealth, ServiceHealth
from testbed.proxy.model import Family
from testbed.proxy.modes import MODES, clean_up, load, make_proxier, modes_with_traces
from testbed.proxy.node import NodeFacts, find_node
from testbed.proxy.proxier import ProxySettings
from testbed.proxy.sync import FamilySync
from testbed.proxy.watching import watch

if TYPE_CHECKING:
    from testbed.proxy.metrics import Metrics

log = logging.getLogger(__name__)

_FIRST_SYNC_S = 1.0  # how long probes and metrics may wait for the first rules, which are more urgent
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def main(argv: Sequence[str]) -> int:
    """Run kube-proxy's command line to its end; the exit status."""
    try:
        options = parse_options(argv)
        _log_to_stderr(options.verbosity)
        if options.cleanup:
            return _clean_up_everything(options)
        return _Proxy(options).run()
    except TestbedError as error:
        print(f"kube-proxy: {error}", file=sys.stderr)
        return error.exit_status


def preload(mode: str = "iptables") -> None:
    """Import everything that a run in `mode` needs, so that a fork of this process starts at once.

    What is no mode of ours is another program, which no import of this process helps.
    """
    if mode not in MODES:
        return
    load(mode)
    import_module("testbed.proxy.metrics")


class _Proxy:
    """One running proxy: its parts, and the order in which they come to life."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._ended = threading.Event()
        self._status = 0
        self._health = ProxyHealth(2 * options.settings.sync_period_s)
        self._families: list[FamilySync] = []
        self._metrics = _once(self._make_metrics)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ended.set())
        gc.disable()  # the first lists make hundreds of thousands of objects, none of them garbage
        server = _api_server(self._options)
        node = find_node(server, self._options.hostname, self._ended)
        settings = family_settings(self._options, node)
        self._families = self._make_families(settings, node)
        watch(server, self._options.hostname, self._families, self._health)
        leftovers = modes_with_traces(self._options.mode, settings[0])
        self._health.settled = False
        for family in self._families:
            threading.Thread(target=self._sync_for_ever, args=(family,), daemon=True).start()
        self._families[0].synced.wait(_FIRST_SYNC_S)
        self._serve_http()
        self._take_over(leftovers, settings)
        gc.freeze()
        gc.enable()
        self._ended.wait()
        log.info("ending; rules stay")
        return self._status

    def _make_families(self, settings: Sequence[ProxySettings], node: NodeFacts) -> list[FamilySync]:
        service_health = ServiceHealth(self._health)
        return [
            FamilySync(
                make_proxier(self._options.mode, each),
                each,
                self._health,
                self._metrics,
                service_health if each is settings[0] else None,
                zone=node.zone,
            )
            for each in settings
        ]

    def _sync_for_ever(self, family: FamilySync) -> None:
        """A defect in a sync ends the process, as a panic does: a supervisor then starts it afresh."""
        try:
            family.loop()
        except BaseException:
            log.exception("the sync of %s ended", family.family)
            self._status = 1
            self._ended.set()

    def _take_over(self, leftovers: Sequence[str], settings: Sequence[ProxySettings]) -> None:
        """Remove what other modes left, once our own rules stand, so that no connection falls between."""
        for family, each in zip(self._families, settings, strict=True):
            while not family.synced.wait(0.1):
                if self._ended.is_set():
                    return
            for mode in leftovers:
                clean_up(mode, each, active=self._options.mode)
        self._health.settled = True

    def _serve_http(self) -> None:
        from testbed.proxy.httpserver import Answer, HttpServer

        metrics, options = self._metrics(), self._options
        healthz, livez = self._health.healthz, self._health.livez
        probes = {"/healthz": metrics.counted("healthz", healthz), "/livez": metrics.counted("livez", livez)}
        figures: dict[str, Callable[[], Answer]] = {
            "/metrics": metrics.exposition,
            "/proxyMode": lambda: Answer(200, options.mode.encode()),
            "/healthz": lambda: Answer(200, b"ok"),
        }
        for address, routes in ((options.healthz_address, probes), (options.metrics_address, figures)):
            if address:
                host, _, port = address.rpartition(":")
                HttpServer(host.strip("[]"), int(port), routes)

    def _make_metrics(self) -> Metrics:
        from testbed.proxy.metrics import Metrics

        trackers = [family.tracker for family in self._families]

        def pending() -> tuple[int, int]:
            services, slices = zip(*(tracker.pending for tracker in trackers), strict=True)
            return sum(services), sum(slices)

        return Metrics(pending, lambda: sum(family.malformed for family in self._families))


def _once(make: Callable[[], Metrics]) -> Callable[[], Metrics]:
    """Make it at the first call, from whichever thread: functools.cache may make two, and count in one."""
    lock = threading.Lock()
    made = cache(make)

    def get() -> Metrics:
        with lock:
            return made()

    return get


def family_settings(options: Options, node: NodeFacts) -> list[ProxySettings]:
    """One set of settings per IP family that the node takes part in, the node's primary family first.

    A family counts if the node has an address or a pod network of it. Raises UserError where the mode serves
    none of them.
    """
    families = {
        family: replace(
            options.settings,
            family=family,
            node_ips=node.of_family(family),
            cluster_cidr=options.cluster_cidr(family),
        )
        for family in Family
        if node.of_family(family) or options.cluster_cidr(family)
    }
    if not families:
        families = {Family.IPV4: replace(options.settings, family=Family.IPV4)}
    served = [each for family, each in families.items() if family in MODES[options.mode].families]
    if not served:
        raise UserError(
            f"{options.mode} mode serves IPv4 only, and the node has no IPv4 address or pod network"
        )
    primary = node.addresses[:1]
    return sorted(served, key=lambda each: each.node_ips[:1] != primary)


def _api_server(options: Options) -> ApiServer:
    """Where the flags say the API is, or where a pod finds it. Raises UserError."""
    if options.kubeconfig:
        from testbed.proxy.configfile import read_kubeconfig

        return read_kubeconfig(options.kubeconfig, options.master)
    if options.master:
        return ApiServer(options.master if "://" in options.master else f"http://{options.master}")
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if host:
        import ssl

        host = f"[{host}]" if ":" in host else host
        context = ssl.create_default_context(cafile=str(_SERVICE_ACCOUNT / "ca.crt"))
        return ApiServer(f"https://{host}:{port}", tls=context, token_file=str(_SERVICE_ACCOUNT / "token"))
    raise UserError("no API server is named: give --master http://host:port, or --kubeconfig")


def _clean_up_everything(options: Options) -> int:
    """Remove what any mode left, for both families; the exit status."""
    done = [clean_up(mode, replace(options.settings, family=family)) for mode in MODES for family in Family]
    return 0 if all(done) else 1


def _log_to_stderr(verbosity: int) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbosity >= 4 else logging.INFO,
        format="%(asctime)s %(levelname).1s %(threadName)s %(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )
