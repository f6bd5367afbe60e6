"""Network namespaces, the wiring between them, and the programs that run inside them.

Owns everything that touches a namespace, a link or a process. Must not know Services, modes, load or results.

    syscalls ─► sandbox ─► namespace ─► process         private namespaces; programs that run in one
    netlink ─► rtnetlink ─► wiring ─► fabric, shaping   messages are pure values; one door sends them
"""
