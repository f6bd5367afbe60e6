"""Network namespaces, the wiring between them, and the programs that run inside them.

Owns everything that touches a namespace, a link or a process: netlink, the fabric of nodes and pods,
the one subprocess door, the sandbox. Must not know Services, modes, load or results.

    syscalls ─► namespace ─► process          a namespace is an fd; programs run in one
    netlink ─► rtnetlink ─► fabric, shaping   messages are pure values; one door sends them
"""
