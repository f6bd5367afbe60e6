"""nftables mode: Services as verdict maps and chains, changed by transactions as small as their change."""
