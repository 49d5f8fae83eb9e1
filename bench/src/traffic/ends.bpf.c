/* Both ends of the traffic generator: `arrive` where packets end, `collect` where replies come back.
 *
 * `arrive` stands at tc ingress, behind whatever is measured. It counts, times and drops, so that a packet costs no
 * user space there, and answers what opens or closes a connection. XDP would do it sooner, but makes the sender copy
 * each packet once more. `collect` gives replies to the generator's sockets.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define STAMP_MAGIC 0x54476231
#define FLOWS (1 << 20)
#define QUEUES 64
/* Buckets of a histogram: 2^7 for each power of two of nanoseconds. */
#define BUCKET_BITS 7
#define BUCKETS (40 << BUCKET_BITS)

#define FIN 0x01
#define SYN 0x02
#define RST 0x04
#define ACK 0x10

enum count {
	RECEIVED,
	REORDERED,
	CONNECTIONS_OPENED,
	CONNECTIONS_CLOSED,
	SEGMENTS_WITHOUT_DATA,
	NOT_OURS,
	COUNTS,
};

/* What the loader sets; network order. */
struct settings {
	__be32 clients;
	__be32 clients_mask;
	/* Datagrams of a flow with a lower sequence number are sent back. */
	__u32 echo_below;
	__u32 unused;
};

/* What each measured packet begins with behind its transport header. */
struct stamp {
	__be32 magic;
	__be32 flow;
	__be32 sequence;
	__be16 due_high;
	__be32 due_low;
} __attribute__((packed));

/* A TCP header with the timestamps option, as the generator makes all of them. */
struct segment {
	__be16 source;
	__be16 destination;
	__be32 sequence;
	__be32 acknowledged;
	__u8 offset;
	__u8 flags;
	__be16 window;
	__sum16 check;
	__be16 urgent;
	__u8 padding[2];
	__u8 option;
	__u8 option_length;
	__be32 value;
	__be32 echo;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BUCKETS);
	__type(key, __u32);
	__type(value, __u64);
} latencies SEC(".maps");

/* The flow, and the highest sequence number seen of it, in one word. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FLOWS);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

static __always_inline void count(__u32 which)
{
	__u64 *value = bpf_map_lookup_elem(&counts, &which);

	if (value)
		*value += 1;
}

/* The place of the highest bit, by halving: BPF has no instruction for it. */
static __always_inline __u32 log2(__u64 value)
{
	__u32 place = 0;

	if (value >> 32) { place += 32; value >>= 32; }
	if (value >> 16) { place += 16; value >>= 16; }
	if (value >> 8) { place += 8; value >>= 8; }
	if (value >> 4) { place += 4; value >>= 4; }
	if (value >> 2) { place += 2; value >>= 2; }
	return place + (value >> 1);
}

static __always_inline void record(__u64 ns)
{
	__u32 bucket = ns, power;
	__u64 *value;

	if (ns >> BUCKET_BITS) {
		power = log2(ns);
		bucket = (ns >> (power - BUCKET_BITS)) & ((1 << BUCKET_BITS) - 1);
		bucket += (power - BUCKET_BITS + 1) << BUCKET_BITS;
	}
	if (bucket >= BUCKETS)
		bucket = BUCKETS - 1;
	value = bpf_map_lookup_elem(&latencies, &bucket);
	if (value)
		*value += 1;
}

/* Counts a measured packet and returns its sequence number. */
static __always_inline __u32 take(const struct stamp *stamp)
{
	__u32 flow = bpf_ntohl(stamp->flow), sequence = bpf_ntohl(stamp->sequence);
	__u64 due = (__u64)bpf_ntohs(stamp->due_high) << 32 | bpf_ntohl(stamp->due_low);
	__u64 now = bpf_ktime_get_ns() & 0xffffffffffff;
	__u64 last = (__u64)flow << 32 | sequence;
	__u32 slot = flow & (FLOWS - 1);
	__u64 *before = bpf_map_lookup_elem(&seen, &slot);

	count(RECEIVED);
	record(now > due ? now - due : 0);
	if (before) {
		if (*before >> 32 == flow && *before >= last && *before)
			count(REORDERED);
		else
			*before = last;
	}
	return sequence;
}

static __always_inline void turn_round(struct ethhdr *ethernet, struct iphdr *ip)
{
	__u8 station[ETH_ALEN];
	__be32 address = ip->saddr;

	__builtin_memcpy(station, ethernet->h_dest, ETH_ALEN);
	__builtin_memcpy(ethernet->h_dest, ethernet->h_source, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, station, ETH_ALEN);
	ip->saddr = ip->daddr;
	ip->daddr = address;
}

static __always_inline __sum16 folded(__wsum sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Answers a SYN or FIN: its number is acknowledged, its time value sent back. Swapped ports keep the checksum. */
static __always_inline void answer(struct segment *tcp)
{
	struct segment old = *tcp, new = *tcp;
	__be32 *from = (void *)&old, *to = (void *)&new;

	new.source = old.destination;
	new.destination = old.source;
	new.sequence = old.flags & SYN ? bpf_htonl(1) : old.acknowledged;
	new.acknowledged = bpf_htonl(bpf_ntohl(old.sequence) + 1);
	new.flags = old.flags | ACK;
	new.value = bpf_htonl(1);
	new.echo = old.value;
	new.check = 0;
	old.check = 0;
	new.check = folded(bpf_csum_diff(from, sizeof(old), to, sizeof(new), (__u16)~tcp->check));
	*tcp = new;
}

static __always_inline int arrive_tcp(struct __sk_buff *skb, struct ethhdr *ethernet, struct iphdr *ip, void *end)
{
	struct segment *tcp = (void *)(ip + 1);
	const struct stamp *stamp = (void *)(tcp + 1);

	if ((void *)(tcp + 1) > end)
		return TC_ACT_OK;
	if (!(tcp->flags & (SYN | FIN)) || tcp->flags & RST) {
		if ((void *)(stamp + 1) <= end && stamp->magic == bpf_htonl(STAMP_MAGIC))
			take(stamp);
		else
			count(SEGMENTS_WITHOUT_DATA);
		return TC_ACT_SHOT;
	}
	count(tcp->flags & SYN ? CONNECTIONS_OPENED : CONNECTIONS_CLOSED);
	answer(tcp);
	turn_round(ethernet, ip);
	return bpf_redirect(skb->ifindex, 0);
}

static __always_inline int arrive_udp(struct __sk_buff *skb, struct ethhdr *ethernet, struct iphdr *ip, void *end,
				      const struct settings *set)
{
	struct udphdr *udp = (void *)(ip + 1);
	const struct stamp *stamp = (void *)(udp + 1);
	__be16 port;

	if ((void *)(stamp + 1) > end || stamp->magic != bpf_htonl(STAMP_MAGIC))
		return TC_ACT_OK;
	if (take(stamp) >= set->echo_below)
		return TC_ACT_SHOT;
	port = udp->source;
	udp->source = udp->dest;
	udp->dest = port;
	turn_round(ethernet, ip);
	return bpf_redirect(skb->ifindex, 0);
}

/* Returns the IPv4 header if there is one without options. */
static __always_inline struct iphdr *ipv4(struct ethhdr *ethernet, void *end)
{
	struct iphdr *ip = (void *)(ethernet + 1);

	if ((void *)(ip + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP) || *(__u8 *)ip != 0x45)
		return 0;
	return ip;
}

SEC("classifier")
int arrive(struct __sk_buff *skb)
{
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *ethernet = (void *)(long)skb->data;
	struct iphdr *ip = ipv4(ethernet, end);
	__u32 only = 0;
	const struct settings *set = bpf_map_lookup_elem(&settings, &only);

	if (!ip || !set || (ip->saddr & set->clients_mask) != set->clients) {
		count(NOT_OURS);
		return TC_ACT_OK;
	}
	if (ip->protocol == IPPROTO_UDP)
		return arrive_udp(skb, ethernet, ip, end, set);
	if (ip->protocol == IPPROTO_TCP)
		return arrive_tcp(skb, ethernet, ip, end);
	return TC_ACT_OK;
}

SEC("xdp")
int collect(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = ipv4((void *)(long)ctx->data, end);
	__u32 only = 0;
	const struct settings *set = bpf_map_lookup_elem(&settings, &only);

	if (!ip || !set || (ip->daddr & set->clients_mask) != set->clients)
		return XDP_PASS;
	if (ip->protocol != IPPROTO_UDP && ip->protocol != IPPROTO_TCP)
		return XDP_PASS;
	return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
}

/* bpf_redirect and the like are for any licence; the kernel wants one named. */
char _license[] SEC("license") = "Apache-2.0";
