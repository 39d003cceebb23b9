# shellcheck shell=bash
# What the other scripts share: messages, Debian packages, Rust. Sourced, not run.

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# need_packages PACKAGE...: installs those that are missing, and only those.
need_packages() {
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || fail "not root, and these packages are missing: ${missing[*]}; run: apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    # The lists of a fresh machine are empty or old.
    apt-get -o DPkg::Lock::Timeout=600 update -qq || fail "apt-get update failed: is a Debian mirror reachable?"
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y -qq \
        --no-install-recommends "${missing[@]}" >/dev/null ||
        fail "apt-get could not install ${missing[*]}"
}

# need_packages_idle PACKAGE...: the same, and their services are not started.
need_packages_idle() {
    (
        policy=/usr/sbin/policy-rc.d
        if [ "$(id -u)" = 0 ] && [ ! -e $policy ]; then
            trap 'rm -f "$policy"' EXIT
            # Packages ask it before they start something (invoke-rc.d(8)).
            printf '#!/bin/sh\nexit 101\n' >$policy
            chmod +x $policy
        fi
        need_packages "$@"
    )
}

# need_rust: a toolchain of at least the version in Cargo.toml.
need_rust() {
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    command -v cargo >/dev/null || [ ! -x "${HOME:-/root}/.cargo/bin/cargo" ] || PATH=${HOME:-/root}/.cargo/bin:$PATH
    command -v cargo >/dev/null ||
        fail "no Rust toolchain: install $wanted or later with rustup (https://rustup.rs): curl -sSf https://sh.rustup.rs | sh"
    have=$(cargo --version | cut -d ' ' -f 2)
    [ "$(printf '%s\n%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ] ||
        fail "Rust $have is too old: vrouter needs $wanted or later; run: rustup update stable"
}

# What it takes to build: hwloc for the topology of cores and NUMA nodes, a C compiler for the linker.
BUILD_PACKAGES=(gcc libc6-dev pkg-config libhwloc-dev libudev-dev)
# What the demo runs against: real clients and observers.
DEMO_PACKAGES=(iproute2 iputils-ping iperf3 curl python3 ethtool procps jq dpdk-dev)
# What the tests take besides: an independent AF_XDP implementation is built from C; peers and observers.
TEST_PACKAGES=(clang llvm libbpf-dev m4 make libelf-dev zlib1g-dev tcpdump nftables containerd runc busybox-static
    containernetworking-plugins kmod xz-utils)
# What vrouter is measured beside: Open vSwitch with DPDK, testpmd, and DPDK's hash table.
PEER_PACKAGES=(openvswitch-switch-dpdk dpdk-dev libdpdk-dev)
