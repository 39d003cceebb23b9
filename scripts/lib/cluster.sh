# shellcheck shell=bash
# A cluster of nodes on this machine: each node a network namespace with its own vrouter and vrouter-control, an underlay between
# them, pods attached by the real plugin. Sourced by scripts that want one; scripts/demo is the one to read first.
#
# The caller sets `state` (a folder for everything this makes) and `id` (short and unique, for names of namespaces), and
# `bin` (where the programs are). Needs setup.sh.

# Everything made here is written down in these files, so that another process can remove it.
#   $state/namespaces   a name a line          $state/pids   "pid name" a line

netns_of() { echo "vr-$id-$1"; }
pod_address() { jq -r --arg family "$3" '[.ips[].address | split("/")[0] | select(contains(":") == ($family == "6"))][0]' "$state/$1/$2.result"; }
node_address() { case $2 in 4) echo "192.168.77.$(node_number "$1")" ;; 6) echo "fd00:77::$(node_number "$1")" ;; esac; }
node_number() { printf '%d' "'$1" | awk '{ print $1 - 96 }'; }       # a → 1, b → 2

# in_netns NAME COMMAND...: runs in a node's or pod's namespace. Not `ip netns exec`: that hides /sys/fs/bpf.
in_netns() { local name=$1; shift; nsenter --net="/run/netns/$(netns_of "$name")" "$@"; }
# enter_netns NAME COMMAND...: the same in place of this shell, so that a background job's pid is the command's.
enter_netns() { local name=$1; shift; exec nsenter --net="/run/netns/$(netns_of "$name")" "$@"; }

new_netns() {
    ip netns add "$(netns_of "$1")"
    netns_of "$1" >>"$state/namespaces"
    in_netns "$1" ip link set lo up
}

# new_node NAME [UNDERLAY]: a namespace with an uplink to the underlay's bridge and its addresses.
new_node() {
    local node=$1
    mkdir -p "$state/$node/manifests" "$state/$node/run"
    new_netns "$node"
    ip link add "vr${id}${node}u" netns "$(netns_of underlay)" type veth peer name uplink0 netns "$(netns_of "$node")"
    in_netns underlay ip link set "vr${id}${node}u" master underlay0 up
    in_netns "$node" ip link set uplink0 up
    in_netns "$node" ip address add "$(node_address "$node" 4)/24" dev uplink0
    in_netns "$node" ip address add "$(node_address "$node" 6)/64" dev uplink0 nodad
    # The node's kernel sends with whole checksums: the engine takes what a wire would carry.
    in_netns "$node" ethtool -K uplink0 tx off >/dev/null 2>&1 || true
}

new_underlay() {
    new_netns underlay
    in_netns underlay ip link add underlay0 type bridge mcast_snooping 0
    in_netns underlay ip link set underlay0 up
}

# manifest_node NAME: how Kubernetes would describe the node.
manifest_node() {
    local node=$1 n; n=$(node_number "$node")
    cat <<YAML
apiVersion: v1
kind: Node
metadata:
  name: node-$node
spec:
  podCIDR: 10.244.$n.0/24
  podCIDRs: [10.244.$n.0/24, "fd00:10:244:$n::/64"]
status:
  addresses:
    - {type: InternalIP, address: $(node_address "$node" 4)}
    - {type: InternalIP, address: "$(node_address "$node" 6)"}
    - {type: Hostname, address: node-$node}
YAML
}

# write_config NODE: one file for both daemons.
write_config() {
    local node=$1 dir=$state/$1
    cat >"$dir/vrouter.toml" <<TOML
[engine]
socket = "$dir/run/engine.sock"
# Nodes share this machine: each engine has a core of its own while there are enough.
cpus = [$((($(node_number "$node") - 1) % $(nproc)))]
metrics = ""
# Nothing is left behind, not even a pinned program.
bpf_folder = ""

[control]
node_name = "node-$node"
manifests = "$dir/manifests"
engine_socket = "$dir/run/engine.sock"
socket = "$dir/run/control.sock"
state_dir = "$dir/state"
uplink = "uplink0"
metrics = ""
TOML
}

# start NODE PROGRAM...: a daemon in a node's namespace, its log beside its configuration.
start() {
    local node=$1 program=$2; shift 2
    nsenter --net="/run/netns/$(netns_of "$node")" "$bin/$program" --config "$state/$node/vrouter.toml" "$@" \
        >>"$state/$node/$program.log" 2>&1 </dev/null &
    echo "$! $node/$program" >>"$state/pids"
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds. The limit is generous: machines stall.
wait_for() {
    local end=$((SECONDS + $1)) what=$2; shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { echo "timed out: $what" >&2; return 1; }
        sleep 0.1
    done
}

control_ready() { vrctl_on "$1" status --json | jq -e '.control.engine_connected and .control.source_in_sync and
    .control.acknowledged_generation == .control.desired_generation and .control.desired_generation > 0'; }
vrctl_on() {
    local node=$1; shift
    "$bin/vrctl" --socket "$state/$node/run/engine.sock" --control-socket "$state/$node/run/control.sock" "$@"
}

# cni NODE VERB POD [FIELDS]: calls the plugin as a container runtime does; its answer goes to standard output. FIELDS are more of
# the network's configuration.
cni() {
    local node=$1 verb=$2 pod=$3 fields=${4:-}
    CNI_COMMAND=$verb CNI_CONTAINERID=vr-$id-$pod CNI_NETNS=/run/netns/$(netns_of "$pod") CNI_IFNAME=eth0 CNI_PATH=$bin \
        CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=$pod" \
        "$bin/vrouter-cni" <<JSON
{"cniVersion": "1.1.0", "name": "vrouter", "type": "vrouter-cni", "socket": "$state/$node/run/control.sock"${fields:+, $fields}}
JSON
}

# add_pod NODE POD [FIELDS]: a namespace, attached.
add_pod() {
    new_netns "$2"
    cni "$1" ADD "$2" "${3:-}" >"$state/$1/$2.result" || { cat "$state/$1/$2.result" >&2; return 1; }
}
del_pod() { cni "$1" DEL "$2"; }

# is_running_as PID PROGRAM: the process is there, is no zombie, and is still that program (the kernel keeps 15 bytes of its name).
is_running_as() {
    [ "$(cat "/proc/$1/comm" 2>/dev/null)" = "${2:0:15}" ] && ! grep -q '^State:.*Z' "/proc/$1/status" 2>/dev/null
}
has_ended() { ! is_running_as "$@"; }

# stop_cluster: ends what was started, removes what was made. Safe to call twice, and when half of it exists.
stop_cluster() {
    local pid name
    if [ -e "$state/pids" ]; then
        # Last started, first stopped: control before the engine.
        while read -r pid name; do
            is_running_as "$pid" "${name#*/}" && kill "$pid" 2>/dev/null || true
        done < <(tac "$state/pids")
        while read -r pid name; do
            wait_for 20 "$name to end" has_ended "$pid" "${name#*/}" || kill -KILL "$pid" 2>/dev/null || true
        done <"$state/pids"
        rm -f "$state/pids"
    fi
    if [ -e "$state/namespaces" ]; then
        while read -r name; do ip netns del "$name" 2>/dev/null || true; done <"$state/namespaces"
        rm -f "$state/namespaces"
    fi
}
