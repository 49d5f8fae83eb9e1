// SPDX-License-Identifier: Apache-2.0
/*
 * What the headers of a frame say, as far as it decides: of the packet itself, and of one that an ICMP error quotes.
 */
#pragma once

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

#include "maps.bpf.h"

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
