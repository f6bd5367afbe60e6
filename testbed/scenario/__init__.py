"""What happens to traffic while something is done to a cluster: courses of events, not comparisons of lanes.

switch      a node is taken from one mode to another under load
"""
