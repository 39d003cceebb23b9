// SPDX-License-Identifier: Apache-2.0
//
// The program of an uplink that the engine shares with the kernel: steers the tunnels' packets to the engine and passes
// everything else.
//
//   UDP to an own address and a tunnel port ............................. engine
//   fragments of such a packet, the first and those after it ............. engine
//   ICMP and ICMPv6 errors that quote a packet that we sent in a tunnel .. engine
//   everything else: ARP, ND, 802.1Q, other fragments .................... kernel
//
// Only a first fragment names its ports, so a map remembers those that were steered, and later ones follow. Tunnel endpoints
// neither fragment nor reassemble (RFC 7348 section 4.3): the engine drops all of them, with one reason in one place. A later
// fragment that overtakes its first one passes.
//
// No socket for the frame's queue: the kernel gets it, as if this program were not there.

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include "kernel.h"

#define ADDRESSES_MAX 64
#define UDP_PORTS_MAX 256

// IPv6 extension headers followed before a packet is left to the kernel. Tunnels of Linux have none.
#define EXTENSION_HEADERS_MAX 4

// Datagrams remembered: the least recently used gives way.
#define FRAGMENTED_MAX 1024

#define IPV4_FRAGMENT_OFFSET 0x1fff
#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV6_FRAGMENT_OFFSET 0xfff8
#define IPV6_MORE_FRAGMENTS 0x0001

// RFC 792: destination unreachable, source quench, redirect, time exceeded, parameter problem.
#define ICMP_ERRORS (1 << 3 | 1 << 4 | 1 << 5 | 1 << 11 | 1 << 12)
#define ICMP_TYPE_MAX 31
// RFC 4443 section 2.1: error messages are those below 128.
#define ICMPV6_INFORMATIONAL 128
// Type, code, checksum, and four bytes that depend on the type.
#define ICMP_HEADER_BYTES 8

// An address in network order; an IPv4 address as an IPv4-mapped IPv6 one (RFC 4291 section 2.5.5.2).
struct address {
    __u32 words[4];
};

// The engine's own tunnel endpoints.
struct map_definition SECTION("maps") addresses = {
    .type = BPF_MAP_TYPE_HASH,
    .key_bytes = sizeof(struct address),
    .value_bytes = sizeof(__u8),
    .entries_max = ADDRESSES_MAX,
};

// UDP ports on which tunnels' packets arrive, in network order.
struct map_definition SECTION("maps") udp_ports = {
    .type = BPF_MAP_TYPE_HASH,
    .key_bytes = sizeof(__u16),
    .value_bytes = sizeof(__u8),
    .entries_max = UDP_PORTS_MAX,
};

// What the fragments of one UDP datagram have in common, as far as all of them tell (RFC 791 section 2.3, RFC 8200 section 4.5).
struct datagram {
    struct address source;
    struct address destination;
    __u32 identification;
};

// Datagrams whose first fragment was steered.
struct map_definition SECTION("maps") fragmented = {
    .type = BPF_MAP_TYPE_LRU_HASH,
    .key_bytes = sizeof(struct datagram),
    .value_bytes = sizeof(__u8),
    .entries_max = FRAGMENTED_MAX,
};

// Remembers what became of a first fragment. Identifications come round: one that is not ours makes an older one forgotten.
INLINE int note_first(const struct datagram *datagram, int is_ours)
{
    __u8 present = 1;
    if (is_ours)
        bpf_map_update_elem(&fragmented, datagram, &present, BPF_ANY);
    else
        bpf_map_delete_elem(&fragmented, datagram);
    return is_ours;
}

INLINE int is_first_ours(const struct datagram *datagram)
{
    return bpf_map_lookup_elem(&fragmented, datagram) != 0;
}

INLINE int is_own_ipv4(__u32 address)
{
    struct address key = { { 0, 0, __builtin_bswap32(0xffff), address } };
    return bpf_map_lookup_elem(&addresses, &key) != 0;
}

INLINE int is_own_ipv6(const struct in6_addr *address)
{
    struct address key;
    __builtin_memcpy(&key, address, sizeof(key));
    return bpf_map_lookup_elem(&addresses, &key) != 0;
}

// Whether a UDP header lies at `header`, whose destination is a tunnel port.
INLINE int is_tunnel(const void *header, const void *end)
{
    const struct udphdr *udp = header;
    if ((const void *)(udp + 1) > end)
        return 0;
    __u16 port = udp->dest;
    return bpf_map_lookup_elem(&udp_ports, &port) != 0;
}

// Whether an ICMP error quotes a packet of ours: from an own address to a tunnel port.
INLINE int quotes_ipv4(const __u8 *header, const void *end)
{
    const struct iphdr *quoted = (const void *)(header + ICMP_HEADER_BYTES);
    if ((const void *)(quoted + 1) > end)
        return 0;
    __u8 type = header[0];
    if (type > ICMP_TYPE_MAX || !(ICMP_ERRORS >> type & 1))
        return 0;
    if (quoted->version != 4 || quoted->ihl < 5 || quoted->protocol != IPPROTO_UDP)
        return 0;
    if (!is_own_ipv4(quoted->saddr))
        return 0;
    return is_tunnel((const void *)quoted + quoted->ihl * 4, end);
}

INLINE int quotes_ipv6(const __u8 *header, const void *end)
{
    const struct ipv6hdr *quoted = (const void *)(header + ICMP_HEADER_BYTES);
    if ((const void *)(quoted + 1) > end)
        return 0;
    if (header[0] >= ICMPV6_INFORMATIONAL || quoted->version != 6 || quoted->nexthdr != IPPROTO_UDP)
        return 0;
    if (!is_own_ipv6(&quoted->saddr))
        return 0;
    return is_tunnel(quoted + 1, end);
}

INLINE int is_ours_ipv4(const void *header, const void *end)
{
    const struct iphdr *ip = header;
    if ((const void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
        return 0;
    if (!is_own_ipv4(ip->daddr))
        return 0;
    const void *payload = header + ip->ihl * 4;
    if (UNLIKELY(ip->frag_off & __builtin_bswap16(IPV4_FRAGMENT_OFFSET | IPV4_MORE_FRAGMENTS))) {
        struct datagram datagram = {
            { { 0, 0, __builtin_bswap32(0xffff), ip->saddr } },
            { { 0, 0, __builtin_bswap32(0xffff), ip->daddr } },
            ip->id,
        };
        if (ip->protocol != IPPROTO_UDP)
            return 0;
        if (ip->frag_off & __builtin_bswap16(IPV4_FRAGMENT_OFFSET))
            return is_first_ours(&datagram);
        return note_first(&datagram, is_tunnel(payload, end));
    }
    if (LIKELY(ip->protocol == IPPROTO_UDP))
        return is_tunnel(payload, end);
    if (ip->protocol == IPPROTO_ICMP)
        return quotes_ipv4(payload, end);
    return 0;
}

INLINE int is_ours_ipv6(const void *header, const void *end)
{
    const struct ipv6hdr *ip = header;
    if ((const void *)(ip + 1) > end || ip->version != 6)
        return 0;
    if (!is_own_ipv6(&ip->daddr))
        return 0;
    __u8 next = ip->nexthdr;
    const __u8 *payload = (const void *)(ip + 1);
    struct datagram datagram;
    int is_fragment = 0;
    __builtin_memcpy(&datagram.source, &ip->saddr, sizeof(datagram.source));
    __builtin_memcpy(&datagram.destination, &ip->daddr, sizeof(datagram.destination));
    datagram.identification = 0;
#pragma clang loop unroll(full)
    for (int i = 0; i < EXTENSION_HEADERS_MAX; i++) {
        if (LIKELY(next == IPPROTO_UDP)) {
            int is_ours = is_tunnel(payload, end);
            return UNLIKELY(is_fragment) ? note_first(&datagram, is_ours) : is_ours;
        }
        if (next == IPPROTO_ICMPV6 && !is_fragment)
            return quotes_ipv6(payload, end);
        if (payload + 8 > (const __u8 *)end)
            break;
        if (next == IPPROTO_FRAGMENT && !is_fragment) {
            __u16 field = payload[2] << 8 | payload[3];
            __builtin_memcpy(&datagram.identification, payload + 4, sizeof(datagram.identification));
            if (field & IPV6_FRAGMENT_OFFSET)
                return is_first_ours(&datagram);
            is_fragment = field & IPV6_MORE_FRAGMENTS;
            next = payload[0];
            payload += 8;
        } else if (next == IPPROTO_HOPOPTS || next == IPPROTO_DSTOPTS) {
            // RFC 8200 section 4.3: the length is in units of 8 bytes, without the first.
            next = payload[0];
            payload += 8 + payload[1] * 8;
        } else {
            break;
        }
    }
    // Later fragments tell no protocol for sure (RFC 8200 section 4.5), so a first one of any makes an older datagram forgotten.
    return UNLIKELY(is_fragment) ? note_first(&datagram, 0) : 0;
}

SECTION("xdp.frags") int steer(struct xdp_md *context)
{
    const void *data = (const void *)(long)context->data;
    const void *end = (const void *)(long)context->data_end;
    const struct ethhdr *ethernet = data;
    int is_ours = 0;

    if ((const void *)(ethernet + 1) > end)
        return XDP_PASS;
    if (ethernet->h_proto == __builtin_bswap16(ETH_P_IP))
        is_ours = is_ours_ipv4(ethernet + 1, end);
    else if (ethernet->h_proto == __builtin_bswap16(ETH_P_IPV6))
        is_ours = is_ours_ipv6(ethernet + 1, end);
    if (!is_ours)
        return XDP_PASS;
    return bpf_redirect_map(&sockets, context->rx_queue_index, XDP_PASS);
}

char license_name[] SECTION("license") = "Apache-2.0";
