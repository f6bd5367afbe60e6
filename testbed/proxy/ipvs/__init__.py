"""IPVS mode: Services as virtual servers of the kernel's load balancer, beside a few rules and ipsets."""
