/*
 * DPDK's rte_hash, measured on demand: lock-free reads, bulk lookups, both directions of a
 * connection as two entries, as vrouter-perf does with the other maps.
 *
 *   rte_hash PAGES MEMORY_MIB CPUS CHURN_CPU CONNECTIONS LOAD_PERCENT LOOKUPS PAIRS
 *
 * PAGES is huge or small; CPUS are those that the measuring thread may run on, such as 1 or 0,1.
 * The table gets CONNECTIONS, and after them as many more as it takes until LOAD_PERCENT of the
 * slots in its buckets are taken: their number is always a power of two.
 *
 * It says READY and the bytes of memory for each entry. Then each line that it reads is a round:
 *   hit, miss        answered with nanoseconds a lookup
 *   insert           nanoseconds a connection of PAIRS; they are removed again, apart from the time
 *   churn MS RATE    hits for that time, while another thread inserts and removes RATE connections
 *                    a second: nanoseconds a lookup (the median), and connections a second
 * The end of its input is its end. What goes wrong is said on stderr, with exit status 1.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_eal.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_malloc.h>
#include <rte_rcu_qsbr.h>

enum {
	BURST = RTE_HASH_LOOKUP_BULK_MAX, /* 64, as the others' */
	SLOTS_PER_BUCKET = 8,
	CHURN_PAIRS = 500, /* inserted, and removed again, together */
	RUNS_MAX = 4096,
	FIRST_FILLER = 0x40000000, /* connections that nobody looks up */
};

/* An IPv4 5-tuple in its VRF. */
struct key {
	uint32_t source, destination;
	uint16_t source_port, destination_port, vrf;
	uint8_t protocol, family;
};
_Static_assert(sizeof(struct key) == 16, "a key is two words");

static struct rte_hash *table;
static struct rte_rcu_qsbr *readers;
static struct key *packets;
static uint32_t lookups, connections, pairs;
static int churn_cpu;
static atomic_bool churn_is_over;

static void fail(const char *what)
{
	fprintf(stderr, "rte_hash: %s\n", what);
	exit(1);
}

static double now_ns(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

/* The same connections as the other tables': numbers are spread by a multiplication. */
static struct key key_of(uint32_t index)
{
	uint32_t spread = index * 0x9e3779b1u;
	return (struct key){
		.source = 0x0a010000u | spread >> 16,
		.source_port = (uint16_t)spread,
		.destination = 0x0ac80001u,
		.destination_port = 53,
		.vrf = 1,
		.protocol = 17,
		.family = 4,
	};
}

static struct key reversed(struct key key)
{
	return (struct key){
		.source = key.destination,
		.source_port = key.destination_port,
		.destination = key.source,
		.destination_port = key.source_port,
		.vrf = key.vrf,
		.protocol = key.protocol,
		.family = key.family,
	};
}

/* What a key leads to: an action of the connection's, by number. */
static int enter_pair(uint32_t index)
{
	struct key forward = key_of(index), reply = reversed(forward);
	void *action = (void *)(uintptr_t)(index + 1);
	int entered = rte_hash_add_key_data(table, &forward, action);
	return entered != 0 ? entered : rte_hash_add_key_data(table, &reply, action);
}

static void insert_pair(uint32_t index)
{
	if (enter_pair(index) != 0)
		fail("the table took no more");
}

/* The same beside a reader that may have lost its CPU: what was removed is not free before that
 * one has moved on. Entering a key twice is entering it once. */
static void insert_pair_patiently(uint32_t index)
{
	while (enter_pair(index) != 0)
		sched_yield();
}

static void remove_pair(uint32_t index)
{
	struct key forward = key_of(index), reply = reversed(forward);
	if (rte_hash_del_key(table, &forward) < 0 || rte_hash_del_key(table, &reply) < 0)
		fail("an entry was not there to be removed");
}

/* Packets in random order, of `count` connections from `first` on, in either direction. */
static void make_packets(uint32_t first, uint32_t count)
{
	uint64_t state = UINT64_C(88172645463325252);
	for (uint32_t i = 0; i < lookups; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		struct key key = key_of(first + (uint32_t)(state % count));
		packets[i] = state >> 63 == 0 ? key : reversed(key);
	}
}

static double look_up(uint32_t expected)
{
	uint32_t hits = 0;
	const void *keys[BURST];
	void *actions[BURST];
	double start = now_ns();
	for (uint32_t i = 0; i < lookups; i += BURST) {
		uint64_t mask = 0;
		for (int j = 0; j < BURST; j++)
			keys[j] = &packets[i + (uint32_t)j];
		if (rte_hash_lookup_bulk_data(table, keys, BURST, &mask, actions) < 0)
			fail("a bulk lookup was refused");
		hits += (uint32_t)__builtin_popcountll(mask);
		__asm__ volatile("" : : "r"(actions) : "memory");
		rte_rcu_qsbr_quiescent(readers, 0);
	}
	double took = (now_ns() - start) / lookups;
	if (hits != expected)
		fail("a lookup did not find what it should, or found what it should not");
	return took;
}

static double insert(void)
{
	static uint32_t next;
	uint32_t first = connections + next;
	next = (next + pairs) & 0xffffff;
	double start = now_ns();
	for (uint32_t i = 0; i < pairs; i++) {
		insert_pair(first + i);
		/* This thread reads, too: nothing that was removed is used again until it says so. */
		if (i % BURST == 0)
			rte_rcu_qsbr_quiescent(readers, 0);
	}
	double took = (now_ns() - start) / pairs;
	for (uint32_t i = 0; i < pairs; i++) {
		remove_pair(first + i);
		if (i % BURST == 0)
			rte_rcu_qsbr_quiescent(readers, 0);
	}
	return took;
}

static void pin(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof set, &set) != 0)
		fail("the churning thread could not be pinned");
}

/* Inserts and removes at its rate until it is over; returns how many connections. */
static void *churn(void *rate)
{
	double period_ns = 1e9 * CHURN_PAIRS / *(double *)rate, due = now_ns();
	uintptr_t count = 0;
	pin(churn_cpu);
	while (!churn_is_over) {
		uint32_t first = connections + (uint32_t)(count & 0xffffff);
		for (uint32_t i = 0; i < CHURN_PAIRS; i++)
			insert_pair_patiently(first + i);
		for (uint32_t i = 0; i < CHURN_PAIRS; i++)
			remove_pair(first + i);
		count += CHURN_PAIRS;
		for (due += period_ns; now_ns() < due && !churn_is_over;)
			__builtin_ia32_pause();
	}
	return (void *)count;
}

static int ascending(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;
	return (left > right) - (left < right);
}

static void look_up_under_churn(double time_ms, double rate)
{
	static double runs[RUNS_MAX];
	int count = 0;
	pthread_t thread;
	void *churned;
	churn_is_over = false;
	double start = now_ns();
	if (pthread_create(&thread, NULL, churn, &rate) != 0)
		fail("the churning thread could not be started");
	do
		runs[count++] = look_up(lookups);
	while (now_ns() - start < time_ms * 1e6 && count < RUNS_MAX);
	churn_is_over = true;
	/* Or else the other thread, should it wait for this one to move on, waits forever. */
	rte_rcu_qsbr_thread_offline(readers, 0);
	pthread_join(thread, &churned);
	rte_rcu_qsbr_thread_online(readers, 0);
	double seconds = (now_ns() - start) / 1e9;
	qsort(runs, (size_t)count, sizeof runs[0], ascending);
	double median = (runs[(count - 1) / 2] + runs[count / 2]) / 2;
	printf("%.3f %.0f\n", median, (double)(uintptr_t)churned / seconds);
}

static size_t heap_bytes(void)
{
	size_t bytes = 0;
	for (int socket = 0; socket < RTE_MAX_NUMA_NODES; socket++) {
		struct rte_malloc_socket_stats stats;
		if (rte_malloc_get_socket_stats(socket, &stats) == 0)
			bytes += stats.heap_allocsz_bytes;
	}
	return bytes;
}

static void start_dpdk(const char *program, const char *pages, const char *mib, const char *cpus)
{
	char lcores[256];
	snprintf(lcores, sizeof lcores, "0@(%s)", cpus);
	/* On huge pages DPDK takes memory as it needs it, else all of it at once. */
	const char *small[] = { "--no-huge", "--no-shconf", "-m", mib };
	const char *shared[] = {
		program, "--no-pci", "--no-telemetry", "--log-level=error", "--lcores", lcores,
	};
	char *argv[16];
	int argc = 0;
	for (size_t i = 0; i < RTE_DIM(shared); i++)
		argv[argc++] = strdup(shared[i]);
	if (strcmp(pages, "huge") == 0)
		argv[argc++] = strdup("--in-memory");
	else
		for (size_t i = 0; i < RTE_DIM(small); i++)
			argv[argc++] = strdup(small[i]);
	argv[argc] = NULL;
	if (rte_eal_init(argc, argv) < 0)
		fail("DPDK did not start");
}

/* Makes and fills the table; returns its bytes for each entry. */
static double make_table(uint32_t load_percent)
{
	uint32_t entries = rte_align32pow2(connections * 2);
	while ((uint64_t)entries * load_percent < (uint64_t)connections * 200)
		entries *= 2;
	size_t before = heap_bytes();
	struct rte_hash_parameters parameters = {
		.name = "flows",
		.entries = entries,
		.key_len = sizeof(struct key),
		.hash_func = rte_hash_crc, /* Its own choice on x86. */
		.extra_flag = RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF,
	};
	table = rte_hash_create(&parameters);
	readers = rte_zmalloc(NULL, rte_rcu_qsbr_get_memsize(1), RTE_CACHE_LINE_SIZE);
	if (table == NULL || readers == NULL)
		fail("there is no memory for the table");
	struct rte_hash_rcu_config rcu = { .v = readers, .mode = RTE_HASH_QSBR_MODE_DQ };
	if (rte_rcu_qsbr_init(readers, 1) != 0 ||
	    rte_rcu_qsbr_thread_register(readers, 0) != 0 ||
	    rte_hash_rcu_qsbr_add(table, &rcu) != 0)
		fail("the table takes no readers");
	for (uint32_t i = 0; i < connections; i++)
		insert_pair(i);
	uint32_t filled = connections;
	uint32_t wanted = (uint32_t)((uint64_t)entries * load_percent / 200);
	for (; filled < wanted; filled++)
		insert_pair(FIRST_FILLER + filled);
	rte_rcu_qsbr_thread_online(readers, 0);
	return (double)(heap_bytes() - before) / (2.0 * filled);
}

int main(int argc, char **argv)
{
	if (argc != 9)
		fail("it takes eight arguments; see the top of rte_hash.c");
	connections = (uint32_t)strtoul(argv[5], NULL, 10);
	lookups = (uint32_t)strtoul(argv[7], NULL, 10) / BURST * BURST;
	pairs = (uint32_t)strtoul(argv[8], NULL, 10);
	churn_cpu = atoi(argv[4]);
	packets = calloc(lookups, sizeof *packets);
	if (connections == 0 || connections > 1u << 24 || lookups == 0 || packets == NULL)
		fail("there are no connections, too many of them, or no lookups");
	start_dpdk(argv[0], argv[1], argv[2], argv[3]);
	double bytes = make_table((uint32_t)strtoul(argv[6], NULL, 10));
	make_packets(0, connections);
	printf("READY %.1f\n", bytes);
	fflush(stdout);

	char line[128];
	bool misses = false;
	while (fgets(line, sizeof line, stdin) != NULL) {
		double time_ms, rate;
		bool wants_misses = strncmp(line, "miss", 4) == 0;
		if (wants_misses != misses)
			make_packets(wants_misses ? connections : 0, connections);
		misses = wants_misses;
		if (misses || strncmp(line, "hit", 3) == 0)
			printf("%.3f\n", look_up(misses ? 0 : lookups));
		else if (strncmp(line, "insert", 6) == 0)
			printf("%.3f\n", insert());
		else if (sscanf(line, "churn %lf %lf", &time_ms, &rate) == 2 && rate > 0)
			look_up_under_churn(time_ms, rate);
		else
			fail("it does not know that kind of round");
		fflush(stdout);
	}
	return 0;
}
