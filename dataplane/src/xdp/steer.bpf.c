// SPDX-License-Identifier: Apache-2.0
/*
 * Decides, for each packet of a served device, whether a worker takes it or the kernel keeps it.
 *
 * No helper used here is restricted to GPL programs (bpf_map_lookup_elem, bpf_ktime_get_ns and
 * bpf_redirect_map are not, see gpl_only in kernel/bpf/helpers.c and net/core/filter.c), so the
 * object carries the licence of the project.
 *
 * Sizes, keys and the order of reasons are mirrored in entries.rs, steering.rs and counters.rs; tests compare them.
 * After a change run build.sh: the object is committed.
 */
#include <linux/bpf.h>
#include <linux/icmp.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAX_DEVICES 16
#define MAX_QUEUES 64
#define MAX_WORKERS 256
#define MAX_VIP_PREFIXES 65536
#define MAX_ENDPOINTS 262144
#define MAX_OWN_ADDRESSES 4096
#define MAX_LISTENERS 1024

/* A worker whose last heartbeat is older than this is dead or stopped: its queues pass. */
#define HEARTBEAT_LIMIT_NS 500000000LL

#define FRAGMENT_OFFSET 0x1fff
#define MORE_FRAGMENTS 0x2000

/* Why a packet went where it went; each has a counter. Those that redirect come last. */
enum reason {
	PASSED_NOT_IPV4,
	PASSED_GROUP_DESTINATION,
	PASSED_OTHER_STATION,
	PASSED_LISTENER,
	PASSED_OWN_ADDRESS,
	PASSED_NOT_OURS,
	PASSED_NO_SOCKET,
	PASSED_NO_HEARTBEAT,
	REDIRECTED_TO_VIP,
	REDIRECTED_FROM_ENDPOINT,
	REDIRECTED_ABOUT_ENDPOINT,
	REDIRECTED_TO_MASQUERADE_PORT,
	REASONS,
};

/* An (address, port, protocol), addresses and ports as they stand in the packet. */
struct endpoint {
	__be32 address;
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

struct prefix {
	__u32 length;
	__be32 address;
};

/* Ports from first to last, as numbers; none while last is 0. */
struct port_range {
	__u16 first;
	__u16 last;
};

/* A cache line per worker, so that two workers' heartbeats do not fight over one. */
struct heartbeat {
	__u64 ns;
	__u64 unused[7];
};

/* The device's MAX_QUEUES slots in queue_worker and xsks begin at first_slot; mac is its own station address. */
struct device {
	__u32 first_slot;
	__u8 mac[ETH_ALEN];
	__u16 zero;
};

/* ifindex -> what we know of it */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_DEVICES);
	__type(key, __u32);
	__type(value, struct device);
} devices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, MAX_DEVICES * MAX_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/* slot -> the number of the worker that serves it, plus one; 0 for none */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_DEVICES * MAX_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} queue_worker SEC(".maps");

/* worker -> CLOCK_MONOTONIC of its last burst; workers write it through a mapping */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_WORKERS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct heartbeat);
} heartbeats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_VIP_PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u8);
} vip_prefixes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ENDPOINTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint);
	__type(value, __u8);
} endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ENDPOINTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __be32);
	__type(value, __u8);
} endpoint_addrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_OWN_ADDRESSES);
	__type(key, __be32);
	__type(value, __u8);
} own_addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LISTENERS);
	__type(key, struct endpoint);
	__type(value, __u8);
} listeners SEC(".maps");

/* 0 -> the ports of our own addresses at which masqueraded flows get their replies */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct port_range);
} masquerade_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* What of the headers decides. Ports are there only if has_ports. */
struct addressing {
	struct endpoint source;
	struct endpoint destination;
	bool has_ports;
	bool fragment;
};

static __always_inline void count(__u32 reason)
{
	__u64 *packets = bpf_map_lookup_elem(&counters, &reason);

	if (packets)
		*packets += 1;
}

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* Those that quote the packet they are about (RFC 1122, 3.2.2). */
static __always_inline bool is_icmp_error(__u8 type)
{
	return type == ICMP_DEST_UNREACH || type == ICMP_SOURCE_QUENCH || type == ICMP_REDIRECT ||
	       type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB;
}

/* Multicast and broadcast, by either header. */
static __always_inline bool is_group(const struct ethhdr *ethernet, __be32 destination)
{
	return (ethernet->h_dest[0] & 1) || (destination & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) ||
	       destination == bpf_htonl(0xffffffff);
}

/*
 * Says whether the frame is meant for the device itself. One that is not (a switch that floods, a promiscuous
 * device) is another station's to forward; the kernel drops it as PACKET_OTHERHOST.
 */
static __always_inline bool is_own_station(const struct ethhdr *ethernet, const struct device *device)
{
	const __u16 *destination = (const void *)ethernet->h_dest;
	const __u16 *own = (const void *)device->mac;

	return destination[0] == own[0] && destination[1] == own[1] && destination[2] == own[2];
}

/*
 * Reads addresses, and ports where the packet has them: not in a later fragment, nor if header length, total
 * length or the octets received leave no room for them.
 */
static __always_inline void read_addressing(const struct iphdr *ip, const void *end, struct addressing *out)
{
	__u32 header_bytes = ip->ihl * 4;
	const __be16 *ports = (const void *)ip + header_bytes;

	__builtin_memset(out, 0, sizeof(*out));
	out->source.address = ip->saddr;
	out->destination.address = ip->daddr;
	out->source.protocol = ip->protocol;
	out->destination.protocol = ip->protocol;
	out->fragment = ip->frag_off & bpf_htons(MORE_FRAGMENTS | FRAGMENT_OFFSET);
	if (ip->frag_off & bpf_htons(FRAGMENT_OFFSET) || !has_ports(ip->protocol) || header_bytes < sizeof(*ip))
		return;
	if (bpf_ntohs(ip->tot_len) < header_bytes + 4 || (const void *)(ports + 2) > end)
		return;
	out->source.port = ports[0];
	out->destination.port = ports[1];
	out->has_ports = true;
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
static __always_inline bool is_masquerade_reply(const struct addressing *packet)
{
	if (packet->fragment)
		return is_masquerading() && bpf_map_lookup_elem(&endpoint_addrs, &packet->source.address);
	return packet->has_ports && is_masquerade_port(packet->destination.port) &&
	       bpf_map_lookup_elem(&endpoints, &packet->source);
}

static __always_inline enum reason decide(const struct addressing *packet)
{
	struct prefix destination = { .length = 32, .address = packet->destination.address };

	if (packet->has_ports && bpf_map_lookup_elem(&listeners, &packet->destination))
		return PASSED_LISTENER;
	if (bpf_map_lookup_elem(&own_addresses, &packet->destination.address))
		return is_masquerade_reply(packet) ? REDIRECTED_TO_MASQUERADE_PORT : PASSED_OWN_ADDRESS;
	if (bpf_map_lookup_elem(&vip_prefixes, &destination))
		return REDIRECTED_TO_VIP;
	if (packet->has_ports && bpf_map_lookup_elem(&endpoints, &packet->source))
		return REDIRECTED_FROM_ENDPOINT;
	/* Whoever decides about the later ones has to see the first: it alone has the ports. */
	if (packet->fragment && bpf_map_lookup_elem(&endpoint_addrs, &packet->source.address))
		return REDIRECTED_FROM_ENDPOINT;
	return PASSED_NOT_OURS;
}

/* Returns what a whole ICMP error quotes, as far as headers without options reach; NULL if it is none. */
static __always_inline const struct iphdr *quoted_packet(const struct iphdr *ip, const void *end)
{
	__u32 header_bytes = ip->ihl * 4;
	const struct icmphdr *error = (const void *)ip + header_bytes;
	const struct iphdr *quote = (const void *)(error + 1);

	if (ip->protocol != IPPROTO_ICMP || ip->frag_off & bpf_htons(FRAGMENT_OFFSET | MORE_FRAGMENTS))
		return NULL;
	if (header_bytes < sizeof(*ip) || bpf_ntohs(ip->tot_len) < header_bytes + sizeof(*error) + sizeof(*quote))
		return NULL;
	if ((const void *)(quote + 1) > end || !is_icmp_error(error->type) || quote->version != 4)
		return NULL;
	return quote;
}

/*
 * Says whether a packet is an ICMP error about one to an endpoint: we may have sent it on, translated. Errors
 * about what we sent in the other direction need no rule: they go to the VIP that it seemed to come from. One to an
 * address of ours has to quote a masqueraded packet.
 */
static __always_inline bool is_about_endpoint(const struct iphdr *ip, const void *end, bool is_to_own_address)
{
	const struct iphdr *quote = quoted_packet(ip, end);
	struct addressing quoted;

	if (!quote)
		return false;
	read_addressing(quote, end, &quoted);
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

SEC("xdp")
int steer(struct xdp_md *ctx)
{
	const void *end = (const void *)(long)ctx->data_end;
	const struct ethhdr *ethernet = (const void *)(long)ctx->data;
	const struct iphdr *ip = (const void *)(ethernet + 1);
	__u32 index = ctx->ingress_ifindex;
	const struct device *device;
	struct addressing packet;
	enum reason reason;

	if ((const void *)(ip + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP) || ip->version != 4)
		return pass(PASSED_NOT_IPV4);
	if (is_group(ethernet, ip->daddr))
		return pass(PASSED_GROUP_DESTINATION);
	device = bpf_map_lookup_elem(&devices, &index);
	if (!device)
		return pass(PASSED_NO_SOCKET);
	if (!is_own_station(ethernet, device))
		return pass(PASSED_OTHER_STATION);
	read_addressing(ip, end, &packet);
	reason = decide(&packet);
	if ((reason == PASSED_NOT_OURS || reason == PASSED_OWN_ADDRESS) &&
	    is_about_endpoint(ip, end, reason == PASSED_OWN_ADDRESS))
		reason = REDIRECTED_ABOUT_ENDPOINT;
	if (reason < REDIRECTED_TO_VIP)
		return pass(reason);
	return take(ctx, device, reason);
}

char _license[] SEC("license") = "Apache-2.0";
