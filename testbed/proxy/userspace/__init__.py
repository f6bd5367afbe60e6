"""The userspace mode: portals redirect every VIP to a port of this process, which relays to an endpoint.

proxier ──► portals ──► iptables            VIP:port ──► proxy port
   │
   └──► ports (thread) ──► dialling ──► relay ──► pipes       one epoll loop moves all bytes
                      └──► udp
        balancer: whose turn it is
"""
