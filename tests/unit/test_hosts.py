"""Services, pods and nodes are known by the names that people type."""

from testbed.cluster.hosts import hosts_text, service_names

WEB = {"metadata": {"name": "web", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.1"}}
CART = {
    "metadata": {"name": "cart", "namespace": "shop"},
    "spec": {"clusterIP": "10.96.0.2", "clusterIPs": ["10.96.0.2", "fd00::2"]},
}
HEADLESS = {"metadata": {"name": "db", "namespace": "default"}, "spec": {"clusterIP": "None"}}
POD = {"metadata": {"name": "web-1", "namespace": "default"}, "status": {"podIP": "10.244.0.2"}}
PENDING = {"metadata": {"name": "web-2", "namespace": "default"}, "status": {}}
NODE = {
    "metadata": {"name": "node1"},
    "status": {
        "addresses": [
            {"type": "InternalIP", "address": "172.18.0.1"},
            {"type": "Hostname", "address": "node1"},
        ]
    },
}


def test_a_service_answers_to_all_four_names_in_its_own_namespace() -> None:
    assert service_names("web", "default", "default") == (
        "web",
        "web.default",
        "web.default.svc",
        "web.default.svc.cluster.local",
    )


def test_a_short_name_means_nothing_in_another_namespace() -> None:
    assert "web" not in service_names("web", "default", "shop")


def test_the_file_lists_nodes_pods_and_services_and_leaves_out_what_has_no_address() -> None:
    assert hosts_text("default", [WEB, CART, HEADLESS], [POD, PENDING], [NODE]) == (
        "127.0.0.1 localhost\n"
        "::1 localhost\n"
        "172.18.0.1 node1\n"
        "10.244.0.2 web-1\n"
        "10.96.0.1 web web.default web.default.svc web.default.svc.cluster.local\n"
        "10.96.0.2 cart.shop cart.shop.svc cart.shop.svc.cluster.local\n"
        "fd00::2 cart.shop cart.shop.svc cart.shop.svc.cluster.local\n"
    )
