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
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
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
#define MAX_SERVED_SOCKETS 65536

/* A worker whose last heartbeat is older than this is dead or stopped: its queues pass. */
#define HEARTBEAT_LIMIT_NS 500000000LL

/* Of IPv4 (RFC 791, 3.1). */
#define FRAGMENT_OFFSET 0x1fff
#define MORE_FRAGMENTS 0x2000

/* Of IPv6 (RFC 8200, 4.5). */
#define FRAGMENT_OFFSET_6 0xfff8
#define MORE_FRAGMENTS_6 0x0001

/* So many extension headers, and octets of them, are walked; what has more is known by its addresses alone. */
#define MAX_EXTENSION_HEADERS 8
#define MAX_EXTENSION_BYTES 1024
/* Every extension header has so many octets at least. */
#define EXTENSION_UNIT_BYTES 8

/* Nothing behind it is read: two chains of extension headers, and what is between them, end before. */
#define MAX_OFFSET 4095

/* Why a packet went where it went; each has a counter. Those that redirect come last. */
enum reason {
	PASSED_NOT_IP,
	PASSED_GROUP_DESTINATION,
	PASSED_LINK_LOCAL,
	PASSED_OTHER_STATION,
	PASSED_LINK_MESSAGE,
	PASSED_LISTENER,
	PASSED_OWN_ADDRESS,
	PASSED_NOT_OURS,
	PASSED_NO_SOCKET,
	PASSED_NO_HEARTBEAT,
	REDIRECTED_TO_VIP,
	REDIRECTED_FROM_ENDPOINT,
	REDIRECTED_ABOUT_ENDPOINT,
	REDIRECTED_TO_MASQUERADE_PORT,
	REDIRECTED_TO_SERVED_SOCKET,
	REASONS,
};

/*
 * An address as it stands in an IPv6 packet; one of IPv4 as the IPv6 address that stands for it, ::ffff:a.b.c.d
 * (RFC 4291, 2.5.5.2). No packet is read that has one of those in its IPv6 header, so that neither family can be
 * taken for the other.
 */
struct address {
	__be32 words[4];
};

/* An (address, port, protocol), addresses and ports as they stand in the packet. */
struct endpoint {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

struct prefix {
	__u32 length;
	struct address address;
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
	__type(key, struct address);
	__type(value, __u8);
} endpoint_addrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_OWN_ADDRESSES);
	__type(key, struct address);
	__type(value, __u8);
} own_addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LISTENERS);
	__type(key, struct endpoint);
	__type(value, __u8);
} listeners SEC(".maps");

/* (own address, port, protocol) that is a Service's: a NodePort, or an external address that is the box's own */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SERVED_SOCKETS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint);
	__type(value, __u8);
} served_sockets SEC(".maps");

/* The addresses of those. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_OWN_ADDRESSES);
	__type(key, struct address);
	__type(value, __u8);
} served_addrs SEC(".maps");

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
struct packet {
	struct endpoint source;
	struct endpoint destination;
	/* The octet of the frame behind the packet as it says itself, and as the one that quotes it says. */
	__u32 end;
	/* The octet of the frame where the header behind IP and extension headers begins; 0 if none was found. */
	__u32 transport;
	bool is_ipv6;
	bool has_ports;
	/* It may have ports, but not where we see them: a fragment, or too many extension headers. */
	bool by_addresses;
};

static __always_inline void count(__u32 reason)
{
	__u64 *packets = bpf_map_lookup_elem(&counters, &reason);

	if (packets)
		*packets += 1;
}

/*
 * Finds octets of the frame at a place that is a constant; says whether it has that many there. Neither that nor a pointer
 * that may be NULL is a matter of taste: without CAP_PERFMON the kernel refuses programs that add to pointers into
 * packets what is no constant, or compare them with NULL (kernel/bpf/verifier.c, retrieve_ptr_limit and
 * check_cond_jmp_op).
 */
static __always_inline bool octets(struct xdp_md *ctx, __u32 at, __u32 bytes, const void **first)
{
	const void *start = (const void *)(long)ctx->data;
	const void *end = (const void *)(long)ctx->data_end;

	if (start + at + bytes > end)
		return false;
	*first = start + at;
	return true;
}

/* Copies octets of the frame from any place; says whether it has that many there. */
static __always_inline bool copy(struct xdp_md *ctx, __u32 at, __u32 bytes, void *to)
{
	return at <= MAX_OFFSET && !bpf_xdp_load_bytes(ctx, at, to, bytes);
}

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* Those that quote the packet they are about (RFC 1122, 3.2.2; RFC 4443, 2.1). */
static __always_inline bool is_icmp_error(__u8 type, bool is_ipv6)
{
	if (is_ipv6)
		return type >= ICMPV6_DEST_UNREACH && type <= ICMPV6_PARAMPROB;
	return type == ICMP_DEST_UNREACH || type == ICMP_SOURCE_QUENCH || type == ICMP_REDIRECT ||
	       type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB;
}

/*
 * What stations of a link tell each other: multicast listeners (RFC 2710, 3810), routers and neighbours (RFC 4861),
 * 130 to 137 and 143. linux/icmpv6.h names only some of them.
 */
static __always_inline bool is_link_message_type(__u8 type)
{
	return (type >= ICMPV6_MGM_QUERY && type <= 137) || type == ICMPV6_MLD2_REPORT;
}

static __always_inline bool stands_for_ipv4(const struct address *address)
{
	return !address->words[0] && !address->words[1] && address->words[2] == bpf_htonl(0xffff);
}

/* Multicast and broadcast, by either header. */
static __always_inline bool is_group(const struct ethhdr *ethernet, const struct packet *packet)
{
	const __be32 *words = packet->destination.address.words;

	if (ethernet->h_dest[0] & 1)
		return true;
	if (packet->is_ipv6)
		return (words[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
	return (words[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || words[3] == bpf_htonl(0xffffffff);
}

/* fe80::/10: another link has the same addresses, so no Service can. */
static __always_inline bool is_link_local(const struct packet *packet)
{
	return (packet->destination.address.words[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
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

/* Copies the ports at an octet of the frame: fast where they are if there are neither options nor extension headers. */
static __always_inline bool copy_ports(struct xdp_md *ctx, __u32 at, __be16 ports[2])
{
	const void *first;

	if (at == ETH_HLEN + sizeof(struct iphdr)) {
		if (!octets(ctx, ETH_HLEN + sizeof(struct iphdr), 4, &first))
			return false;
		__builtin_memcpy(ports, first, 4);
		return true;
	}
	if (at == ETH_HLEN + sizeof(struct ipv6hdr)) {
		if (!octets(ctx, ETH_HLEN + sizeof(struct ipv6hdr), 4, &first))
			return false;
		__builtin_memcpy(ports, first, 4);
		return true;
	}
	return copy(ctx, at, 4, ports);
}

/* Reads the ports of the transport header, if it is there and of a kind that has some. */
static __always_inline void read_ports(struct xdp_md *ctx, struct packet *packet)
{
	__be16 ports[2];

	if (!packet->transport || !has_ports(packet->source.protocol) || packet->transport + 4 > packet->end)
		return;
	if (!copy_ports(ctx, packet->transport, ports))
		return;
	packet->source.port = ports[0];
	packet->destination.port = ports[1];
	packet->has_ports = true;
}

/*
 * Reads the IPv4 packet with that header at an octet of the frame. It has no transport header if it is a later fragment,
 * or if its header length cannot be.
 */
static __always_inline bool read_ipv4(const struct iphdr *ip, __u32 at, __u32 limit, struct packet *packet)
{
	__u32 header_bytes;

	if (ip->version != 4)
		return false;
	packet->source.address.words[2] = bpf_htonl(0xffff);
	packet->source.address.words[3] = ip->saddr;
	packet->destination.address.words[2] = bpf_htonl(0xffff);
	packet->destination.address.words[3] = ip->daddr;
	packet->source.protocol = ip->protocol;
	packet->destination.protocol = ip->protocol;
	packet->end = at + bpf_ntohs(ip->tot_len);
	if (packet->end > limit)
		packet->end = limit;
	packet->by_addresses = ip->frag_off & bpf_htons(MORE_FRAGMENTS | FRAGMENT_OFFSET);
	header_bytes = ip->ihl * 4;
	if (!(ip->frag_off & bpf_htons(FRAGMENT_OFFSET)) && header_bytes >= sizeof(*ip))
		packet->transport = at + header_bytes;
	return true;
}

static __always_inline bool is_extension_header(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING || protocol == IPPROTO_DSTOPTS ||
	       protocol == IPPROTO_FRAGMENT || protocol == IPPROTO_AH;
}

/* Returns the length of an extension header (RFC 8200, 4.3 to 4.6; RFC 4302, 2.2). */
static __always_inline __u32 extension_bytes(__u8 protocol, __u8 length)
{
	if (protocol == IPPROTO_FRAGMENT)
		return EXTENSION_UNIT_BYTES;
	if (protocol == IPPROTO_AH)
		return (length + 2) * 4;
	return (length + 1) * EXTENSION_UNIT_BYTES;
}

/*
 * Finds the transport header behind the extension headers that begin at an octet of the frame, the first of them of
 * the given protocol. There is none behind a later fragment's header, nor in a chain that goes on behind the end of
 * the packet or of what arrived. A function of its own, so that the verifier has less to look at: half as much.
 */
static __noinline void find_transport(struct xdp_md *ctx, __u32 at, __u8 protocol, struct packet *packet)
{
	__u32 far = at + MAX_EXTENSION_BYTES;

	for (int headers = 0; headers <= MAX_EXTENSION_HEADERS; headers++) {
		__u8 header[EXTENSION_UNIT_BYTES];
		__be16 fragment;

		if (at > packet->end)
			return;
		if (at > far)
			break;
		if (!is_extension_header(protocol)) {
			packet->source.protocol = protocol;
			packet->destination.protocol = protocol;
			packet->transport = at;
			return;
		}
		if (headers == MAX_EXTENSION_HEADERS)
			break;
		if (at + EXTENSION_UNIT_BYTES > packet->end || !copy(ctx, at, sizeof(header), header))
			return;
		if (protocol == IPPROTO_FRAGMENT) {
			__builtin_memcpy(&fragment, header + 2, sizeof(fragment));
			if (fragment & bpf_htons(FRAGMENT_OFFSET_6 | MORE_FRAGMENTS_6))
				packet->by_addresses = true;
			if (fragment & bpf_htons(FRAGMENT_OFFSET_6))
				return;
		}
		at += extension_bytes(protocol, header[1]);
		protocol = header[0];
	}
	packet->by_addresses = true;
}

/* Reads the IPv6 packet with that header at an octet of the frame. */
static __always_inline bool read_ipv6(struct xdp_md *ctx, const struct ipv6hdr *ip, __u32 at, __u32 limit,
				      struct packet *packet)
{
	if (ip->version != 6)
		return false;
	__builtin_memcpy(&packet->source.address, &ip->saddr, sizeof(struct address));
	__builtin_memcpy(&packet->destination.address, &ip->daddr, sizeof(struct address));
	if (stands_for_ipv4(&packet->source.address) || stands_for_ipv4(&packet->destination.address))
		return false;
	packet->is_ipv6 = true;
	packet->end = at + sizeof(*ip) + bpf_ntohs(ip->payload_len);
	if (packet->end > limit)
		packet->end = limit;
	find_transport(ctx, at + sizeof(*ip), ip->nexthdr, packet);
	return true;
}

/*
 * Reads the packet of that family that the frame carries; says whether there is one. It has ports but for a later
 * fragment, or if the lengths of headers, packet and frame leave no room for them.
 */
static __always_inline bool read_packet(struct xdp_md *ctx, bool is_ipv6, struct packet *packet)
{
	const void *ip;

	__builtin_memset(packet, 0, sizeof(*packet));
	if (is_ipv6) {
		if (!octets(ctx, ETH_HLEN, sizeof(struct ipv6hdr), &ip) ||
		    !read_ipv6(ctx, ip, ETH_HLEN, MAX_OFFSET, packet))
			return false;
	} else if (!octets(ctx, ETH_HLEN, sizeof(struct iphdr), &ip) ||
		   !read_ipv4(ip, ETH_HLEN, MAX_OFFSET, packet)) {
		return false;
	}
	read_ports(ctx, packet);
	return true;
}

/* Likewise for a packet that is quoted at an octet of the frame, and ends before the octet limit whatever it says. */
static __always_inline bool read_quoted(struct xdp_md *ctx, __u32 at, __u32 limit, bool is_ipv6,
					struct packet *packet)
{
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	} ip;

	__builtin_memset(packet, 0, sizeof(*packet));
	if (is_ipv6) {
		if (!copy(ctx, at, sizeof(ip.v6), &ip) || !read_ipv6(ctx, &ip.v6, at, limit, packet))
			return false;
	} else if (!copy(ctx, at, sizeof(ip.v4), &ip) || !read_ipv4(&ip.v4, at, limit, packet)) {
		return false;
	}
	read_ports(ctx, packet);
	return true;
}

/* Returns the type of a whole ICMP message in a packet of either family, or -1 if it has none. */
static __always_inline int icmp_type(struct xdp_md *ctx, const struct packet *packet)
{
	struct icmphdr message;

	if (packet->source.protocol != (packet->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP) || packet->by_addresses)
		return -1;
	if (!packet->transport || packet->transport + sizeof(message) > packet->end)
		return -1;
	return copy(ctx, packet->transport, sizeof(message), &message) ? message.type : -1;
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
