/* Counts packets and octets of each flow, by what can be read without a key. Written by wesper.
 *
@PROTOCOLS@
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define U8(p) ((__u64)(p)[0])
#define U16(p) ((__u64)(p)[0] << 8 | (p)[1])
#define U32(p) (U16(p) << 16 | U16((p) + 2))
#define U64(p) (U32(p) << 32 | U32((p) + 4))

struct flow {
	__u32 protocol;
	__u32 spi;
	__u64 name;
};

struct seen {
	__u64 packets;
	__u64 octets;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow);
	__type(value, struct seen);
} wesper_flows SEC(".maps");

static __always_inline int count(__u32 protocol, __u32 spi, __u64 name, __u64 octets)
{
	struct flow flow = { protocol, spi, name };
	struct seen *seen = bpf_map_lookup_elem(&wesper_flows, &flow);

	if (seen) {
		seen->packets += 1;
		seen->octets += octets;
	} else {
		struct seen first = { 1, octets };

		bpf_map_update_elem(&wesper_flows, &flow, &first, BPF_ANY);
	}
	return XDP_PASS;
}

SEC("xdp")
int wesper_count(struct xdp_md *context)
{
	const __u8 *begin = (const __u8 *)(long)context->data;
	const __u8 *end = (const __u8 *)(long)context->data_end;
	const __u8 *at = begin + 14;
	__u64 ethertype;

	if (at > end)
		return XDP_PASS;
	ethertype = U16(begin + 12);
@BLOCKS@

	return XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
