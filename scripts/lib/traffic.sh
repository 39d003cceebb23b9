# shellcheck shell=bash
# Real clients between two namespaces of a cluster: each says in its last line how it went. Sourced; needs cluster.sh, and runs
# in the repository's root.

# All at once and with a long interval: once ping has had an answer, it waits for the last for one interval or two round trips only.
try_ping() { # FROM ADDRESS
    in_netns "$1" ping -n -c 3 -l 3 -i 5 "$2" | sed -nE 's/^rtt.* = [^/]*\/([^/]*)\/.*/\1 ms/p; / 0% packet loss/{s/.*/no loss/;p}' | sort -r | paste -sd' ' | grep 'no loss'
}
try_tcp() { # FROM TO-NAMESPACE ADDRESS
    local server
    (enter_netns "$2" iperf3 -s -1 -B "$3") >"$state/iperf3.log" 2>&1 & server=$!
    wait_for 20 "iperf3 to listen" listens "$2" 5201 || { kill $server; return 1; }
    in_netns "$1" iperf3 -c "$3" -t 1 -J --connect-timeout 5000 >"$state/iperf3.json" || { kill $server 2>/dev/null; wait $server; jq -r .error "$state/iperf3.json"; return 1; }
    wait $server
    jq -re '.end.sum_received.bits_per_second / 1e6 | if . > 1 then "\(floor) Mbit/s" else error("no throughput") end' "$state/iperf3.json"
}
listens() { in_netns "$1" ss -Hltn "sport = :$2" | grep -q .; }
try_http() { # FROM TO-NAMESPACE ADDRESS SOURCE: the page arrives, and the server saw the source address
    local got; got=$(http_get "$1" "$2" "$3" 10 || true)
    [ "$got" = "$4" ] || { echo "the server saw '${got}', not $4"; return 1; }
    echo "from $4"
}
try_no_http() { # FROM TO-NAMESPACE ADDRESS: somebody listens there, and no answer comes
    local status=0 got; got=$(http_get "$1" "$2" "$3" 2) || status=$?
    [ $status = 28 ] || { echo "curl ended with $status, and '$got'"; return 1; }
    echo "no answer"
}
http_get() { # FROM TO-NAMESPACE ADDRESS SECONDS: the page of a server that runs for this request only; curl's exit status
    local url=http://$3:8080/; case $3 in *:*) url="http://[$3]:8080/" ;; esac
    local server status=0 log=$state/http-$2.log
    : >"$log"
    (enter_netns "$2" python3 -u scripts/lib/http-server.py "$3" 8080) >>"$log" 2>&1 & server=$!
    wait_for 20 "the HTTP server" listens "$2" 8080 || { kill $server; return 1; }
    in_netns "$1" curl -s --max-time "$4" "$url" || status=$?
    kill $server; wait $server 2>/dev/null || true
    return $status
}
try_no_ping() { # FROM ADDRESS
    ! in_netns "$1" ping -n -c 2 -i 0.5 -W 2 "$2" >/dev/null && echo "no answer"
}

# start_vhost_pod NODE POD: testpmd serves the pod's vhost-user port and answers echo requests over IPv4. It has hardly a core's worth
# to do, and turns all the same: no huge pages, one of everything.
start_vhost_pod() {
    local node=$1 pod=$2 path mac
    path=$(jq -r '.interfaces[0].socketPath' "$state/$node/$pod.result")
    mac=$(jq -r '.interfaces[0].mac' "$state/$node/$pod.result")
    (enter_netns "$pod" nice dpdk-testpmd --lcores '0@(0-1),1@(0-1)' --no-pci --no-huge -m 128 --no-telemetry --file-prefix "vr-$id-$pod" \
        --vdev "net_virtio_user0,path=$path,mac=$mac,queues=1,queue_size=256" -- --forward-mode=icmpecho --total-num-mbufs=4096 \
        --stats-period=3600) >"$state/$node/$pod.testpmd.log" 2>&1 </dev/null &
    echo "$! $node/dpdk-testpmd" >>"$state/pids"
}
