"""iptables mode: Services as chains of NAT rules, applied by `iptables-restore`."""
