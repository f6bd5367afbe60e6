"""The drop-in kube-proxy: one process per node that makes the node's dataplane match the API's Services.

    API server --list+watch--> apiclient --events--> changes --deltas--> servicemap
                                                                             |
                     metrics, health <-- runner --sync(services, changed)--> proxier (iptables | ipvs | ...)

It must run alone beside any API server, so it knows nothing of the lab, its clusters or its benchmarks.
"""
