// SPDX-License-Identifier: Apache-2.0
/*
 * What the program knows and counts: its maps, and how keys and values are laid out in them.
 *
 * Sizes, keys and the order of reasons are mirrored in entries.rs, steering.rs and counters.rs; tests compare them.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#define MAX_DEVICES 16
#define MAX_QUEUES 64
#define MAX_WORKERS 256
#define MAX_VIP_PREFIXES 65536
#define MAX_ENDPOINTS 262144
#define MAX_OWN_ADDRESSES 4096
#define MAX_LISTENERS 1024
#define MAX_SERVED_SOCKETS 65536

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
