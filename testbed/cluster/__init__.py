"""Live nodes and pods, the servers behind Endpoints, and the control plane that describes them."""
