#!/usr/bin/env bash
# Makes the network, the mounts and the cgroups of a node, and runs the rest of its arguments there. Called by
# tests/node.sh as the first process of namespaces of its own, whose end takes all of this with it but for the cgroups.
set -euo pipefail

# Programs of the node write below these, whatever they are configured to.
mkdir -p /var/lib/cni
for path in /run /var/log /var/lib/cni; do
    mount -t tmpfs tmpfs "$path"
done

# The node's own address, and that of the Service "kubernetes": the API server listens there itself, in place of kube-proxy.
ip link set lo up
ip link add node0 type bridge
ip address add 10.88.0.1/24 dev node0
ip address add 10.0.0.1/32 dev node0
ip link set node0 up

# kubelet makes its own below this one. Of the second version a cgroup has the controllers that its parent hands on.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    for controller in $(</sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
    done
fi
findmnt --raw --noheadings --output TARGET --types cgroup,cgroup2 | while read -r hierarchy; do
    mkdir "$hierarchy/$OKG_NODE_CGROUP"
done

"$@"
