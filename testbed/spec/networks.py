"""The networks that are the lab's own, whatever a topology says. Must not know who lives in them."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

NODE_NETWORK = IPv4Network("172.18.0.0/16")
NODE_NETWORK6 = IPv6Network("fd00:172:18::/64")
LOAD_BALANCER_NETWORK = IPv4Network("10.240.0.0/16")
CLUSTER_NETWORK6 = IPv6Network("fd00:10:244::/48")
SERVICE_NETWORK6 = IPv6Network("fd00:10:96::/112")
