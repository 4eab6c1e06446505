/* unit/test_wire.c - packets on a socket, and the end of a connection. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire/wire.h"
#include "lib_check.h"

static int pair[2];

static void setup(void)
{
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
}

static void teardown(void)
{
	close(pair[0]);
	close(pair[1]);
}

static void send_hello(int sock, const int *fds, int fd_count)
{
	struct tierfs_msg msg = { .type = TIERFS_MSG_HELLO, .seq = 3, .u.hello.abi_version = TIERFS_ABI_VERSION };

	ck_assert_int_eq(wire_send(sock, &msg, fds, fd_count), 0);
}

static void send_refusal(int sock)
{
	struct tierfs_msg msg = { .type = TIERFS_MSG_ERROR, .u.error.code = EUSERS };

	strcpy(msg.u.error.text, "no place");
	ck_assert_int_eq(wire_send(sock, &msg, NULL, 0), 0);
}

START_TEST(a_packet_arrives_with_its_descriptors)
{
	struct wire_packet packet;
	int fds[2] = { pair[0], pair[1] };

	send_hello(pair[0], fds, 2);
	ck_assert_int_eq(wire_recv(pair[1], &packet), 0);
	ck_assert_uint_eq(packet.msg.type, TIERFS_MSG_HELLO);
	ck_assert_uint_eq(packet.msg.seq, 3);
	ck_assert_int_eq(packet.fd_count, 2);
	ck_assert_int_eq(fcntl(packet.fds[1], F_GETFD), FD_CLOEXEC);
	wire_close_fds(&packet);
	ck_assert_int_eq(wire_recv(pair[1], &packet), -EAGAIN);
}
END_TEST

START_TEST(a_packet_of_the_wrong_length_breaks_the_rules)
{
	struct tierfs_msg msg = { .magic = TIERFS_MSG_MAGIC, .type = TIERFS_MSG_HELLO };
	struct wire_packet packet;

	ck_assert_int_gt(send(pair[0], &msg, wire_length(TIERFS_MSG_HELLO, 0) - 1, 0), 0);
	ck_assert_int_eq(wire_recv(pair[1], &packet), -EPROTO);
}
END_TEST

/* Who speaks at once is refused while its own words lie in the socket unread. */
START_TEST(who_is_refused_reads_why)
{
	struct wire_packet packet;
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	ck_assert_int_ge(null, 0);
	send_hello(pair[0], &null, 1);
	close(null);
	send_refusal(pair[1]);
	wire_hang_up(pair[1]);
	close(pair[1]);
	pair[1] = -1;
	ck_assert_int_eq(wire_recv(pair[0], &packet), 0);
	ck_assert_uint_eq(packet.msg.type, TIERFS_MSG_ERROR);
	ck_assert_str_eq(packet.msg.u.error.text, "no place");
	ck_assert_int_eq(wire_recv(pair[0], &packet), -ECONNRESET);
}
END_TEST

START_TEST(nothing_can_be_said_after_a_hang_up)
{
	struct tierfs_msg msg = { .type = TIERFS_MSG_HELLO };
	struct wire_packet packet;

	send_refusal(pair[1]);
	wire_hang_up(pair[1]);
	ck_assert_int_eq(wire_send(pair[0], &msg, NULL, 0), -EPIPE);
	ck_assert_int_eq(wire_recv(pair[0], &packet), 0);
	ck_assert_uint_eq(packet.msg.u.error.code, EUSERS);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("wire");
	TCase *tcase = tcase_create("wire");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, a_packet_arrives_with_its_descriptors);
	tcase_add_test(tcase, a_packet_of_the_wrong_length_breaks_the_rules);
	tcase_add_test(tcase, who_is_refused_reads_why);
	tcase_add_test(tcase, nothing_can_be_said_after_a_hang_up);
	suite_add_tcase(suite, tcase);
	return check_run(suite);
}
