/* An experiment: established flows rewritten and redirected in XDP, by entries such as a worker would install.
 *
 * Each entry is one direction of a flow with its compiled rewrite. What has no entry passes to the kernel, where in
 * the experiment nobody waits for it.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FLOWS (1 << 17)
#define SECOND 1000000000ull

struct key {
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 protocol;
};

/* Differences are ones' complement sums in network order: RFC 1624, equation 3, `~m + m'`. */
struct rewrite {
	__be32 destination;
	__be16 destination_port;
	__u16 header_difference;
	__u16 transport_difference;
	__u8 station[ETH_ALEN];
	__u8 source_station[ETH_ALEN];
	__u16 unused;
	__u32 device;
	/* When the flow was last seen, in seconds; written once a second, as time-outs need it. */
	__u32 seen;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FLOWS);
	__type(key, struct key);
	__type(value, struct rewrite);
} flows SEC(".maps");

static __always_inline __u16 adjusted(__u16 checksum, __u32 difference)
{
	__u32 sum = (__u16)~checksum + difference;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

SEC("xdp")
int carry(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(ethernet + 1);
	struct udphdr *udp = (void *)(ip + 1);
	struct rewrite *rewrite;
	struct key key;
	__u32 now;

	if ((void *)(udp + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP) || *(__u8 *)ip != 0x45)
		return XDP_PASS;
	if (ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(0x3fff) || ip->ttl < 2)
		return XDP_PASS;
	key.source = ip->saddr;
	key.destination = ip->daddr;
	key.source_port = udp->source;
	key.destination_port = udp->dest;
	key.protocol = IPPROTO_UDP;
	rewrite = bpf_map_lookup_elem(&flows, &key);
	if (!rewrite)
		return XDP_PASS;
	now = bpf_ktime_get_coarse_ns() / SECOND;
	if (rewrite->seen != now)
		rewrite->seen = now;
	__builtin_memcpy(ethernet->h_dest, rewrite->station, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, rewrite->source_station, ETH_ALEN);
	ip->daddr = rewrite->destination;
	udp->dest = rewrite->destination_port;
	ip->ttl--;
	/* One less in the octet that is the high one of its word. */
	ip->check = adjusted(ip->check, rewrite->header_difference + (__u16)~bpf_htons(0x0100));
	if (udp->check)
		udp->check = adjusted(udp->check, rewrite->transport_difference);
	return bpf_redirect(rewrite->device, 0);
}

char _license[] SEC("license") = "Apache-2.0";
