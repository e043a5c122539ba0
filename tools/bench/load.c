/* A load generator for 9P servers: one thread, any number of connections, each with a
 * fixed number of operations outstanding.
 *
 *   load PORT DIALECT ANAME FILE OP DEPTH CONNECTIONS SECONDS
 *
 * DIALECT is 9P2000 or 9P2000.L.  OP is one of
 *   read   Tread of 512 bytes at offset 0 of FILE, which is open
 *   stat   Tstat, or Tgetattr of the basic mask
 *   walk   Twalk from the root to FILE, and Tclunk: two messages, one operation
 *   idle   nothing: connects, attaches and waits until stdin ends
 *
 * Prints operations per second, and how much of a core this program used: as long as
 * that is below 1, the server is what was measured.  A reply that is an error ends the
 * program with 1 and the reply's text.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
	Rlerror = 7, Tlopen = 12, Tgetattr = 24, Tversion = 100, Tattach = 104, Rerror = 107,
	Twalk = 110, Topen = 112, Tread = 116, Tclunk = 120, Tstat = 124,
	MSIZE = 65536, COUNT = 512, MAXDEPTH = 1024, ROOT = 0, OPENED = 1, FREE = 2,
};

struct buffer {
	uint8_t *at, data[256];
};

struct connection {
	int fd;
	size_t have;               /* bytes in `in` of a reply that is not complete */
	uint8_t in[2 * MSIZE];
};

static int dotl;                   /* the dialect is 9P2000.L */
static const char *op;

static void fail(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* little-endian numbers and strings of a message that `begin` started */
static void put(struct buffer *b, int bytes, uint64_t value)
{
	for (; bytes > 0; bytes--, value >>= 8)
		*b->at++ = value & 0xff;
}

static void puts_(struct buffer *b, const char *s)
{
	size_t n = strlen(s);

	if (n > sizeof b->data - 64) {
		fprintf(stderr, "load: name too long\n");
		exit(2);
	}
	put(b, 2, n);
	memcpy(b->at, s, n);
	b->at += n;
}

static void begin(struct buffer *b, int type, int tag)
{
	b->at = b->data + 4;
	put(b, 1, type);
	put(b, 2, tag);
}

static size_t end(struct buffer *b)
{
	size_t n = b->at - b->data;

	b->at = b->data;
	put(b, 4, n);
	return n;
}

static void send_all(int fd, const uint8_t *data, size_t n)
{
	while (n > 0) {
		ssize_t sent = write(fd, data, n);

		if (sent < 0) {
			if (errno == EAGAIN || errno == EINTR)
				continue;
			fail("write");
		}
		data += sent;
		n -= sent;
	}
}

static uint32_t size_at(const uint8_t *p)
{
	return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static void check(const uint8_t *frame)
{
	if (frame[4] == Rlerror) {
		fprintf(stderr, "load: error %u\n", size_at(frame + 7));
		exit(1);
	}
	if (frame[4] == Rerror) {
		fprintf(stderr, "load: %.*s\n", frame[7] | frame[8] << 8, frame + 9);
		exit(1);
	}
}

/* send one message and wait for its reply: only to set a connection up */
static void ask(struct connection *c, struct buffer *b)
{
	size_t have = 0;

	send_all(c->fd, b->data, end(b));
	while (have < 4 || have < size_at(c->in)) {
		ssize_t n = read(c->fd, c->in + have, sizeof c->in - have);

		if (n <= 0)
			fail(n == 0 ? "connection closed" : "read");
		have += n;
	}
	check(c->in);
}

static void set_up(struct connection *c, int port, const char *aname, const char *file)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct buffer b;
	int on = 1;

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	c->fd = socket(AF_INET, SOCK_STREAM, 0);
	if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0)
		fail("connect");
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	c->have = 0;
	begin(&b, Tversion, 0xffff);
	put(&b, 4, MSIZE);
	puts_(&b, dotl ? "9P2000.L" : "9P2000");
	ask(c, &b);
	begin(&b, Tattach, 0);
	put(&b, 4, ROOT);
	put(&b, 4, 0xffffffff);
	puts_(&b, "root");
	puts_(&b, aname);
	if (dotl)
		put(&b, 4, 0);             /* n_uname */
	ask(c, &b);
	begin(&b, Twalk, 0);
	put(&b, 4, ROOT);
	put(&b, 4, OPENED);
	put(&b, 2, 1);
	puts_(&b, file);
	ask(c, &b);
	begin(&b, dotl ? Tlopen : Topen, 0);
	put(&b, 4, OPENED);
	put(&b, dotl ? 4 : 1, 0);
	ask(c, &b);
}

struct message {
	uint8_t data[256];
	size_t size;
};

/* of each slot; `second` is sent when the reply to `first` has come */
static struct message first[MAXDEPTH], second[MAXDEPTH];

static void finish(struct buffer *b, struct message *to)
{
	to->size = end(b);
	memcpy(to->data, b->data, to->size);
}

/* the messages of one operation with the tags and fid of slot i: the last has an even tag */
static void operation(int i, const char *file)
{
	struct buffer b;

	if (strcmp(op, "read") == 0) {
		begin(&b, Tread, 2 * i);
		put(&b, 4, OPENED);
		put(&b, 8, 0);
		put(&b, 4, COUNT);
		finish(&b, &first[i]);
		return;
	}
	if (strcmp(op, "stat") == 0) {
		begin(&b, dotl ? Tgetattr : Tstat, 2 * i);
		put(&b, 4, OPENED);
		if (dotl)
			put(&b, 8, 0x7ff);
		finish(&b, &first[i]);
		return;
	}
	begin(&b, Twalk, 2 * i + 1);
	put(&b, 4, ROOT);
	put(&b, 4, FREE + i);
	put(&b, 2, 1);
	puts_(&b, file);
	finish(&b, &first[i]);
	begin(&b, Tclunk, 2 * i);
	put(&b, 4, FREE + i);
	finish(&b, &second[i]);
}

/* read what there is, and follow every reply by what comes next in its slot: the second
 * message, or when the operation is over and we are `sending` the next operation;
 * returns how many were over */
static long turn(struct connection *c, int sending)
{
	static uint8_t out[MAXDEPTH * sizeof first->data];
	size_t at = 0, n_out = 0, size;
	ssize_t n = read(c->fd, c->in + c->have, sizeof c->in - c->have);
	long done = 0;

	if (n <= 0)
		fail(n == 0 ? "connection closed" : "read");
	c->have += n;
	while (c->have - at >= 7 && c->have - at >= (size = size_at(c->in + at))) {
		int tag = c->in[at + 5] | c->in[at + 6] << 8;
		const struct message *next = tag % 2 ? &second[tag / 2] : &first[tag / 2];

		check(c->in + at);
		at += size;
		done += tag % 2 == 0;
		if (tag % 2 || sending) {
			memcpy(out + n_out, next->data, next->size);
			n_out += next->size;
		}
	}
	memmove(c->in, c->in + at, c->have - at);
	c->have -= at;
	send_all(c->fd, out, n_out);
	return done;
}

int main(int argc, char **argv)
{
	struct epoll_event ready[64];
	struct connection *connections;
	struct rusage usage;
	int port, depth, count, i, k, n, epoll = epoll_create1(0);
	long done = 0, outstanding;
	double seconds, began, stop, ended;

	if (argc != 9) {
		fprintf(stderr, "usage: load PORT DIALECT ANAME FILE OP DEPTH CONNECTIONS SECONDS\n");
		return 2;
	}
	port = atoi(argv[1]);
	dotl = strcmp(argv[2], "9P2000.L") == 0;
	op = argv[5];
	depth = atoi(argv[6]);
	count = atoi(argv[7]);
	seconds = atof(argv[8]);
	if (depth < 1 || depth > MAXDEPTH || count < 1) {
		fprintf(stderr, "load: DEPTH is 1..%d, CONNECTIONS at least 1\n", MAXDEPTH);
		return 2;
	}
	connections = calloc(count, sizeof *connections);
	for (i = 0; i < count; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.ptr = &connections[i] };

		set_up(&connections[i], port, argv[3], argv[4]);
		epoll_ctl(epoll, EPOLL_CTL_ADD, connections[i].fd, &event);
	}
	if (strcmp(op, "idle") == 0) {
		puts("ready");
		fflush(stdout);
		while (getchar() != EOF)
			;
		return 0;
	}
	for (k = 0; k < depth; k++)
		operation(k, argv[4]);
	began = now();
	stop = began + seconds;
	for (i = 0; i < count; i++)
		for (k = 0; k < depth; k++)
			send_all(connections[i].fd, first[k].data, first[k].size);
	outstanding = (long)count * depth;
	while (now() < stop) {
		n = epoll_wait(epoll, ready, 64, 100);
		for (i = 0; i < n; i++)
			done += turn(ready[i].data.ptr, 1);
	}
	ended = now();
	while (outstanding > 0) {          /* so that the server ends it as it began */
		n = epoll_wait(epoll, ready, 64, 1000);
		if (n <= 0)
			break;
		for (i = 0; i < n; i++)
			outstanding -= turn(ready[i].data.ptr, 0);
	}
	getrusage(RUSAGE_SELF, &usage);
	printf("%.1f %.2f\n", done / (ended - began),
	       (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
	        (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6) / (ended - began));
	return 0;
}
