// SPDX-License-Identifier: Apache-2.0
//
// The little that our XDP programs need of the kernel's interface, so that they build with clang alone.
#pragma once

#include <linux/bpf.h>

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

// A map as the loader finds it in section `maps`.
struct map_definition {
    __u32 type;
    __u32 key_bytes;
    __u32 value_bytes;
    __u32 entries_max;
    __u32 flags;
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)BPF_FUNC_map_update_elem;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static long (*const bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;

// Queues of a device at most; NICs of today have up to a few hundred.
#define QUEUES_MAX 256

// The sockets that serve the device's queues, by queue. A frame can go to the socket of its own queue only.
struct map_definition SECTION("maps") sockets = {
    .type = BPF_MAP_TYPE_XSKMAP,
    .key_bytes = sizeof(__u32),
    .value_bytes = sizeof(__u32),
    .entries_max = QUEUES_MAX,
};
