"""nftables mode: Services as verdict maps and small chains, changed by transactions as small as the change."""
