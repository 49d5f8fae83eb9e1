// SPDX-License-Identifier: Apache-2.0
/*
 * Decides, for each packet of a served device, whether a worker takes it or the kernel keeps it.
 *
 * No helper used here is restricted to GPL programs (bpf_map_lookup_elem, bpf_ktime_get_ns and
 * bpf_redirect_map are not, see gpl_only in kernel/bpf/helpers.c and net/core/filter.c), so the
 * object carries the licence of the project.
 *
 * maps.bpf.h has what it knows, headers.bpf.h how packets are read. After a change of any of them run build.sh: the object
 * is committed.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "headers.bpf.h"
#include "maps.bpf.h"

/* A worker whose last heartbeat is older than this is dead or stopped: its queues pass. */
#define HEARTBEAT_LIMIT_NS 500000000LL

static __always_inline void count(__u32 reason)
{
	__u64 *packets = bpf_map_lookup_elem(&counters, &reason);

	if (packets)
		*packets += 1;
}

static __always_inline bool is_masquerade_port(__be16 port)
{
	__u16 number = bpf_ntohs(port);
	__u32 only = 0;
	const struct port_range *ours = bpf_map_lookup_elem(&masquerade_ports, &only);

	return ours && number && number >= ours->first && number <= ours->last;
}

static __always_inline bool is_masquerading(void)
{
	__u32 only = 0;
	const struct port_range *ours = bpf_map_lookup_elem(&masquerade_ports, &only);

	return ours && ours->last;
}

/*
 * Says whether a packet to an address of ours may be an endpoint's reply to a masqueraded flow. Of fragments any may
 * be: the later ones have no port, and whoever decides about those has to see the first.
 */
static __always_inline bool is_masquerade_reply(const struct packet *packet)
{
	if (packet->by_addresses)
		return is_masquerading() && bpf_map_lookup_elem(&endpoint_addrs, &packet->source.address);
	return packet->has_ports && is_masquerade_port(packet->destination.port) &&
	       bpf_map_lookup_elem(&endpoints, &packet->source);
}

/*
 * Says whether a packet to an address of ours is to a socket of a Service. Of fragments any may be, as for masquerade
 * ports; those that are not go back to the kernel.
 */
static __always_inline bool is_to_served_socket(const struct packet *packet)
{
	if (packet->by_addresses)
		return bpf_map_lookup_elem(&served_addrs, &packet->destination.address);
	return packet->has_ports && bpf_map_lookup_elem(&served_sockets, &packet->destination);
}

static __always_inline enum reason decide(const struct packet *packet)
{
	struct prefix destination = { .length = 128, .address = packet->destination.address };

	if (packet->has_ports && bpf_map_lookup_elem(&listeners, &packet->destination))
		return PASSED_LISTENER;
	if (bpf_map_lookup_elem(&own_addresses, &packet->destination.address)) {
		if (is_masquerade_reply(packet))
			return REDIRECTED_TO_MASQUERADE_PORT;
		return is_to_served_socket(packet) ? REDIRECTED_TO_SERVED_SOCKET : PASSED_OWN_ADDRESS;
	}
	if (bpf_map_lookup_elem(&vip_prefixes, &destination))
		return REDIRECTED_TO_VIP;
	if (packet->has_ports && bpf_map_lookup_elem(&endpoints, &packet->source))
		return REDIRECTED_FROM_ENDPOINT;
	/* Whoever decides about the later ones has to see the first: it alone has the ports. */
	if (packet->by_addresses && bpf_map_lookup_elem(&endpoint_addrs, &packet->source.address))
		return REDIRECTED_FROM_ENDPOINT;
	return PASSED_NOT_OURS;
}

/*
 * Says whether a packet is an ICMP error about one to an endpoint: we may have sent it on, translated. Errors
 * about what we sent in the other direction need no rule: they go to the VIP that it seemed to come from. One to an
 * address of ours has to quote a masqueraded packet, or one from a socket of a Service.
 */
static __always_inline bool is_about_endpoint(struct xdp_md *ctx, const struct packet *error, int type,
					      bool is_to_own_address)
{
	__u32 quote = error->transport + sizeof(struct icmphdr);
	struct packet quoted;

	if (type < 0 || !is_icmp_error(type, error->is_ipv6))
		return false;
	if (!read_quoted(ctx, quote, error->end, error->is_ipv6, &quoted))
		return false;
	if (is_to_own_address && quoted.has_ports && bpf_map_lookup_elem(&served_sockets, &quoted.source))
		return true;
	if (is_to_own_address && !is_masquerade_port(quoted.source.port))
		return false;
	return quoted.has_ports && bpf_map_lookup_elem(&endpoints, &quoted.destination);
}

/* Says whether the worker of a queue's slot has been at work lately. */
static __always_inline bool has_heartbeat(__u32 worker)
{
	struct heartbeat *last = bpf_map_lookup_elem(&heartbeats, &worker);
	__u64 ns = last ? *(volatile __u64 *)&last->ns : 0;

	/* The worker's clock reading may be a little ahead of ours: the difference is signed. */
	return ns && (__s64)(bpf_ktime_get_ns() - ns) < HEARTBEAT_LIMIT_NS;
}

static __always_inline int pass(enum reason reason)
{
	count(reason);
	return XDP_PASS;
}

/* Gives the packet to the socket of its queue, or passes it if nobody would read it there. */
static __always_inline int take(struct xdp_md *ctx, const struct device *device, enum reason reason)
{
	__u32 queue = ctx->rx_queue_index;
	__u32 *worker;
	__u32 slot;
	int verdict;

	if (queue >= MAX_QUEUES)
		return pass(PASSED_NO_SOCKET);
	slot = device->first_slot + queue;
	worker = bpf_map_lookup_elem(&queue_worker, &slot);
	if (!worker || !*worker)
		return pass(PASSED_NO_SOCKET);
	if (!has_heartbeat(*worker - 1))
		return pass(PASSED_NO_HEARTBEAT);
	verdict = bpf_redirect_map(&xsks, slot, XDP_PASS);
	if (verdict != XDP_REDIRECT)
		return pass(PASSED_NO_SOCKET);
	count(reason);
	return verdict;
}

static __always_inline int steer_frame(struct xdp_md *ctx)
{
	const struct ethhdr *ethernet;
	const void *first;
	__u32 index = ctx->ingress_ifindex;
	const struct device *device;
	struct packet packet;
	enum reason reason;
	bool is_ipv6;
	int type;

	if (!octets(ctx, 0, sizeof(*ethernet), &first))
		return pass(PASSED_NOT_IP);
	ethernet = first;
	is_ipv6 = ethernet->h_proto == bpf_htons(ETH_P_IPV6);
	if (!is_ipv6 && ethernet->h_proto != bpf_htons(ETH_P_IP))
		return pass(PASSED_NOT_IP);
	if (!read_packet(ctx, is_ipv6, &packet))
		return pass(PASSED_NOT_IP);
	if (is_group(ethernet, &packet))
		return pass(PASSED_GROUP_DESTINATION);
	if (is_link_local(&packet))
		return pass(PASSED_LINK_LOCAL);
	device = bpf_map_lookup_elem(&devices, &index);
	if (!device)
		return pass(PASSED_NO_SOCKET);
	if (!is_own_station(ethernet, device))
		return pass(PASSED_OTHER_STATION);
	type = icmp_type(ctx, &packet);
	if (is_ipv6 && is_link_message_type(type))
		return pass(PASSED_LINK_MESSAGE);
	reason = decide(&packet);
	if ((reason == PASSED_NOT_OURS || reason == PASSED_OWN_ADDRESS) &&
	    is_about_endpoint(ctx, &packet, type, reason == PASSED_OWN_ADDRESS))
		reason = REDIRECTED_ABOUT_ENDPOINT;
	if (reason < REDIRECTED_TO_VIP)
		return pass(reason);
	return take(ctx, device, reason);
}

SEC("xdp")
int steer(struct xdp_md *ctx)
{
	return steer_frame(ctx);
}

/* For devices whose packets may come in several buffers: all that is looked at lies in the first. */
SEC("xdp.frags")
int steer_chains(struct xdp_md *ctx)
{
	return steer_frame(ctx);
}

char _license[] SEC("license") = "Apache-2.0";
