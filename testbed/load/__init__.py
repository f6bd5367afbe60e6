"""Load: Locust users in a process of their own, and the client that commands them.

    bench ─► control.LoadProcess ═ JSON lines ═► worker ─► crew ─► Locust users ─► sockets in the client pod
                                                             └► recorder ─► summary in the answer, samples.bin

`worker`, `crew` and `users` run inside the load process and are the only modules that import locust, which
patches its whole process. Everything else here (`block`, `control`, `recorder`) can be imported anywhere.
"""
