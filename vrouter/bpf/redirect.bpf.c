// SPDX-License-Identifier: Apache-2.0
//
// The program of a guest port and of the host port: every frame goes to the engine.
//
// A frame that no socket serves is dropped, not passed: a pod's frames must never reach the node's own stack by
// accident, such as between the attachment of this program and the moment the port is in force.

#include "kernel.h"

SECTION("xdp.frags") int redirect(struct xdp_md *context)
{
    return bpf_redirect_map(&sockets, context->rx_queue_index, XDP_DROP);
}

char license_name[] SECTION("license") = "Apache-2.0";
